"""One trial: an ordinary run in a folder of its own, watched, and stopped where going on would show nothing more."""

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
from fedlearn.runs.simulation import simulate
from fedlearn.tuning.objectives import curve
from fedlearn.tuning.pruning import RULES, Past


@dataclass(frozen=True)
class Job:
    """What a trial needs. target: accuracy at which it may stop, None = never; prune: a name of `RULES`."""

    experiment: Experiment
    folder: Path
    target: float | None
    prune: str
    past: tuple[Past, ...]


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    state: "complete", also when it stopped at its target; "pruned"; "failed"; "wrong" when its input is (a UserError); "stopped"
    when the disk or the system is at fault, which is the end of the search and not of the trial.
    """

    state: str
    reason: str = ""


class _Reached(Exception):
    """The target is reached."""


class _Behind(Exception):
    """The pruning rule gives the trial up; the text says why."""


class _Watch(Progress):
    """Looks at each round's line, and ends the run by an exception: the folder is then that of a run stopped by Ctrl-C."""

    def __init__(self, job: Job) -> None:
        super().__init__(quiet=True)
        self._job = job
        self._lines: list[Line] = []

    def start(self, facts: Mapping[str, Any]) -> None:
        """Look at the lines of a trial that goes on: what it was stopped for holds again."""
        for line in facts.get("lines", ()):
            self.round_done(line)

    def round_done(self, line: Line) -> None:
        """Raise what ends the run, if anything does. Its last round ends it anyway."""
        self._lines.append(line)
        round, rounds = line["round"], self._job.experiment.experiment.rounds
        if line["accuracy"] is None or round >= rounds:
            return
        if line["loss"] is None or not math.isfinite(
            line["loss"]
        ):  # as JSON, what is not finite is null
            raise RunError(f"diverged: the loss is not finite at round {round}")
        own = curve(self._lines)
        if self._job.target is not None and own[-1][1] >= self._job.target:
            raise _Reached
        if why := RULES[self._job.prune](own, self._job.past, rounds):
            raise _Behind(why)


def run(job: Job) -> Outcome:
    """Run a trial, or go on with one that was interrupted. Whatever goes wrong is an outcome; only Ctrl-C is raised."""
    try:
        folder = RunFolder(job.folder)
        try:
            simulate(job.experiment, folder, _Watch(job), resume=folder.used)
        finally:
            folder.close()
    except _Reached:
        return Outcome("complete")
    except _Behind as why:
        return Outcome("pruned", str(why))
    except UserError as error:
        return Outcome("wrong", one_line(error))
    except RecordError as error:
        return Outcome("stopped", one_line(error))
    except OSError as error:
        return Outcome(
            "stopped", f"'{error.filename or 'the system'}': {error.strerror or error}"
        )
    except MemoryError:
        return Outcome("failed", "out of memory")
    except FedlearnError as error:
        return Outcome("failed", one_line(error))
    except Exception as error:  # of a user's model, data or strategy with values that it was never given before
        return Outcome("failed", f"{type(error).__name__}: {one_line(error)}")
    return Outcome("complete")
