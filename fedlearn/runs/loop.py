"""One run from its first round to its last: the strategy's rounds, and after each one its score, line and checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy
from safetensors.numpy import save

from fedlearn.arrays import Layout, State, model_sha256
from fedlearn.config import Experiment
from fedlearn.devices.clock import Clock
from fedlearn.errors import ConfigError, ExpectationError, RunError
from fedlearn.flower import for_strategy, to_state
from fedlearn.records.line import Line, empty_line
from fedlearn.records.names import MODEL_FILE, SUMMARY_FILE
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.devices import totals
from fedlearn.runs import checkpoint
from fedlearn.runs.doubt import rises
from fedlearn.strategies import remember as memory
from fedlearn.strategies.guard import Guarded

PAUSE_S = 0.5
"""Seconds between two checkpoints of quick rounds, where ``checkpoint_every`` leaves it to us: a small model's checkpoint takes a
sixth of its round (2.7 of 15 ms on W1 of docs/performance.md), and what a kill costs is half a second at most."""


class _Reached(Exception):
    """The accuracy at which a run ends is reached."""


class Score(Protocol):
    """What a model reaches on held-out samples."""

    @property
    def loss(self) -> float:
        """Return the mean loss."""

    @property
    def accuracy(self) -> float:
        """Return the share of right answers."""


class Display(Protocol):
    """What shows a run's progress."""

    def round_done(self, line: Line) -> None:
        """Show a round's line."""

    def note(self, text: str) -> None:
        """Show a warning."""


