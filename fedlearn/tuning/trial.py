"""One trial: an ordinary run in a folder of its own, watched.

It is stopped where going on would show nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlearn.config import Experiment
from fedlearn.errors import FedlearnError, RecordError, RunError, UserError, one_line
from fedlearn.records.line import Line
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.callbacks import Callback, Weights
from fedlearn.runs.simulation import simulate
from fedlearn.tuning.objectives import trial_curve
from fedlearn.tuning.pruning import RULES, PastTrial


@dataclass(frozen=True)
class TrialJob:
    """What a trial needs.

    target: accuracy at which it may stop, None: never. prune: a name of `RULES`. past:
    the trials that had ended when this one began.
    """

    experiment: Experiment
    folder: Path
    target: float | None
    prune: str
    past: tuple[PastTrial, ...]


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended.

    state: "complete", also when it stopped at its target; "pruned"; "failed"; "wrong"
    when its input is (a UserError); "stopped" when the disk or the system is at fault,
    which is the end of the search and not of the trial.
    """

    state: str
    reason: str = ""


class _TargetReached(Exception):
    """The target is reached."""


class _Behind(Exception):
    """The pruning rule gives the trial up; the text says why."""


class _Watch(Callback):
    """Looks at each round's line, and ends the run by an exception.

    The folder is then that of a run stopped by Ctrl-C: the trial can go on as a run. A run
    that a callback ends by its answer would be finished.
    """

    def __init__(self, job: TrialJob) -> None:
        self._job = job
        self._lines: list[Line] = []

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Look at the lines of a trial that goes on: its reason to stop may be there."""
        for line in facts["lines"]:
            self._look(line)

    def after_round(self, line: Line, weights: Weights) -> None:
        """Look at a round's line."""
        self._look(line)

    def _look(self, line: Line) -> None:
        """Raise what ends the run, if anything does."""
        self._lines.append(line)
        number = line["round"]
        rounds = self._job.experiment.experiment.rounds
        # The last round ends it anyway.
        if line["accuracy"] is None or number >= rounds:
            return
        loss = line["loss"]
        # Read from JSON, a loss that is not finite is None.
        if loss is None or not math.isfinite(loss):
            raise RunError(f"diverged: the loss is not finite at round {number}")
        curve = trial_curve(self._lines)
        # This round was evaluated, so that it is the last point.
        _, best = curve[-1]
        if self._job.target is not None and best >= self._job.target:
            raise _TargetReached
        rule = RULES[self._job.prune]
        if reason := rule(curve, self._job.past, rounds):
            raise _Behind(reason)


def run(job: TrialJob) -> TrialOutcome:
    """Run a trial, or go on with one that was interrupted.

    Whatever goes wrong is an outcome; only Ctrl-C is raised.
    """
    try:
        folder = RunFolder(job.folder)
        # A trial that a kill interrupted goes on from its last checkpoint.
        try:
            simulate(
                job.experiment,
                folder,
                Progress(quiet=True),
                resume=folder.used,
                callbacks=[_Watch(job)],
            )
        finally:
            folder.close()
    except _TargetReached:
        return TrialOutcome("complete")
    except _Behind as reason:
        return TrialOutcome("pruned", str(reason))
    except UserError as error:
        return TrialOutcome("wrong", one_line(error))
    # A full disk fails every trial after this one.
    except RecordError as error:
        return TrialOutcome("stopped", one_line(error))
    except OSError as error:
        place = error.filename or "the system"
        return TrialOutcome("stopped", f"'{place}': {error.strerror or error}")
    # Values such as a model's width may be at fault: another trial can fit.
    except MemoryError:
        return TrialOutcome("failed", "out of memory")
    except FedlearnError as error:
        return TrialOutcome("failed", one_line(error))
    except Exception as error:
        # Of a user's model, data or strategy, with values that it was never given before.
        kind = type(error).__name__
        return TrialOutcome("failed", f"{kind}: {one_line(error)}")
    return TrialOutcome("complete")
