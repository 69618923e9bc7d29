"""The best model of a run, kept beside the last one, and the end of a run that stands still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fedlearn.arrays import Layout, State, model_sha256
from fedlearn.errors import ConfigError
from fedlearn.records.line import Line
from fedlearn.records.names import BEST_FILE
from fedlearn.records.writing import RunFolder

# Names in a checkpoint.
_ROUND = "best.round"
_ACCURACY = "best.accuracy"
_FLOATS = "best.floats"
_INTEGERS = "best.integers"


class Best:
    """The model of the first round with the highest accuracy so far.

    It lies in the checkpoints: a run that goes on from one may have forgotten better rounds,
    and its best model goes back with it.
    """

    def __init__(self) -> None:
        """Begin without a model."""
        self.round = -1
        self.accuracy = -1.0
        self.model: State | None = None

    def see(self, line: Line, model: State) -> None:
        """Take a round's model, where its accuracy is above all before."""
        accuracy = line["accuracy"]
        if accuracy is None or accuracy <= self.accuracy:
            return
        self.round = line["round"]
        self.accuracy = accuracy
        # Copied, as the strategy may change its own in the next round.
        self.model = State(model.floats.copy(), model.integers.copy())

    def write(self, folder: RunFolder, layout: Layout) -> None:
        """Write the model into the run's folder. Raises RecordError."""
        if self.model is not None:
            folder.write(BEST_FILE, save(dict(layout.split(self.model))))

    def figures(self, layout: Layout) -> dict[str, Any]:
        """Return what the summary has of it."""
        if self.model is None:
            return {}
        sha256 = model_sha256(layout, self.model)
        return {
            "best": {
                "round": self.round,
                "accuracy": self.accuracy,
                "model_sha256": sha256,
            }
        }

    def sync(self) -> dict[str, NDArray[Any]]:
        """Return what a checkpoint holds of it."""
        if self.model is None:
            return {}
        return {
            _ROUND: np.array(self.round),
            _ACCURACY: np.array(self.accuracy),
            _FLOATS: self.model.floats,
            _INTEGERS: self.model.integers,
        }

    def checkpointed(self) -> None:
        """Note that the checkpoint is on disk, which changes nothing here."""

    def recall(
        self,
        saved: Mapping[str, NDArray[Any]] | None,
        older: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Go back to a checkpoint's; None: to no model at all."""
        if saved is None or _ROUND not in saved:
            self.round = -1
            self.accuracy = -1.0
            self.model = None
            return
        self.round = int(saved[_ROUND])
        self.accuracy = float(saved[_ACCURACY])
        self.model = State(saved[_FLOATS].copy(), saved[_INTEGERS].copy())


def stalled(patience: int, min_delta: float, lines: Sequence[Line]) -> int | None:
    """Return the round in which a run has stood still for long enough; None: it has not.

    patience: evaluations in a row without an accuracy more than ``min_delta`` above the best
    before; 0: never. The first model's evaluation counts as a first best.
    """
    if not patience:
        return None
    best = -1.0
    waits = 0
    for line in lines:
        accuracy = line["accuracy"]
        if accuracy is None:
            continue
        if accuracy > best + min_delta:
            best = accuracy
            waits = 0
            continue
        waits += 1
        if waits >= patience:
            return int(line["round"])
    return None


def check_patience(
    patience: int, min_delta: float, lines: Sequence[Line], done: int
) -> None:
    """Refuse a patience that ended before rounds that are done. Raises ConfigError."""
    end = stalled(patience, min_delta, lines)
    if end is not None and end < done:
        raise ConfigError(
            f"--resume: patience = {patience} ended in round {end}, and {done} rounds are "
            "done; leave experiment.patience as it was, or start anew"
        )
