"""`Guarded`: any Flower strategy, kept from the ways in which a run can go wrong in silence.

Around the strategy's four verbs it
- seeds Python's and numpy's global generators, which Flower's strategies draw from, per (round, attempt, verb);
- leaves out error replies, so that one failed client does not cost the others' work (Bulyan and the DP wrappers
  discard a round with any error in it), and replies whose metrics the others do not have;
- repeats a round that gave too few updates or no model with a new cohort, and ends the run when that does not help:
  a run in which nothing was learned is an error (Flower ends with success and the initial model);
- gives the aggregated model its own dtypes back (FedAdam and QFedAvg return float64, FedAvg turns counters into
  floats) and refuses one that is not finite.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedlearn.arrays import Layout
from fedlearn.errors import FedlearnError, RoundError, RunError
from fedlearn.flower import EXAMPLES, for_strategy, is_held, to_state
from fedlearn.seeds import derive
from fedlearn.strategies.cohorts import takes_payloads


class Failures(Protocol):
    """What the guard needs of a Grid besides Flower's methods: the start of rounds and attempts, and their failures."""

    def begin(self, round: int) -> None:
        """Start a round."""

    def begin_attempt(self) -> None:
        """Start another attempt of the round."""

    def failures(self) -> Mapping[int, str]:
        """Return the reasons of the clients that failed in this round."""

    def leave_out(self, client: int, reason: str) -> None:
        """Note that a client's update is not used."""