class Run:
    """A run of an experiment over a Grid; see `go`."""

    def __init__(
        self,
        experiment: Experiment,
        layout: Layout,
        initial: State,
        strategy: Strategy,
        grid: Any,
        score: Callable[[State], Score],
        folder: RunFolder,
        display: Display,
        clock: Clock | None = None,
        beside: bool = False,
    ) -> None:
        """Take the parts. grid: a Flower Grid with a ``tally`` of each round; score: a model → its held-out score.

        clock: of simulated devices. beside: write checkpoints while the next round goes on, where nothing but the checkpoint has to be
        on disk: a kill then costs that round too, and never more.
        """
        self.experiment, self.layout, self.strategy, self.grid = (
            experiment,
            layout,
            strategy,
            grid,
        )
        self.score, self.folder, self.display, self.clock = (
            score,
            folder,
            display,
            clock,
        )
        self.model, self.done = initial, 0
        self.lines: list[Line] = []
        self._since = time.perf_counter()
        self._record_s = 0.0
        self._forgotten: set[str] = set()
        self._told = False  # that models are sent whole
        self._recalled = False  # what is kept of clients is that of a checkpoint, or of the beginning
        self._writer = ThreadPoolExecutor(1, "checkpoint") if beside else None
        self._written: Future[None] | None = None  # the last checkpoint
        self._checkpointed = -math.inf  # when it was begun
        self._guard: Guarded

    def resume(self) -> int:
        """Go back to the newest whole checkpoint, or to the start; returns the rounds that are done."""
        found, older, *_ = *checkpoint.whole(self.folder.path), None, None
        if found:
            self._check(found)
        self.done = found.round if found else 0
        self.lines = self.folder.rewind(self.done if found else -1)
        lost = (
            self.done + 1 - len({line["round"] for line in self.lines}) if found else 0
        )
        if lost:
            self.display.note(
                f"metrics.jsonl lacks {lost} of its lines: the sums of bytes and seconds are too small"
            )
        reached = self._reached()
        if reached is not None and reached < self.done:
            raise ConfigError(
                f"--resume: accuracy {self.experiment.experiment.stop_at:g} was reached in round {reached}, and {self.done} rounds are "
                "done; leave experiment.stop_at as it was, or start anew"
            )
        if found:
            self.model = found.model
            memory.recall(self.strategy, found.memory["strategy"], found.arrays)
        try:
            for kept in self._kept():
                kept.recall(
                    found.arrays if found else None, older.arrays if older else None
                )
        except KeyError as error:
            raise RunError(
                f"--resume: the checkpoint lacks {error}: another version of fedlearn wrote it; start anew"
            ) from None
        if found and self.grid.states:
            for client, state in found.memory.get(
                "clients", {}
            ).items():  # checkpoints used to hold the states of all clients
                self.grid.states.put(int(client), memory.load(state, found.arrays))
        self._recalled = True
        return self.done

    def _check(self, found: checkpoint.Checkpoint) -> None:
        rounds = self.experiment.experiment.rounds
        if found.round > rounds:
            raise ConfigError(
                f"--resume: {found.round} rounds are done, more than experiment.rounds = {rounds}; raise it or start anew"
            )
        if (found.model.floats.size, found.model.integers.size) != (
            self.layout.floats,
            self.layout.integers,
        ):
            raise RunError(
                f"--resume: {self.folder.path}/checkpoint is of another model than its config.toml; give the CONFIG that the run began with"
            )

    def go(self) -> dict[str, Any]:
        """Run the rounds that are left and return the summary, written to the folder.

        Raises RoundError, RunError or RecordError when the run cannot go on; the last checkpoint is kept.
        """
        self._since = time.perf_counter()
        if not self._recalled:
            for kept in self._kept():
                kept.recall(None)
        settings = self.experiment.experiment
        if not self.lines or self.lines[-1]["round"] < self.done:
            # The initial model's line, or that of a checkpoint whose line is lost.
            self._line(empty_line(self.done))
        guard = self._guard = Guarded(
            self.strategy,
            self.layout,
            settings.seed,
            first_round=self.done + 1,
            min_clients=settings.min_clients,
            attempts=settings.attempts,
            settings=self._settings,
            evaluates=lambda round: (
                self.experiment.evaluate.clients and self._evaluates(round)
            ),
            note=self.display.note,
        )
        try:
            if self.done < settings.rounds and self._reached() is None:
                guard.run(
                    self.grid,
                    for_strategy(self.layout, self.model),
                    settings.rounds,
                    self._after,
                )
        except _Reached:  # the one way out of a strategy's own loop
            pass
        finally:
            if self._writer:
                self._writer.shutdown()  # whatever happened, the last checkpoint is whole
        self._wait()
        return self._finish()

    def _settings(self, round: int) -> Mapping[str, Any]:
        return {"lr": self.grid.plan(round, {}).lr}

    def _reached(self) -> int | None:
        """Return the first round with the accuracy at which the run ends; None: there is none yet."""
        stop_at = self.experiment.experiment.stop_at
        return next(
            (
                line["round"]
                for line in self.lines
                if stop_at and (line["accuracy"] or 0.0) >= stop_at
            ),
            None,
        )

    def _evaluates(self, round: int) -> bool:
        every, last = (
            self.experiment.experiment.evaluate_every,
            self.experiment.experiment.rounds,
        )
        return round % every == 0 or round == last

    def _after(self, round: int, arrays: ArrayRecord) -> None:
        self.model, self.done = to_state(self.layout, arrays), round
        tally, guard = self.grid.tally, self._guard
        line = empty_line(round)
        line["train_loss"] = guard.train_loss
        line["clients"] = tally.clients
        line["failed"] = len(tally.failures)
        line["failures"] = {
            str(client): reason for client, reason in sorted(tally.failures.items())
        }
        line["attempts"] = guard.attempt + 1
        line["bytes_up"] = tally.bytes_up
        line["bytes_down"] = tally.bytes_down
        line["bytes_raw"] = tally.bytes_raw
        line["messages_up"] = tally.messages_up
        line["messages_down"] = tally.messages_down
        line["whole_models"] = tally.whole_models
        line["seconds_codec"] = dict(tally.codec_s)
        line["seconds_training"] = tally.training_s
        line["seconds_by_phase"] = dict(tally.seconds)
        line["clients_evaluation"] = guard.evaluation
        if self.clock:
            line["devices"] = self.clock.take()
        self._line(line)
        begun = time.perf_counter()
        self._tell_of_models(tally)
        if rises(self.lines, self.grid.downlink.renewed) and self.grid.downlink.renew(
            round
        ):
            self.display.note(
                f"round {round}: the training loss has doubled; every client is sent the whole model at its next contact"
            )
        over = self._reached() is not None
        if over or round == self.experiment.experiment.rounds or self._due(round):
            self._checkpoint()
        self._record_s = time.perf_counter() - begun
        if over:
            raise _Reached

    def _due(self, round: int) -> bool:
        """Tell whether a checkpoint is due after a round."""
        every = self.experiment.experiment.checkpoint_every
        if every or not self._writer:
            return round % (every or 1) == 0
        return time.perf_counter() - self._checkpointed >= PAUSE_S and (
            self._written is None or self._written.done()
        )

    def _tell_of_models(self, tally: Any) -> None:
        """Note what a user should know of the models sent; each thing once."""
        if tally.damaged:
            self.display.note(
                f"round {self.done}: what the disk held of {tally.damaged} clients was damaged; they began anew, and the result is not "
                "that of an undisturbed run"
            )
        if 2 * tally.whole_models > tally.messages_down and not self._told:
            self._told = True
            self.display.note(
                f"{tally.whole_models} of {tally.messages_down} models were sent whole: what {self.experiment.codec.down} makes of a "
                "difference brings a client's copy no nearer; choose a finer codec.down"
            )

    def _line(self, line: Line) -> None:
        begun = time.perf_counter()
        round = line["round"]
        if round == 0 or self._evaluates(round):
            score = self.score(self.model)
            line["loss"] = score.loss
            line["accuracy"] = score.accuracy
            if not math.isfinite(score.loss):
                self.display.note(
                    f"round {round}: the loss on held-out samples is not finite; lower train.lr, or look at the data"
                )
        now = time.perf_counter()
        phases = line["seconds_by_phase"]
        phases["evaluate"] = phases.get("evaluate", 0.0) + now - begun
        phases["record"] = self._record_s
        line["seconds"], self._since = now - self._since, now
        self.lines.append(line)
        self.folder.append(line)
        self.display.round_done(line)

    def _checkpoint(self) -> None:
        arrays: memory.Arrays = {}
        remembered = {"strategy": memory.remember(self.strategy, arrays)}
        self._wait()  # what is kept of clients may forget an older checkpoint only when the last one is on disk
        for kept in self._kept():
            arrays |= kept.sync()
        if forgotten := set(memory.forgets(self.strategy)) - self._forgotten:
            self._forgotten |= forgotten
            self.display.note(
                f"the strategy keeps what no checkpoint holds ({', '.join(sorted(forgotten))}): a resumed run may differ"
            )
        self._checkpointed = time.perf_counter()
        made = checkpoint.Checkpoint(self.done, self.model, remembered, arrays)
        if self._writer:
            own = {
                name: array.copy() for name, array in arrays.items()
            }  # the strategy may change its own
            self._written = self._writer.submit(self._write, replace(made, arrays=own))
        else:
            self._write(made)
        for kept in self._kept():
            kept.checkpointed()

    def _write(self, made: checkpoint.Checkpoint) -> None:
        self.folder.sync_lines()
        checkpoint.write(self.folder, made)

    def _wait(self) -> None:
        """Wait until the last checkpoint is on disk; raises RecordError when it cannot be."""
        if self._written:
            self._written.result()

    def _kept(self) -> list[Any]:
        """Return what keeps something per client outside the checkpoints."""
        return [
            kept
            for kept in (
                self.grid.downlink,
                self.grid.residuals,
                self.grid.states,
                self.clock,
            )
            if kept
        ]

    def _finish(self) -> dict[str, Any]:
        trained = [line for line in self.lines if line["round"]]
        scored = [line for line in self.lines if line["accuracy"] is not None]
        last = scored[-1]
        if last["loss"] is None or not math.isfinite(last["loss"]):
            raise RunError(
                "the final model's loss on held-out samples is not finite: nothing that can be used was learned"
            )
        summary: dict[str, Any] = {
            "name": self.experiment.experiment.name,
            "model_sha256": model_sha256(self.layout, self.model),
            "rounds": self.done,
            "loss": last["loss"],
            "accuracy": last["accuracy"],
            "best_accuracy": max(line["accuracy"] or 0.0 for line in scored),
            **{
                k: sum(line[k] for line in trained)
                for k in (
                    "bytes_up",
                    "bytes_down",
                    "bytes_raw",
                    "seconds",
                    "seconds_training",
                )
            },
            "failed": sum(line["failed"] for line in trained),
            "engine": self.experiment.engine.kind,
            "clients": self.grid.clients,
            "parameters": self.layout.trained,
        }
        if self.clock:
            summary["devices"] = totals(self.lines, self.experiment.devices.target)
        summary["expectations"] = expectations(self.experiment, summary, scored)
        self.folder.write(MODEL_FILE, save(dict(self.layout.split(self.model))))
        self.folder.write_json(SUMMARY_FILE, summary)
        return summary


