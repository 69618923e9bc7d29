"""One run from its first round to its last.

The strategy drives the rounds; after each one come its score, its line and its checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from safetensors.numpy import save

from fedlearn.arrays import State, model_sha256
from fedlearn.errors import RunError
from fedlearn.flower import for_strategy, to_state
from fedlearn.memory.clients import Remembered
from fedlearn.records.line import Line, empty_line
from fedlearn.records.names import MODEL_FILE, PATIENCE, SUMMARY_FILE
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.devices import totals
from fedlearn.runs import checkpoint
from fedlearn.runs.best import Best, check_patience, stalled
from fedlearn.runs.callbacks import Watchers
from fedlearn.runs.checkpointing import Checkpointer
from fedlearn.runs.display import Display
from fedlearn.runs.doubt import rises
from fedlearn.runs.ending import line_score, sums
from fedlearn.runs.expectations import expectations
from fedlearn.runs.grid import RunGrid
from fedlearn.runs.layers import Stack
from fedlearn.runs.parts import Parts
from fedlearn.runs.remarks import is_mostly_whole, lost_lines, of_models
from fedlearn.runs.reports import reported
from fedlearn.runs.resuming import check_checkpoint, check_stop_at, reached
from fedlearn.runs.settle import Settled
from fedlearn.runs.tally import RoundTally
from fedlearn.strategies import remember
from fedlearn.strategies.guard import Guarded
from fedlearn.strategies.train_config import TrainConfig


# No `Exception`: a strategy's own loop may catch those.
class _Ended(BaseException):
    """The run ends before its last round: the one way out of a strategy's own loop."""