class Guarded(Strategy):
    """A strategy behind the guard; its rounds may start after the first, for a run that is resumed."""

    def __init__(
        self,
        inner: Strategy,
        layout: Layout,
        seed: int,
        first_round: int = 1,
        min_clients: int = 1,
        attempts: int = 3,
        settings: Callable[[int], Mapping[str, Any]] = lambda round: {},
        evaluates: Callable[[int], bool] = lambda round: True,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Take the strategy. settings: round → what the experiment adds to the strategy's train config.

        first_round: what Flower's loop calls round 1. evaluates: rounds in which clients may evaluate.
        note: called with a line about a repeated round.
        """
        self.inner, self.layout, self.seed = inner, layout, seed
        self.offset, self.min_clients, self.attempts = (
            first_round - 1,
            min_clients,
            attempts,
        )
        self.settings, self.evaluates, self.note = settings, evaluates, note
        self.attempt = 0
        self.evaluation: dict[str, float] | None = None  # of this round's clients
        self.train_loss: float | None = None
        self._again: Callable[[], Iterable[Message]]
        self._grid: Any = None
        self._usable = 0
        self._before: ArrayRecord

    def run(
        self,
        grid: Grid,
        arrays: ArrayRecord,
        rounds: int,
        after: Callable[[int, ArrayRecord], None],
    ) -> Result:
        """Run rounds first_round … rounds by the strategy's own ``start``; ``after`` is called with each new model."""

        def hook(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            if server_round:
                after(server_round + self.offset, arrays)
            return None

        start = type(self.inner).start
        return start(
            self,
            grid,
            arrays,
            num_rounds=rounds - self.offset,
            train_config=ConfigRecord(),
            evaluate_fn=hook,
        )

    def __getattr__(self, name: str) -> Any:
        """Give what a strategy with a ``start`` of its own looks for on itself."""
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def summary(self) -> None:
        """Log nothing; the run's own progress says what is running."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages of a round's first attempt."""
        number = server_round + self.offset
        self._grid, self._before, self.attempt = grid, arrays, 0
        self._grid.begin(number)

        def messages() -> Iterable[Message]:
            self._seed("configure", number)
            sent = ConfigRecord(
                {**config, **self.settings(number), "attempt": self.attempt}
            )
            return list(self._call("configure_train", number, arrays, sent, grid))

        self._again = messages
        return messages()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the new model, after as many attempts as it takes; raises RoundError when none gives one."""
        number = server_round + self.offset
        while True:
            self._seed("aggregate", number)
            arrays, metrics = self._aggregate(number, replies)
            if arrays is not None:
                loss = metrics.get("train_loss") if metrics else None
                self.train_loss = float(loss) if isinstance(loss, int | float) else None
                return self._sound(number, arrays), metrics
            self.attempt += 1
            why = f"{self._usable} of {self._asked} clients gave a usable update{self._reason()}"
            if self.attempt >= self.attempts:
                raise RoundError(
                    f"round {number} learned nothing in {self.attempts} attempts: {why}. At least {self.min_clients} are "
                    "needed (experiment.min_clients); the last checkpoint is kept"
                )
            self.note(
                f"round {number}, attempt {self.attempt}: {why}; again with a new cohort"
            )
            self._grid.begin_attempt()
            replies = self._grid.send_and_receive(self._again())

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the clients that evaluate; none in rounds without evaluation."""
        number = server_round + self.offset
        self.evaluation = None
        if not self.evaluates(number):
            return []
        self._seed("configure-evaluate", number)
        return list(self._call("configure_evaluate", number, arrays, config, grid))

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the strategy's own sum of the clients' evaluations, and keep ours: mean, worst 10 %, spread."""
        self._asked = 0
        scored = [r for r in self._counted(replies) if _examples(r) > 0]
        usable = self._consistent(sorted(scored, key=lambda m: m.metadata.src_node_id))
        if not usable:
            return None
        self.evaluation = {"failed": self._asked - len(usable)} | summarise(
            [next(iter(r.content.metric_records.values())) for r in usable]
        )
        self._seed("aggregate-evaluate", server_round + self.offset)
        result: MetricRecord | None = self._call(
            "aggregate_evaluate", server_round + self.offset, usable
        )
        return result

    def _aggregate(
        self, number: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        self._usable = self._asked = 0
        if takes_payloads(self.inner):
            found: tuple[ArrayRecord | None, MetricRecord | None] = self._call(
                "aggregate_train", number, self._counted(replies)
            )
            return found
        usable = self._consistent(list(self._counted(replies)))
        self._usable = len(usable)
        if self._usable < self.min_clients:
            return None, None
        found = self._call("aggregate_train", number, usable)
        return found

    def _counted(self, replies: Iterable[Message]) -> Iterator[Message]:
        for reply in replies:
            self._asked += 1
            if not reply.has_error():
                self._usable += 1
                yield reply

    def _consistent(self, replies: list[Message]) -> list[Message]:
        """Return the replies that report what most of them report; Flower's strategies fail when one differs."""
        keys = [
            tuple(sorted(k for m in r.content.metric_records.values() for k in m))
            for r in replies
        ]
        most = max(set(keys), key=lambda k: (keys.count(k), k), default=())
        for reply, got in zip(replies, keys, strict=True):
            if got != most:
                odd = ", ".join(sorted(set(got) ^ set(most)))
                reason = f"its metrics differ from the other clients': {odd}"
                self._grid.leave_out(reply.metadata.src_node_id, reason)
        return [r for r, got in zip(replies, keys, strict=True) if got == most]

    def _sound(self, number: int, arrays: ArrayRecord) -> ArrayRecord:
        state = to_state(self.layout, arrays)
        if not np.isfinite(state.floats).all():
            raise RoundError(
                f"round {number}: {type(self.inner).__name__} made a model with NaN or infinite values; the last checkpoint is kept"
            )
        tied = self.layout.tie(state)
        return (
            arrays
            if tied is state and is_held(arrays)
            else for_strategy(self.layout, tied)
        )

    def _reason(self) -> str:
        failures = self._grid.failures()
        if not failures:
            return f", and {type(self.inner).__name__} made no model of them"
        client, reason = next(iter(sorted(failures.items())))
        return f" (client {client}: {reason})"

    def _seed(self, verb: str, number: int) -> None:
        seed = derive(self.seed, f"strategy-{verb}", number, self.attempt)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def _call(self, verb: str, *arguments: Any) -> Any:
        try:
            return getattr(self.inner, verb)(*arguments)
        except FedlearnError:
            raise
        except Exception as error:  # a strategy may be the user's, and Flower's own raise on odd rounds
            what = f"{type(self.inner).__name__}.{verb} raised {type(error).__name__} in round {arguments[0]}"
            raise RunError(f"{what}: {error}") from error


def _examples(reply: Message) -> float:
    """Return how many samples a client evaluated on; one that keeps none says nothing."""
    for metrics in reply.content.metric_records.values():
        if EXAMPLES in metrics:
            return float(metrics[EXAMPLES])  # type: ignore[arg-type]
    return 1.0


def summarise(reports: list[MetricRecord]) -> dict[str, float]:
    """Return what clients' evaluations say together, each client counting alike.

    clients: how many; accuracy: their mean; worst10: the mean of the worst 10 % (at least one); spread: the
    standard deviation; loss: the mean. What clients do not report, or is not finite, is left out.
    """
    out: dict[str, float] = {"clients": len(reports)}
    accuracy = np.sort(_finite(reports, "accuracy"))
    if accuracy.size:
        worst = accuracy[: max(1, round(0.1 * accuracy.size))]
        out |= {
            "accuracy": float(accuracy.mean()),
            "worst10": float(worst.mean()),
            "spread": float(accuracy.std()),
        }
    losses = _finite(reports, "loss")
    return out | ({"loss": float(np.mean(losses))} if losses else {})


def _finite(reports: list[MetricRecord], name: str) -> list[float]:
    values = [float(r[name]) for r in reports if name in r]  # type: ignore[arg-type]
    return [v for v in values if np.isfinite(v)]
