"""A model as files of another runtime, and a function that runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedlearn.export.parity import BATCHES, Batches
from fedlearn.export.session import Scorer

# Of runtimes that plan their buffers when a model is lowered.
ONE_SAMPLE = "the file takes one sample at a time, of the training data's own shape"


@dataclass(frozen=True)
class Artefact:
    """Files in a folder, and how to score with them.

    label: in tables, for example "onnx int8". files: their names. exact: whether scores have
    to be torch's. batches: what it is compared on; a file of one batch size takes only that.
    notes: what its user should know, a sentence each.
    """

    label: str
    folder: Path
    files: tuple[str, ...]
    score: Scorer
    exact: bool = True
    batches: Batches = BATCHES
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Return the bytes of all files together."""
        return sum((self.folder / name).stat().st_size for name in self.files)
