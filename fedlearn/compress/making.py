"""One variant's folder: its weights, the config that they belong to, and what a device gets.

A folder is whole when `DONE_FILE` is there, which is written last. It reads like a run's:
`simulate`, `export` and `compress` take it, and `fedlearn.runs.trained.load`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save

from fedlearn.clients.batches import tensors
from fedlearn.compress.binary import BITS_FILE, packed_file
from fedlearn.compress.lowrank import cut_rank
from fedlearn.compress.pruning import prune
from fedlearn.compress.rounds import fine_tune
from fedlearn.compress.variants import ORIGINAL, Steps
from fedlearn.config import Experiment, to_toml
from fedlearn.export.int8 import (
    INT8_GRAPH_FILE,
    INT8_WEIGHTS_FILE,
    quantised,
    write_int8,
)
from fedlearn.export.onnx import GRAPH_FILE, WEIGHTS_FILE, graph_of, write
from fedlearn.export.parity import check, compare
from fedlearn.export.session import scorer
from fedlearn.models.binary import binary_names
from fedlearn.records.names import CONFIG_FILE, MODEL_FILE
from fedlearn.runs.trained import Trained, load, with_weights
from fedlearn.system import files

START_FILE = "start.safetensors"
TUNING_FOLDER = "tuning"
DONE_FILE = "variant.json"

# Inputs that layers are followed with: two, so that a batch axis is told from a layer's.
_PROBES = 2


@dataclass(frozen=True)
class Bench:
    """What all variants of one comparison share.

    tuning: the experiment of the fine-tuning; rounds: of it, 0: none. folder: below which
    each variant has its own. command: what goes on with an interrupted comparison. say:
    shows a line.
    """

    original: Trained
    tuning: Experiment
    rounds: int
    folder: Path
    quiet: bool
    command: str
    say: Callable[[str], None]

    def sample(self, count: int = 1) -> torch.Tensor:
        """Return the first test samples, (count, …), as a model takes them."""
        population = self.original.population
        return tensors(population.test, population.modality).x[:count].contiguous()


def make(bench: Bench, variant: Steps) -> Path:
    """Make a variant, unless it is there, and return its folder.

    Raises UserError for a step that the model does not allow, and what a run raises.
    """
    folder = bench.folder / variant.name
    if _is_whole(folder):
        return folder
    files.make_folder(folder)
    if variant.store == "int8":
        # It stores what is trained already.
        weights = load(str(make(bench, variant.trained)))
    elif variant == ORIGINAL:
        weights = bench.original
    else:
        weights = _trained(bench, variant, folder)
    _write(bench, folder, weights, variant)
    return folder


def shaped(bench: Bench, variant: Steps) -> torch.nn.Module:
    """Return the original in a variant's shapes, not yet trained again. Raises ModelError."""
    module = bench.original.module
    sample = bench.sample(_PROBES)
    if variant.prune:
        module = prune(module, sample, variant.prune)
    if variant.low_rank:
        module = cut_rank(module, sample, variant.low_rank)
    return module


def _trained(bench: Bench, variant: Steps, folder: Path) -> Trained:
    """Return a variant's model after its federated rounds."""
    start = (folder / START_FILE).absolute()
    if not start.exists():
        state = shaped(bench, variant).state_dict()
        named = {name: tensor.contiguous().clone() for name, tensor in state.items()}
        files.replace(start, save(named))
    is_binary = variant.store == "binary" or bench.tuning.model.binary
    section = bench.tuning.model.model_copy(
        update={"weights": str(start), "shapes": "weights", "binary": is_binary}
    )
    experiment = bench.tuning.model_copy(update={"model": section})
    if not bench.rounds:
        return with_weights(variant.name, experiment, str(start))
    tuning = folder / TUNING_FOLDER
    name = f"{bench.original.name}-{variant.name}"
    bench.say(f"{variant.name}: {bench.rounds} federated rounds")
    fine_tune(experiment, name, start, tuning, bench.quiet, bench.command)
    return load(str(tuning))


def _write(bench: Bench, folder: Path, trained: Trained, variant: Steps) -> None:
    """Write what a variant's folder holds; `DONE_FILE` last."""
    tensors_by_name = dict(trained.layout.split(trained.state))
    files.replace(folder / MODEL_FILE, save_arrays(tensors_by_name))
    # The file beside the config, wherever the folder is moved to.
    section = trained.experiment.model.model_copy(
        update={"weights": MODEL_FILE, "shapes": "weights"}
    )
    experiment = trained.experiment.model_copy(update={"model": section})
    files.replace(folder / CONFIG_FILE, to_toml(experiment).encode())
    exported = graph_of(trained)
    # Of the variants' forward it is the same sentence.
    if variant == ORIGINAL:
        for note in exported.notes:
            bench.say(f"note: {note}")
    write(exported, folder)
    # What is measured is the graph, so it has to be the model.
    parity = compare(trained, scorer(folder / GRAPH_FILE))
    check(parity, f"variant '{variant.name}'")
    if variant.store == "int8":
        write_int8(quantised(trained, exported), folder)
    if trained.experiment.model.binary:
        layers = binary_names(trained.module)
        packed = packed_file(trained.layout, trained.state, layers)
        files.replace(folder / BITS_FILE, packed)
    facts = {
        "name": variant.name,
        "parameters": trained.layout.trained,
        "model_sha256": trained.model_sha256,
        "files": _hashes(folder),
    }
    files.replace(folder / DONE_FILE, f"{json.dumps(facts)}\n".encode())


def _is_whole(folder: Path) -> bool:
    """Tell whether a variant was made, and its files are still those that were made."""
    try:
        facts = json.loads((folder / DONE_FILE).read_text())
        return bool(facts["files"] == _hashes(folder))
    # Not made, or by a version that noted no hashes.
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that a variant consists of, by its name."""
    parts = {folder / MODEL_FILE, folder / CONFIG_FILE, *device_files(folder)}
    return {path.name: files.sha256(path) for path in sorted(parts)}


def device_files(folder: Path) -> list[Path]:
    """Return the files of a variant's folder that a device gets: its graph and its weights."""
    if (folder / INT8_GRAPH_FILE).exists():
        return [folder / INT8_GRAPH_FILE, folder / INT8_WEIGHTS_FILE]
    weights = folder / BITS_FILE
    if not weights.exists():
        weights = folder / WEIGHTS_FILE
    return [folder / GRAPH_FILE, weights]


def running_file(folder: Path) -> Path:
    """Return the ONNX file of a variant's folder that runs: int8's, or the floats'."""
    int8 = folder / INT8_GRAPH_FILE
    return int8 if int8.exists() else folder / GRAPH_FILE
