"""Every cut of a trained model, measured: what head and tail take, and what crosses."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import torch

from fedlearn.clients.batches import tensors
from fedlearn.clients.placement.splitting import ALL_HERE, ALL_THERE, CutPoint
from fedlearn.compress.cutting import HEAD_FILE, TAIL_FILE, cut, layers, write
from fedlearn.compress.measuring import Call, caller, cpu_microseconds, scores
from fedlearn.errors import ConfigError, ModelError
from fedlearn.export import onnx as export
from fedlearn.export.extras import required
from fedlearn.export.session import session
from fedlearn.runs.trained import Trained


def measured_cuts(trained: Trained, slower: float) -> list[CutPoint]:
    """Return the points at which a model can be cut, and both ends.

    slower: how many times slower the device is than this machine, which is the centre.
    Raises ModelError where a graph cannot be made.
    """
    onnx = required("onnx", "compress", "cutting")
    exported = export.graph_of(trained)
    names = layers(list(onnx.load_from_string(exported.graph).graph.node))
    population = trained.population
    samples = tensors(population.test, population.modality)
    sample, _ = samples.batch(torch.arange(1))
    calls: dict[str, Call] = {}
    crossing_bytes = {}
    with tempfile.TemporaryDirectory(prefix="fedlearn-split-") as name:
        folder = Path(name)
        export.write(exported, folder)
        whole = folder / export.GRAPH_FILE
        calls[ALL_HERE] = caller(session(whole), sample)
        for layer in names:
            size_bytes = _add_cut(calls, whole, layer, sample, folder)
            if size_bytes:
                crossing_bytes[layer] = size_bytes
        turns = cpu_microseconds(calls)
    seconds = {name: 1e-6 * median(times) for name, times in turns.items()}
    whole_s = seconds[ALL_HERE]
    size_bytes = sample.numpy().nbytes
    points = [CutPoint(ALL_THERE, 0.0, whole_s, size_bytes)]
    for layer, crossing in crossing_bytes.items():
        head_s = slower * seconds[_head(layer)]
        points.append(CutPoint(layer, head_s, seconds[_tail(layer)], crossing))
    points.append(CutPoint(ALL_HERE, slower * whole_s, 0.0, 0))
    return points


def _add_cut(
    calls: dict[str, Call],
    whole: Path,
    layer: str,
    sample: torch.Tensor,
    folder: Path,
) -> int:
    """Add the calls of head and tail; returns the bytes that cross, 0: it is no cut."""
    try:
        parts = cut(whole, layer, sample)
    except (ConfigError, ModelError):
        # The last layer, or one beside which other tensors pass.
        return 0
    write(parts, folder / layer)
    head = session(folder / layer / HEAD_FILE)
    tail = session(folder / layer / TAIL_FILE)
    between = torch.from_numpy(scores(head, sample))
    calls[_head(layer)] = caller(head, sample)
    calls[_tail(layer)] = caller(tail, between)
    return parts.crossing_bytes


def _head(layer: str) -> str:
    return f"{layer} head"


def _tail(layer: str) -> str:
    return f"{layer} tail"
