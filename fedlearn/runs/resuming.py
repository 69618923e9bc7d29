"""What a run that goes on must agree with: the checkpoint, and the lines written before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedlearn.arrays import Layout
from fedlearn.config import Experiment
from fedlearn.errors import ConfigError, RunError
from fedlearn.records.line import Line
from fedlearn.runs.checkpoint import Checkpoint


def reached(stop_at: float, lines: Sequence[Line]) -> int | None:
    """Return the first round with the accuracy that ends the run; None: not yet."""
    if not stop_at:
        return None
    for line in lines:
        if (line["accuracy"] or 0.0) >= stop_at:
            return int(line["round"])
    return None


def check_checkpoint(
    newest: Checkpoint, experiment: Experiment, layout: Layout, path: Path
) -> None:
    """Refuse a checkpoint that is not of this run. Raises ConfigError and RunError."""
    rounds = experiment.experiment.rounds
    if newest.round > rounds:
        raise ConfigError(
            f"--resume: {newest.round} rounds are done, more than "
            f"experiment.rounds = {rounds}; raise it or start anew"
        )
    # The config was edited, or the folder is another run's.
    sizes = (newest.model.floats.size, newest.model.integers.size)
    if sizes != (layout.floats, layout.integers):
        raise RunError(
            f"--resume: {path}/checkpoint is of another model than its "
            "config.toml; give the CONFIG that the run began with"
        )


def check_stop_at(stop_at: float, lines: Sequence[Line], done: int) -> None:
    """Refuse an accuracy that an earlier round had already. Raises ConfigError.

    Rounds after it would have been run in vain.
    """
    first = reached(stop_at, lines)
    if first is not None and first < done:
        raise ConfigError(
            f"--resume: accuracy {stop_at:g} was reached in round {first}, and "
            f"{done} rounds are done; leave experiment.stop_at as it was, "
            "or start anew"
        )
