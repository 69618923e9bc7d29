"""The search: which trials are run, in which order, and what is written after each batch.

Trials go in batches of ``jobs``. The values of a batch are decided before any of it runs and its results count when all of
it has ended, in the order of the trials' numbers. What is searched is therefore a function of the settings: neither speed nor a
kill changes it (with ``time`` among the objectives it is a function of the clock too).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fedlearn.config import Experiment
from fedlearn.errors import RecordError, UserError
from fedlearn.records.names import SUMMARY_FILE
from fedlearn.records.writing import RunFolder, read_lines
from fedlearn.tuning.objectives import curve, figures
from fedlearn.tuning.processes import outcomes
from fedlearn.tuning.pruning import Past
from fedlearn.tuning.record import Settings, Trial, folder_name, write_trials
from fedlearn.tuning.sampling import Told, propose
from fedlearn.tuning.space import Space, Values, grid, with_values
from fedlearn.tuning.trial import Job, Outcome


@dataclass
class Search:
    """A search in a folder. trials: those begun before, of a search that goes on; ``tell`` is called with each that ends."""

    folder: RunFolder
    settings: Settings
    base: Experiment
    space: Space
    trials: list[Trial] = field(default_factory=list)
    tell: Callable[[Trial], None] = lambda trial: None

    def go(self) -> None:
        """Run the trials that are left.

        Raises UserError when the input of a trial is wrong before any has succeeded: it is the config then, and not the values.
        Raises RecordError when the disk or the system ends the search.
        """
        points = grid(self.space) if self.settings.sampler == "grid" else None
        while batch := self._batch(points):
            write_trials(self.folder, self.trials)
            for trial in self._run(batch):
                self.trials[trial.number - 1] = trial
            write_trials(self.folder, self.trials)

    def _batch(self, points: list[Values] | None) -> list[Trial]:
        """Return the trials that are next: those that a kill interrupted, filled up to a whole batch."""
        begun, jobs = len(self.trials), self.settings.jobs
        interrupted = [trial for trial in self.trials if trial.state == "running"]
        room = -begun % jobs if interrupted or begun % jobs else jobs
        for number in range(begun + 1, min(begun + room, self.settings.trials) + 1):
            values, memory = (
                (points[number - 1], None) if points else self._propose(number)
            )
            self.trials.append(
                Trial(number, values, folder_name(number), memory=memory)
            )
        return interrupted + self.trials[begun:]

    def _propose(self, number: int) -> tuple[Values, dict[str, object]]:
        settings = self.settings
        told = [self._told(trial) for trial in self.trials]
        return propose(
            settings.sampler, self.space, settings.asked, told, settings.seed, number
        )

    def _told(self, trial: Trial) -> Told:
        scores = (
            self.settings.asked.scores(trial.figures)
            if trial.state == "complete" and trial.figures
            else None
        )
        pruned = trial.curve[-1] if trial.state == "pruned" else None
        return Told(trial.values, trial.state, scores, pruned, dict(trial.memory or {}))

    def _run(self, batch: Sequence[Trial]) -> list[Trial]:
        ended = [trial for trial in self.trials if trial.state != "running"]
        repeated = [self._repeated(trial, ended) for trial in batch]
        fresh = [
            trial for trial, twin in zip(batch, repeated, strict=True) if twin is None
        ]
        found = [twin for twin in repeated if twin]
        for trial in found:
            self.tell(trial)
        wrong = []
        for position, outcome in outcomes([self._job(trial, ended) for trial in fresh]):
            trial = self._ended(fresh[position], outcome)
            found.append(trial)
            if outcome.state == "wrong":
                wrong.append(trial)
            else:
                self.tell(trial)
        if wrong and not any(
            trial.state in ("complete", "pruned") for trial in (*self.trials, *found)
        ):
            raise UserError(wrong[0].reason)
        for trial in wrong:
            self.tell(trial)
        return found

    def _repeated(self, trial: Trial, ended: Sequence[Trial]) -> Trial | None:
        """Return the trial as an earlier one of the same values ended: the same config gives the same run."""
        return next(
            (trial.repeats(twin) for twin in ended if twin.values == trial.values), None
        )

    def _job(self, trial: Trial, ended: Sequence[Trial]) -> Job:
        asked = self.settings.asked
        past = tuple(
            Past(t.curve, t.state == "complete")
            for t in ended
            if t.state != "failed" and t.own
        )
        target = asked.target if asked.stops else None
        return Job(
            self.experiment(trial),
            self.folder.path / trial.run,
            target,
            self.settings.prune,
            past,
        )

    def experiment(self, trial: Trial) -> Experiment:
        """Return the experiment that a trial runs: with its values, the rounds of trials, and its share of the cores."""
        changes: Values = (
            {}
            if self.settings.rounds is None
            else {"experiment.rounds": self.settings.rounds}
        )
        if self.settings.jobs > 1 and not self.base.engine.workers:
            changes["engine.workers"] = max(
                1, len(os.sched_getaffinity(0)) // self.settings.jobs
            )
        return with_values(self.base, changes | trial.values, f"trial {trial.number}")

    def _ended(self, trial: Trial, outcome: Outcome) -> Trial:
        if outcome.state == "stopped":
            raise RecordError(f"trial {trial.number}: {outcome.reason}")
        state = "failed" if outcome.state == "wrong" else outcome.state
        ended = replace(trial, state=state, reason=outcome.reason)
        lines = list(read_lines(self.folder.path / trial.run))
        if not any(
            line["accuracy"] is not None for line in lines
        ):  # it did not come to its first round
            return ended
        told, past = figures(lines, self.settings.target), curve(lines)
        return replace(
            ended, figures=told, curve=past, model_sha256=self._sha256(trial)
        )

    def _sha256(self, trial: Trial) -> str:
        try:
            return str(
                json.loads((self.folder.path / trial.run / SUMMARY_FILE).read_text())[
                    "model_sha256"
                ]
            )
        except (OSError, ValueError, KeyError):
            return ""  # of a trial that was stopped
