"""Checkpoints: all that a run needs to go on after a kill, in one file per checkpoint.

A file is a safetensors file: the model's two vectors, the arrays that the strategy and the
clients remember, and the rest as JSON in its header, with a SHA-256 over everything. The
last two are kept: a damaged one is passed over.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedlearn.arrays import State
from fedlearn.records.names import CHECKPOINT_FOLDER
from fedlearn.records.writing import RunFolder
from fedlearn.system.failpoints import reach

# Checkpoints on disk: one damaged file must not end a run.
KEPT = 2

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


@dataclass(frozen=True)
class Checkpoint:
    """A run after a round: the model, and what strategy and clients remember.

    memory: as JSON has it; its arrays are in ``arrays``.
    """

    round: int
    model: State
    memory: dict[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


def write(folder: RunFolder, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and remove those before the last two. Raises RecordError."""
    tensors: Arrays = {
        "floats": checkpoint.model.floats,
        # Zero-length vectors too, so that every checkpoint has the same names.
        "integers": checkpoint.model.integers,
        **checkpoint.arrays,
    }
    text = json.dumps({"round": checkpoint.round, "memory": checkpoint.memory})
    # Over the text as well: a damaged round number is damage like any other.
    data = save(tensors, {"run": text, "sha256": _digest(tensors, text)})
    reach("coordinator.before-checkpoint")
    folder.write(f"{CHECKPOINT_FOLDER}/{checkpoint.round:08d}.safetensors", data)
    reach("coordinator.after-checkpoint")
    # After the new one is on disk: there are two whole ones at every moment.
    for old in _files(folder.path)[KEPT:]:
        old.unlink(missing_ok=True)


def whole(path: Path) -> list[Checkpoint]:
    """Return the checkpoints of a run folder that are whole, the newest first."""
    checkpoints = [_read(file) for file in _files(path)]
    return [checkpoint for checkpoint in checkpoints if checkpoint is not None]


def _read(file: Path) -> Checkpoint | None:
    """Return a file's checkpoint; None: it is damaged."""
    try:
        data = file.read_bytes()
        tensors = load(data)
        # A safetensors file begins with the length of its JSON header, 8 bytes.
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])["__metadata__"]
        run = json.loads(header["run"])
    except (OSError, SafetensorError, ValueError, KeyError, RecursionError):
        return None
    if header.get("sha256") != _digest(tensors, header["run"]):
        return None
    model = State(tensors.pop("floats"), tensors.pop("integers"))
    return Checkpoint(run["round"], model, run["memory"], tensors)


def _files(path: Path) -> list[Path]:
    """Return a run's checkpoint files, newest first."""
    return sorted((path / CHECKPOINT_FOLDER).glob("*.safetensors"), reverse=True)


def _digest(tensors: Arrays, text: str) -> str:
    """Return a SHA-256 over names, dtypes, shapes and bytes, and the header's text."""
    digest = hashlib.sha256(text.encode())
    # Sorted, as the order in a file is the library's.
    for name in sorted(tensors):
        array = tensors[name]
        # Shape and dtype too: the same bytes could stand for other numbers.
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
