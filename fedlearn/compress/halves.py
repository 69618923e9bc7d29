"""Head and tail of a cut model: proven equal to the whole, and measured beside it."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.clients.batches import tensors
from fedlearn.compress.cutting import HEAD_FILE, TAIL_FILE, cut, places_after, write
from fedlearn.compress.making import Bench
from fedlearn.compress.measuring import (
    accuracy,
    caller,
    cpu_microseconds,
    scores,
)
from fedlearn.errors import RunError
from fedlearn.export.extras import required
from fedlearn.export.onnx import graph_of
from fedlearn.export.session import session
from fedlearn.runs.trained import Trained

# Scores may differ by so much: in another graph, sums may be in another order.
SAME = 1e-4


def check_layer(trained: Trained, layer: str) -> None:
    """Raise ConfigError for a layer after which a model cannot be cut, having no such one."""
    onnx = required("onnx", "compress", "cutting")
    model = onnx.load_from_string(graph_of(trained).graph)
    places_after(list(model.graph.node), layer)


def cut_in_two(bench: Bench, path: Path, layer: str, folder: Path) -> dict[str, Any]:
    """Write head and tail of an ONNX file into a folder, and return their facts.

    Both together must give the file's scores on the whole test set, or it is a RunError.
    """
    parts = cut(path, layer, bench.sample())
    write(parts, folder)
    uncut = session(path)
    head = session(folder / HEAD_FILE)
    tail = session(folder / TAIL_FILE)
    largest = 0.0

    def both(x: torch.Tensor) -> NDArray[np.float32]:
        nonlocal largest
        joined = scores(tail, torch.from_numpy(scores(head, x)))
        difference = np.abs(joined - scores(uncut, x)).max(initial=0.0)
        largest = max(largest, float(difference))
        return joined

    population = bench.original.population
    share = accuracy(both, tensors(population.test, population.modality))
    if not largest <= SAME:
        raise RunError(
            f"head and tail of a cut after '{layer}' give other scores than the whole: "
            f"{largest:.2g} apart"
        )
    sample = bench.sample()
    between = torch.from_numpy(scores(head, sample))
    calls = {
        "whole": caller(uncut, sample),
        "head": caller(head, sample),
        "tail": caller(tail, between),
    }
    turns = cpu_microseconds(calls)
    return {
        "layer": layer,
        "model": path.parent.name,
        "accuracy": share,
        "largest_difference": largest,
        "crossing": parts.crossing,
        "crossing_shape": list(parts.crossing_shape),
        "crossing_bytes": parts.crossing_bytes,
        "head_bytes": (folder / HEAD_FILE).stat().st_size,
        "tail_bytes": (folder / TAIL_FILE).stat().st_size,
        **{f"{name}_cpu_us": median(times) for name, times in turns.items()},
    }
