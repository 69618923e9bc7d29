"""`Guarded`: any Flower strategy, protected from the ways in which a run fails silently.

Around the strategy's four verbs it
- seeds Python's and numpy's global generators, which Flower's strategies draw from, per
  (round, attempt, verb);
- leaves out error replies, so that one failed client does not cost the others' work
  (Bulyan and the wrappers for differential privacy discard a round with any error in it),
  and replies whose metrics the others do not have;
- repeats a round that gave too few updates or no model with a new cohort, and ends the
  run when that does not help: a run in which nothing was learned is an error (Flower ends
  with success and the initial model);
- gives the aggregated model its own dtypes back (FedAdam and QFedAvg return float64,
  FedAvg turns counters into floats) and refuses one that is not finite.
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
from fedlearn.errors import FedlearnError, RoundError, StrategyError
from fedlearn.flower import EXAMPLES, for_strategy, is_held, to_state
from fedlearn.seeds import derive
from fedlearn.strategies.cohorts import takes_payloads
from fedlearn.strategies.sparing import spare

# A new model and its metrics; None twice: there is no new model.
Aggregate = tuple[ArrayRecord | None, MetricRecord | None]


class Failures(Protocol):
    """What the guard needs of a Grid besides Flower's methods: attempts and failures."""

    def begin(self, round: int) -> None:
        """Start a round."""

    def begin_attempt(self) -> None:
        """Start another attempt of the round."""

    def failures(self) -> Mapping[int, str]:
        """Return the reasons of the clients that failed in this round."""

    def leave_out(self, client: int, reason: str) -> None:
        """Note that a client's update is not used."""


