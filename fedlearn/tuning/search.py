"""The search: which trials are run, in which order, and what is written after each batch.

Trials go in batches of ``jobs``. The values of a batch are decided before any of it runs,
and its results count when all of it has ended, in the order of the trials' numbers. What
is searched is therefore a function of the settings: neither speed nor a kill changes it
(with ``time`` among the objectives it is a function of the clock too).
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
from fedlearn.tuning.objectives import trial_curve, trial_figures
from fedlearn.tuning.processes import outcomes
from fedlearn.tuning.pruning import PastTrial
from fedlearn.tuning.record import SearchSettings, Trial, folder_name, write_trials
from fedlearn.tuning.sampling import SampledTrial, propose
from fedlearn.tuning.space import Space, Values, grid, with_values
from fedlearn.tuning.trial import TrialJob, TrialOutcome


@dataclass
class Search:
    """A search in a folder.

    base: the experiment that trials change. trials: those that a search which goes on had
    begun before. report: called with each trial that ends.
    """

    folder: RunFolder
    settings: SearchSettings
    base: Experiment
    space: Space
    trials: list[Trial] = field(default_factory=list)
    report: Callable[[Trial], None] = lambda trial: None

    def go(self) -> None:
        """Run the trials that have not ended.

        Raises UserError when the input of a trial is wrong before any has succeeded: then
        it is the config, and not the values. Raises RecordError when the disk or the
        system ends the search.
        """
        points = None
        if self.settings.sampler == "grid":
            points = grid(self.space)
        while batch := self._batch(points):
            # Before it runs: a kill must not lose which values were decided.
            write_trials(self.folder, self.trials)
            for trial in self._run(batch):
                self.trials[trial.number - 1] = trial
            write_trials(self.folder, self.trials)

    def _batch(self, points: list[Values] | None) -> list[Trial]:
        """Return the trials that are next: those of a kill, filled up to a whole batch."""
        begun = len(self.trials)
        jobs = self.settings.jobs
        interrupted = [trial for trial in self.trials if trial.state == "running"]
        room = jobs
        if interrupted or begun % jobs:
            # The batch that a kill, or another --trials, cut short.
            room = -begun % jobs
        last = min(begun + room, self.settings.trials)
        # Values are proposed one by one: each must know those of its own batch.
        for number in range(begun + 1, last + 1):
            self.trials.append(self._new_trial(number, points))
        return interrupted + self.trials[begun:]

    def _new_trial(self, number: int, points: list[Values] | None) -> Trial:
        """Return a trial that is to run: a point of the grid, or the sampler's choice."""
        run = folder_name(number)
        if points:
            return Trial(number, points[number - 1], run)
        values, memory = propose(
            self.settings.sampler,
            self.space,
            self.settings.criteria,
            [self._sampled(trial) for trial in self.trials],
            self.settings.seed,
            number,
        )
        return Trial(number, values, run, memory=memory)

    def _sampled(self, trial: Trial) -> SampledTrial:
        """Return a trial as the sampler sees it."""
        scores = None
        if trial.state == "complete" and trial.figures:
            scores = self.settings.criteria.scores(trial.figures)
        # A trial is pruned at a round that was evaluated: there is a last point.
        pruned = None
        if trial.state == "pruned":
            pruned = trial.curve[-1]
        memory = dict(trial.memory or {})
        return SampledTrial(trial.values, trial.state, scores, pruned, memory)

    def _run(self, batch: Sequence[Trial]) -> list[Trial]:
        """Run a batch and return its trials, ended."""
        past = [trial for trial in self.trials if trial.state != "running"]
        ended: list[Trial] = []
        fresh: list[Trial] = []
        for trial in batch:
            repeated = _repeated(trial, past)
            if repeated is None:
                fresh.append(trial)
            else:
                ended.append(repeated)
        # These take no time: they are reported before the others run.
        for trial in ended:
            self.report(trial)
        wrong: list[Trial] = []
        for position, outcome in outcomes([self._job(trial, past) for trial in fresh]):
            trial = self._ended(fresh[position], outcome)
            ended.append(trial)
            if outcome.state == "wrong":
                wrong.append(trial)
            else:
                self.report(trial)
        # Beside trials that went well a wrong one is that of its values: it failed.
        succeeded = ("complete", "pruned")
        if wrong and not any(t.state in succeeded for t in (*self.trials, *ended)):
            raise UserError(wrong[0].reason)
        for trial in wrong:
            self.report(trial)
        return ended

    def _job(self, trial: Trial, ended: Sequence[Trial]) -> TrialJob:
        """Return what a trial needs to run."""
        criteria = self.settings.criteria
        past = [
            PastTrial(earlier.curve, earlier.state == "complete")
            for earlier in ended
            # A repeated trial would count its run twice.
            if earlier.state != "failed" and earlier.has_own_run
        ]
        return TrialJob(
            experiment=self.experiment(trial),
            folder=self.folder.path / trial.run,
            target=criteria.target if criteria.stops else None,
            prune=self.settings.prune,
            past=tuple(past),
        )

    def experiment(self, trial: Trial) -> Experiment:
        """Return the experiment that a trial runs.

        It has the trial's values, the rounds of trials, and its share of the cores.
        """
        changes: Values = {}
        if self.settings.rounds is not None:
            changes["experiment.rounds"] = self.settings.rounds
        jobs = self.settings.jobs
        # Side by side they share the cores: with all of them each would only take turns.
        if jobs > 1 and not self.base.engine.workers:
            cores = len(os.sched_getaffinity(0))
            changes["engine.workers"] = max(1, cores // jobs)
        return with_values(self.base, changes | trial.values, f"trial {trial.number}")

    def _ended(self, trial: Trial, outcome: TrialOutcome) -> Trial:
        """Return a trial with what it came to; raises RecordError of the system's fault."""
        if outcome.state == "stopped":
            raise RecordError(f"trial {trial.number}: {outcome.reason}")
        state = outcome.state
        if state == "wrong":
            # Of values that the config does not allow: for a person, a failed trial.
            state = "failed"
        ended = replace(trial, state=state, reason=outcome.reason)
        # From its folder: an interrupted trial's first rounds are there too.
        lines = list(read_lines(self.folder.path / trial.run))
        if not any(line["accuracy"] is not None for line in lines):
            # It did not come to its first evaluation.
            return ended
        return replace(
            ended,
            figures=trial_figures(lines, self.settings.target),
            curve=trial_curve(lines),
            model_sha256=self._sha256(trial),
        )

    def _sha256(self, trial: Trial) -> str:
        """Return the hash of a trial's model; "" of a trial that was stopped."""
        path = self.folder.path / trial.run / SUMMARY_FILE
        try:
            return str(json.loads(path.read_text())["model_sha256"])
        except (OSError, ValueError, KeyError):
            return ""


def _repeated(trial: Trial, ended: Sequence[Trial]) -> Trial | None:
    """Return the trial as an earlier one of the same values ended; None: there is none.

    The same config gives the same run.
    """
    for earlier in ended:
        if earlier.values == trial.values:
            return trial.repeats(earlier)
    return None