def expectations(
    experiment: Experiment, summary: Mapping[str, Any], scored: list[Line]
) -> list[dict[str, Any]]:
    """Return what ``[expect]`` asks, one entry each: what, wanted, got, met."""
    expect = experiment.expect
    total = summary["bytes_up"] + summary["bytes_down"]
    out: list[dict[str, Any]] = []

    def ask(what: str, wanted: Any, got: Any, most: bool = False) -> None:
        if wanted is not None:
            met = got is not None and (got <= wanted if most else got >= wanted)
            out.append({"what": what, "wanted": wanted, "got": got, "met": met})

    reached = next(
        (
            line["round"]
            for line in scored
            if (line["accuracy"] or 0.0) >= (expect.best_accuracy or 0)
        ),
        None,
    )
    ask("accuracy at least", expect.accuracy, summary["accuracy"])
    ask("best accuracy at least", expect.best_accuracy, summary["best_accuracy"])
    ask(
        f"accuracy {expect.best_accuracy} by round", expect.by_round, reached, most=True
    )
    ask("loss at most", expect.loss, summary["loss"], most=True)
    ask("bytes of both directions at most", expect.total_bytes, total, most=True)
    if expect.model_sha256 is not None:
        met = summary["model_sha256"] == expect.model_sha256
        out.append(
            {
                "what": "model_sha256",
                "wanted": expect.model_sha256,
                "got": summary["model_sha256"],
                "met": met,
            }
        )
    return out


def check_expectations(summary: Mapping[str, Any]) -> None:
    """Raise ExpectationError naming the first expectation that does not hold."""
    for entry in summary["expectations"]:
        if not entry["met"]:
            raise ExpectationError(
                f"expected {entry['what']} {entry['wanted']}; got {entry['got']}"
            )