class Guarded(Strategy):
    """A strategy behind the guard; a resumed run's rounds start after the first.

    attempt: of the current round, from 0. train_loss: of the last round; None where
    clients report none. evaluation: what this round's clients evaluated, see `summarise`;
    None without any.
    """

    def __init__(
        self,
        inner: Strategy,
        layout: Layout,
        seed: int,
        *,
        first_round: int = 1,
        min_clients: int = 1,
        attempts: int = 3,
        settings: Callable[[int], Mapping[str, Any]] = lambda number: {},
        evaluates: Callable[[int], bool] = lambda number: True,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Take the strategy.

        first_round: what Flower's loop calls round 1. settings: round → what the
        experiment adds to the strategy's train config. evaluates: rounds in which clients
        may evaluate. note: called with a line about a repeated round.
        """
        # First: `__getattr__` looks for everything else on it.
        self.inner = inner
        self.layout = layout
        self.seed = seed
        # Flower counts from 1 in each run; ours go on where the last run ended.
        self.offset = first_round - 1
        self.min_clients = min_clients
        self.attempts = attempts
        self.settings = settings
        self.evaluates = evaluates
        self.note = note
        self.attempt = 0
        self.train_loss: float | None = None
        self.evaluation: dict[str, float] | None = None
        self._grid: Any = None
        # Makes the messages of another attempt of this round.
        self._configure_again: Callable[[], Iterable[Message]]
        # Replies of this attempt: all, and those without an error.
        self._replies = 0
        self._usable = 0

    def run(
        self,
        grid: Grid,
        arrays: ArrayRecord,
        rounds: int,
        after: Callable[[int, ArrayRecord], None],
    ) -> Result:
        """Run the rounds up to ``rounds`` by the strategy's own ``start``.

        after: called with each round's number and its new model.
        """

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            # Flower calls this for the initial model too, as round 0.
            if server_round:
                after(server_round + self.offset, arrays)
            return None

        # Unbound: a strategy's own loop runs with the guard in the strategy's place.
        start = type(self.inner).start
        return start(
            self,
            grid,
            arrays,
            num_rounds=rounds - self.offset,
            train_config=ConfigRecord(),
            evaluate_fn=evaluate,
        )

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the strategy, for a ``start`` that looks on itself."""
        if name == "inner":
            # Not set yet, as in unpickling: without this, the search would not end.
            raise AttributeError(name)
        return getattr(self.inner, name)

    def summary(self) -> None:
        """Log nothing: the run's own progress shows what is running."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages of a round's first attempt."""
        number = server_round + self.offset
        self._grid = grid
        self.attempt = 0
        self._grid.begin(number)

        # Another attempt has the same model and config, and another seed and cohort.
        def configure() -> Iterable[Message]:
            self._seed("configure", number)
            settings = self.settings(number)
            request = ConfigRecord({**config, **settings, "attempt": self.attempt})
            return list(self._call("configure_train", number, arrays, request, grid))

        self._configure_again = configure
        return configure()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> Aggregate:
        """Return the new model, after as many attempts as it takes.

        Raises RoundError when no attempt gives one, StrategyError when it is no model.
        """
        number = server_round + self.offset
        # Flower's loop would go on to the next round: attempts are made within this one.
        while True:
            self._seed("aggregate", number)
            arrays, metrics = self._aggregate(number, replies)
            if arrays is not None:
                self.train_loss = _loss(metrics)
                return arrays, metrics
            self._begin_attempt(number)
            replies = self._grid.send_and_receive(self._configure_again())

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the clients that evaluate; none in other rounds."""
        number = server_round + self.offset
        self.evaluation = None
        if not self.evaluates(number):
            return []
        self._seed("configure-evaluate", number)
        return list(self._call("configure_evaluate", number, arrays, config, grid))

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the strategy's own sum of the clients' evaluations; note ours too."""
        number = server_round + self.offset
        self._replies = 0
        # A client without held-out samples has nothing to report.
        scored = [r for r in self._sound_replies(replies) if _examples(r) > 0]
        # By client: the order of arrival must not reach the strategy.
        scored.sort(key=lambda reply: reply.metadata.src_node_id)
        usable = self._consistent(scored)
        if not usable:
            return None
        reports = [
            next(iter(reply.content.metric_records.values())) for reply in usable
        ]
        failed = self._replies - len(usable)
        self.evaluation = {"failed": failed} | summarise(reports)
        self._seed("aggregate-evaluate", number)

        # In a tuple: none at all is a result too.
        def call(some: list[Message]) -> tuple[MetricRecord | None]:
            return (self._call("aggregate_evaluate", number, some),)

        (metrics,), odd, reason = spare(call, self.inner, usable, 0, lambda _: True)
        for reply in odd:
            client = reply.metadata.src_node_id
            self.note(f"round {number}: client {client}'s evaluation: {reason}")
        return metrics

    def _begin_attempt(self, number: int) -> None:
        """Start the round's next attempt; raises RoundError when there is none left."""
        self.attempt += 1
        why = (
            f"{self._usable} of {self._replies} clients gave a usable update"
            f"{self._reason()}"
        )
        if self.attempt >= self.attempts:
            raise RoundError(
                f"round {number} learned nothing in {self.attempts} attempts: {why}. "
                f"At least {self.min_clients} are needed (experiment.min_clients); "
                "the last checkpoint is kept"
            )
        self.note(
            f"round {number}, attempt {self.attempt}: {why}; again with a new cohort"
        )
        self._grid.begin_attempt()

    def _aggregate(self, number: int, replies: Iterable[Message]) -> Aggregate:
        """Return the strategy's new model of the sound replies."""
        self._usable = 0
        self._replies = 0
        sound: Iterable[Message] = self._sound_replies(replies)
        if not takes_payloads(self.inner):
            usable = self._consistent(list(sound))
            # Those of odd metrics are not usable after all.
            self._usable = len(usable)
            if self._usable < self.min_clients:
                return None, None
            return self._sparing(number, usable)
        aggregate = self._sound(number, self._call("aggregate_train", number, sound))
        for client, reason in getattr(self.inner, "left_out", {}).items():
            self._leave_out(client, reason)
        return aggregate

    def _sparing(self, number: int, replies: list[Message]) -> Aggregate:
        """Return the strategy's new model; without the one reply on which it fails."""

        def call(some: list[Message]) -> Aggregate:
            self._seed("aggregate", number)
            return self._sound(number, self._call("aggregate_train", number, some))

        aggregate, odd, reason = spare(
            call, self.inner, replies, self.min_clients, lambda new: new[0] is not None
        )
        for reply in odd:
            self._leave_out(reply.metadata.src_node_id, reason)
        return aggregate

    def _leave_out(self, client: int, reason: str) -> None:
        self._usable -= 1
        self._grid.leave_out(client, reason)

    def _sound_replies(self, replies: Iterable[Message]) -> Iterator[Message]:
        """Yield the replies without an error, and count all of them."""
        for reply in replies:
            self._replies += 1
            if not reply.has_error():
                self._usable += 1
                yield reply

    def _consistent(self, replies: list[Message]) -> list[Message]:
        """Return the replies that report the metrics that most of them report.

        Flower's strategies fail when one differs.
        """
        names = [_metric_names(reply) for reply in replies]
        # Of two that are equally common the later in the alphabet: not the first to arrive.
        common = max(set(names), key=lambda key: (names.count(key), key), default=())
        consistent = []
        for reply, reported in zip(replies, names, strict=True):
            if reported == common:
                consistent.append(reply)
                continue
            odd = ", ".join(sorted(set(reported) ^ set(common)))
            reason = f"its metrics differ from the other clients': {odd}"
            self._grid.leave_out(reply.metadata.src_node_id, reason)
        return consistent

    def _sound(self, number: int, aggregate: Aggregate) -> Aggregate:
        """Return a new model in its layout's dtypes, and its metrics.

        Raises StrategyError if the model is not finite.
        """
        arrays, metrics = aggregate
        if arrays is None:
            return None, None
        state = to_state(self.layout, arrays)
        if not np.isfinite(state.floats).all():
            raise StrategyError(
                f"round {number}: {type(self.inner).__name__} made a model with NaN or "
                "infinite values; the last checkpoint is kept"
            )
        # Tensors that share their values may have been moved apart.
        tied = self.layout.tie(state)
        if tied is state and is_held(arrays):
            # Ours already: no copy of the model is needed.
            return arrays, metrics
        return for_strategy(self.layout, tied), metrics

    def _reason(self) -> str:
        """Return why an attempt gave no model: one client's failure, or the strategy."""
        failures = self._grid.failures()
        if not failures:
            return f", and {type(self.inner).__name__} made no model of them"
        # The first by number: which failed first depends on the machine.
        client, reason = min(failures.items())
        return f" (client {client}: {reason})"

    def _seed(self, verb: str, number: int) -> None:
        """Seed the global generators for a verb of a round's attempt."""
        seed = derive(self.seed, f"strategy-{verb}", number, self.attempt)
        random.seed(seed)
        # numpy takes 32 bits.
        np.random.seed(seed % 2**32)

    def _call(self, verb: str, number: int, *arguments: Any) -> Any:
        """Call a verb of the strategy for a round.

        Raises StrategyError for any error of its own: a strategy may be the user's, and
        Flower's own raise on odd rounds.
        """
        try:
            return getattr(self.inner, verb)(number, *arguments)
        except FedlearnError:
            raise
        except Exception as error:
            kind = type(error).__name__
            raise StrategyError(
                f"{type(self.inner).__name__}.{verb} raised {kind} in round {number}: "
                f"{error}"
            ) from error


def _loss(metrics: MetricRecord | None) -> float | None:
    """Return the training loss among a round's metrics; None where there is none."""
    loss = metrics.get("train_loss") if metrics else None
    # A user's strategy may report a list.
    if not isinstance(loss, int | float):
        return None
    return float(loss)


def _examples(reply: Message) -> float:
    """Return how many samples a client evaluated on; 1 where it does not report that."""
    for metrics in reply.content.metric_records.values():
        if EXAMPLES in metrics:
            return float(metrics[EXAMPLES])  # type: ignore[arg-type]
    return 1.0


def _metric_names(reply: Message) -> tuple[str, ...]:
    """Return the names of all metrics of a reply, sorted; of a list with its length."""
    names = []
    for metrics in reply.content.metric_records.values():
        for name, value in metrics.items():
            if isinstance(value, list):
                name = f"{name}[{len(value)}]"
            names.append(name)
    return tuple(sorted(names))


def summarise(reports: list[MetricRecord]) -> dict[str, float]:
    """Return what clients' evaluations come to, each client counting alike.

    clients: how many; accuracy: their mean; worst10: the mean of the worst 10 % (at least
    one client); spread: the standard deviation of the accuracies; loss: the mean. What
    clients do not report, or is not finite, is left out.
    """
    summary: dict[str, float] = {"clients": len(reports)}
    accuracies = np.sort(_finite(reports, "accuracy"))
    if accuracies.size:
        count = max(1, round(0.1 * accuracies.size))
        worst = accuracies[:count]
        summary["accuracy"] = float(accuracies.mean())
        summary["worst10"] = float(worst.mean())
        summary["spread"] = float(accuracies.std())
    losses = _finite(reports, "loss")
    if losses:
        summary["loss"] = float(np.mean(losses))
    return summary


def _finite(reports: list[MetricRecord], name: str) -> list[float]:
    """Return the finite values of a metric, of the clients that report it."""
    values = [
        float(report[name])  # type: ignore[arg-type]
        for report in reports
        if name in report
    ]
    return [value for value in values if np.isfinite(value)]