class RunLoop:
    """The rounds of one run; see `go`."""

    def __init__(
        self,
        settled: Settled,
        parts: Parts,
        grid: RunGrid,
        stack: Stack,
        folder: RunFolder,
        display: Display,
        watchers: Watchers,
    ) -> None:
        """Take the parts. watchers: called after each round; any of them may end the run."""
        self.experiment = settled.experiment
        self.layout = parts.layout
        self.strategy = parts.strategy
        self.grid = grid
        self.score = stack.engine.score
        self.clock = stack.clock
        self.folder = folder
        self.display = display
        self.watchers = watchers
        self.model = parts.start
        self.done = 0
        self.lines: list[Line] = []
        self._since = time.perf_counter()
        # Seconds of recording belong to the round that was recorded, which is over by then:
        # the next line has them.
        self._record_s = 0.0
        self._noted_whole_models = False
        self._best = Best() if self.experiment.experiment.keep_best else None
        # Whether what is kept of clients is that of a checkpoint, or of the beginning.
        self._recalled = False
        # Agents, and clients' vectors, rely on what the last checkpoint holds: with them
        # it is waited for.
        beside = not settled.agents and not grid.memory.must_be_synced
        self.config = TrainConfig()
        self._checkpointer = Checkpointer(
            folder,
            parts.strategy,
            self.config,
            self._remembered(),
            self.experiment.experiment.checkpoint_every,
            beside,
        )
        self._guard: Guarded
        self._baseline = parts.baseline
        # Whether the strategy returned a model in the place of the last round's.
        self._is_returned = False

    def resume(self) -> int:
        """Go back to the newest whole checkpoint, or to the start.

        Returns the rounds that are done. Raises ConfigError and RunError.
        """
        checkpoints = checkpoint.whole(self.folder.path)
        newest = checkpoints[0] if checkpoints else None
        older = checkpoints[1] if len(checkpoints) > 1 else None
        if newest is None:
            self.lines = self.folder.rewind(-1)
        else:
            check_checkpoint(newest, self.experiment, self.layout, self.folder.path)
            self.done = newest.round
            self.lines = self.folder.rewind(newest.round)
            if text := lost_lines(self.lines, self.done):
                self.display.note(text)
        # A lower stop_at than before would mean that rounds were run in vain.
        settings = self.experiment.experiment
        check_stop_at(settings.stop_at, self.lines, self.done)
        check_patience(settings.patience, settings.min_delta, self.lines, self.done)
        if newest is not None:
            self.model = newest.model
            remember.recall(self.strategy, newest.memory["strategy"], newest.arrays)
            # Checkpoints of the first release have none.
            values = newest.memory.get("train_config", {"dict": []})
            self.config.recall(remember.load(values, newest.arrays))
        try:
            for part in self._remembered():
                part.recall(
                    newest.arrays if newest else None, older.arrays if older else None
                )
        except KeyError as error:
            raise RunError(
                f"--resume: the checkpoint lacks {error}: "
                "another version of fedlearn wrote it; start anew"
            ) from None
        if newest is not None:
            self._adopt_states(newest)
        # From here on `go` must not reset it.
        self._recalled = True
        return self.done

    def go(self) -> dict[str, Any]:
        """Run the rounds that are left and return the summary, written to the folder.

        Raises RoundError, RunError or RecordError when the run cannot go on; the last
        checkpoint is kept.
        """
        self._since = time.perf_counter()
        if not self._recalled:
            for part in self._remembered():
                part.recall(None)
        settings = self.experiment.experiment
        if not self.lines or self.lines[-1]["round"] < self.done:
            # The initial model's line, or that of a checkpoint whose line is lost.
            self._add_line(empty_line(self.done))
        self._guard = self._guarded()
        try:
            if self.done < settings.rounds and not self._has_reached():
                # Flower counts from round 1; the guard leads it to the first that is missing.
                start = for_strategy(self.layout, self.model)
                returned = self._guard.run(
                    self.grid,
                    start,
                    settings.rounds,
                    self._after_round,
                    self._score_for_strategy,
                )
                self._adopt(returned)
        except _Ended:
            pass
        finally:
            # Whatever happened, the last checkpoint is whole then.
            self._checkpointer.close()
        # A checkpoint that failed beside the last round fails the run here.
        self._checkpointer.wait()
        return self._finish()

    def _guarded(self) -> Guarded:
        """Return the strategy behind its guard."""
        settings = self.experiment.experiment
        return Guarded(
            self.strategy,
            self.layout,
            settings.seed,
            first_round=self.done + 1,
            min_clients=settings.min_clients,
            attempts=settings.attempts,
            config=self.config,
            settings=self._round_settings,
            evaluate_config=self.experiment.client.evaluate_config,
            evaluates=self._evaluates_clients,
            note=self.display.note,
        )

    def _round_settings(self, round: int) -> Mapping[str, Any]:
        config = self.experiment.client.train_config
        return {"lr": self.grid.settled.plan(round, {}).lr, **config}

    def _evaluates_clients(self, round: int) -> bool:
        return self.experiment.evaluate.clients and self._evaluates(round)

    def _evaluates(self, round: int) -> bool:
        settings = self.experiment.experiment
        return round % settings.evaluate_every == 0 or round == settings.rounds

    def _has_reached(self) -> bool:
        """Return whether a round had the accuracy that ends the run, or stood still."""
        stop_at = self.experiment.experiment.stop_at
        return reached(stop_at, self.lines) is not None or self._has_stalled()

    def _has_stalled(self) -> bool:
        settings = self.experiment.experiment
        end = stalled(settings.patience, settings.min_delta, self.lines)
        return end is not None

    def _after_round(self, round: int, arrays: ArrayRecord) -> None:
        """Record a round: its line, its checkpoint. Raises `_Ended` after the last one."""
        self.model = to_state(self.layout, arrays)
        self.done = round
        line = self._add_line(self._line(round, self.grid.tally))
        begun = time.perf_counter()
        self._note_models(self.grid.tally)
        self._renew_if_in_doubt(round)
        # Callbacks first: each of them has to see every round.
        ended = self.watchers.after_round(line, self._weights)
        ended |= self._has_reached()
        last = round == self.experiment.experiment.rounds
        if ended or last or self._checkpointer.due(round):
            self._checkpoint()
        self._record_s = time.perf_counter() - begun
        if ended:
            # Flower's loop has no other way out; `go` catches it and finishes the run.
            raise _Ended

    def _score_for_strategy(self, arrays: ArrayRecord) -> dict[str, float]:
        """Return a model's score on held-out samples: for a strategy's own loop."""
        model = to_state(self.layout, arrays)
        # The line's own, where the round was evaluated and this is its model.
        score = line_score(self.lines[-1]) if model is self.model else None
        return score or self._score_of(model)

    def _score_of(self, model: State) -> dict[str, float]:
        score = self.score(model)
        return {"loss": score.loss, "accuracy": score.accuracy}

    def _adopt(self, returned: ArrayRecord | None) -> None:
        """Take the model that a strategy's own ``start`` returned, if it is another one."""
        if returned is None:
            return
        model = to_state(self.layout, returned)
        if model_sha256(self.layout, model) == model_sha256(self.layout, self.model):
            return
        self.model = model
        self._is_returned = True
        self.display.note(
            f"{type(self.strategy).__name__}.start returned another model than that of "
            f"round {self.done}; it is the run's"
        )

    def _line(self, round: int, tally: RoundTally) -> Line:
        """Return a round's line, but for its score and its seconds."""
        line = empty_line(round)
        line["train_loss"] = self._guard.updates.train_loss
        line["clients"] = tally.clients
        line["failed"] = len(tally.failures)
        line["failures"] = {
            str(client): reason for client, reason in sorted(tally.failures.items())
        }
        line["attempts"] = self._guard.attempt + 1
        line["bytes_up"] = tally.bytes_up
        line["bytes_down"] = tally.bytes_down
        line["bytes_raw"] = tally.bytes_raw
        line["messages_up"] = tally.messages_up
        line["messages_down"] = tally.messages_down
        line["whole_models"] = tally.whole_models
        line["seconds_codec"] = dict(tally.codec_s)
        line["seconds_training"] = tally.training_s
        line["seconds_by_phase"] = dict(tally.seconds)
        line["clients_evaluation"] = self._guard.evaluations.summary
        line["metrics"] = reported(round, tally.unusable, self._guard)
        if self.clock:
            line["devices"] = self.clock.take()
        return line

    def _add_line(self, line: Line) -> Line:
        """Score the model where it is due, and append a round's line to the record."""
        begun = time.perf_counter()
        round = line["round"]
        if round == 0 or self._evaluates(round):
            score = self.score(self.model)
            line["loss"] = score.loss
            line["accuracy"] = score.accuracy
            # A note and no error: a later round may recover, and the end is checked.
            if not math.isfinite(score.loss):
                self.display.note(
                    f"round {round}: the loss on held-out samples is not finite; "
                    f"{'' if round == 0 else 'lower train.lr, or '}look at the model "
                    "and the data"
                )
        now = time.perf_counter()
        phases = line["seconds_by_phase"]
        phases["evaluate"] = phases.get("evaluate", 0.0) + now - begun
        phases["record"] = self._record_s
        line["seconds"] = now - self._since
        self._since = now
        # To disk before it is shown: what a user saw is never lost.
        if self._best:
            self._best.see(line, self.model)
        self.lines.append(line)
        self.folder.append(line)
        self.display.round_done(line)
        return line

    def _weights(self) -> Mapping[str, Any]:
        # Copies: a callback may keep them, and may write into them.
        tensors = self.layout.split(self.model)
        return {name: np.array(values) for name, values in tensors.items()}

    def _renew_if_in_doubt(self, round: int) -> None:
        downlink = self.grid.downlink
        if rises(self.lines, downlink.renewed) and downlink.renew(round):
            self.display.note(
                f"round {round}: the training loss has doubled; every client is sent "
                "the whole model at its next contact"
            )

    def _note_models(self, tally: RoundTally) -> None:
        """Note what a user should know of the models sent; each thing once."""
        codec = self.experiment.codec.down
        for text in of_models(self.done, tally, codec, self._noted_whole_models):
            self.display.note(text)
        self._noted_whole_models |= is_mostly_whole(tally)

    def _checkpoint(self) -> None:
        forgotten = self._checkpointer.write(self.done, self.model)
        if forgotten:
            self.display.note(
                f"the strategy keeps what no checkpoint holds "
                f"({', '.join(sorted(forgotten))}): a resumed run may differ"
            )

    def _remembered(self) -> list[Remembered]:
        """Return what lies outside the checkpoints and goes back with them."""
        parts = [*self.grid.memory.parts(), self.grid.bounds]
        if self.clock:
            parts.append(self.clock)
        if self._best:
            parts.append(self._best)
        return parts

    def _adopt_states(self, newest: checkpoint.Checkpoint) -> None:
        """Take over the states of ClientApps from old checkpoints, which held them all."""
        states = self.grid.memory.states
        if states is None:
            return
        for client, state in newest.memory.get("clients", {}).items():
            states.put(int(client), remember.load(state, newest.arrays))

    def _finish(self) -> dict[str, Any]:
        """Write the model and the summary. Raises RunError for a model that is not finite."""
        score = line_score(self.lines[-1])
        # A run may end after a round that the record leaves out, or with another model.
        if score is None or self._is_returned:
            score = self._score_of(self.model)
        if not math.isfinite(score["loss"]):
            raise RunError(
                "the final model's loss on held-out samples is not finite: "
                "nothing that can be used was learned"
            )
        summary = self._summary(score)
        # Safetensors: any framework reads it, and reading it runs no code.
        model = save(dict(self.layout.split(self.model)))
        self.folder.write(MODEL_FILE, model)
        if self._best:
            self._best.write(self.folder, self.layout)
        self.folder.write_json(SUMMARY_FILE, summary)
        return summary

    def _summary(self, score: Mapping[str, float]) -> dict[str, Any]:
        scored = [line for line in self.lines if line["accuracy"] is not None]
        accuracies = [line["accuracy"] or 0.0 for line in scored]
        summary: dict[str, Any] = {
            "name": self.experiment.experiment.name,
            "model_sha256": model_sha256(self.layout, self.model),
            "rounds": self.done,
            **score,
            "best_accuracy": max([score["accuracy"], *accuracies]),
            "baseline": dict(self._baseline),
            **sums(self.lines),
            "engine": self.experiment.engine.kind,
            "clients": self.grid.clients,
            "parameters": self.layout.trained,
        }
        if self.clock:
            summary["devices"] = totals(self.lines, self.experiment.devices.target)
        if self._best:
            summary |= self._best.figures(self.layout)
        if self._has_stalled():
            summary["ended"] = PATIENCE
        summary["expectations"] = expectations(self.experiment, summary, scored)
        return summary
