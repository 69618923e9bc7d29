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

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedlearn.arrays import Layout
from fedlearn.errors import RoundError, VerbError
from fedlearn.strategies.answers import Aggregate
from fedlearn.strategies.cohorts import shares
from fedlearn.strategies.detour import Detour
from fedlearn.strategies.evaluations import Evaluations
from fedlearn.strategies.notes import Notes
from fedlearn.strategies.round_order import RoundOrder
from fedlearn.strategies.train_config import ATTEMPT, TrainConfig
from fedlearn.strategies.updates import Updates
from fedlearn.strategies.verbs import VERBS, Verbs


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


class Guarded:
    """A strategy behind the guard; a resumed run's rounds start after the first.

    The strategy's own ``start`` runs on the strategy itself, and meets the guard where it
    calls a verb of its own.

    attempt: of the current round, from 0. updates, evaluations: what came of the last
    round's.
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
        config: TrainConfig | None = None,
        settings: Callable[[int], Mapping[str, Any]] = lambda number: {},
        evaluate_config: Mapping[str, Any] | None = None,
        evaluates: Callable[[int], bool] = lambda number: True,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Take the strategy.

        first_round: what Flower's loop calls round 1. config: what the strategy's train
        config holds before. settings: round → what the experiment adds to it.
        evaluate_config: what the messages to evaluate hold. evaluates: rounds in which
        clients may evaluate. note: called with a line about a repeated round.
        """
        self.inner = inner
        self.name = type(inner).__name__
        self.verbs = Verbs(inner, seed)
        # Flower counts from 1 in each run; ours go on where the last run ended.
        self.offset = first_round - 1
        self.min_clients = min_clients
        self.attempts = attempts
        self.config = config or TrainConfig()
        self.settings = settings
        self.evaluate_config = ConfigRecord(dict(evaluate_config or {}))
        self.notes = Notes(note)
        self.attempt = 0
        self.updates = Updates(self.verbs, layout, min_clients, self.notes)
        self.evaluations = Evaluations(self.verbs, evaluates, self.notes)
        self._detour = Detour(inner, {verb: self._as_meant(verb) for verb in VERBS})
        # Flower's own loop has no use for scores, which cost time.
        self._has_own_start = type(inner).start is not Strategy.start
        self._order: RoundOrder
        self._score: Callable[[ArrayRecord], Mapping[str, float]]
        # What ended the run, should the strategy's loop catch it and go on.
        self._failure: BaseException | None = None
        # What a verb raised last, for a ``start`` of the strategy's own to catch.
        self._raised: VerbError | None = None
        # Whether any round gave a model.
        self._has_learned = False
        self._grid: Any = None
        # Makes the messages of another attempt of this round.
        self._configure_again: Callable[[], Iterable[Message]]
        # Messages of this attempt.
        self._messages = 0

    def run(
        self,
        grid: Grid,
        arrays: ArrayRecord,
        rounds: int,
        after: Callable[[int, ArrayRecord], None],
        score: Callable[[ArrayRecord], Mapping[str, float]] = lambda arrays: {},
    ) -> ArrayRecord | None:
        """Run the rounds up to ``rounds`` by the strategy's own ``start``.

        after: called with each round's number and its new model. score: of a model on
        held-out samples, for a ``start`` of the strategy's own. Returns the model that
        such a ``start`` ends with, where it returns one.
        """
        start = f"{self.name}.start"
        self._has_learned = False
        self._order = RoundOrder(start, self.offset, rounds, after)
        self._score = score
        self._failure = None
        self._raised = None
        with self._detour.led():
            result = self._start(grid, arrays, rounds)
        ended = self._order.end(self._raised)
        # A resumed run may have learned before; its last rounds may wait.
        if not (self._has_learned or self.offset):
            raise RoundError(
                f"{self.name}.aggregate_train made no model in {self._order.begun} rounds: "
                "nothing was learned"
            )
        if ended:
            self.notes.say(ended)
        returned = None
        # Flower makes a result without arrays where no round gave any.
        if isinstance(result, Result) and result.arrays:
            returned = self.updates.sound(self._order.begun, result.arrays)
        elif self._has_own_start:
            self.notes.say(
                f"{start} returned {type(result).__name__} without a model; "
                "the run ends with the model of its last round"
            )
        return returned if self._has_own_start else None

    def _start(self, grid: Grid, arrays: ArrayRecord, rounds: int) -> Any:
        """Call the strategy's ``start``. Raises what ended the run."""
        start = self.inner.start
        offered = {
            "num_rounds": rounds - self.offset,
            "train_config": self.config.record,
            "evaluate_config": self.evaluate_config,
            "evaluate_fn": self._evaluate,
        }
        result = None
        try:
            result = start(grid, arrays, **_accepted(start, offered))
        except Exception as error:
            # A verb's own name says more than that of the loop that lets it pass.
            if self._raised is not None and error is self._raised.__cause__:
                raise self._raised from error
            # Flower's own loop does nothing that could fail by itself.
            if self._failure is None and self._has_own_start:
                raise self.verbs.error("start", self._order.begun, error) from error
            if self._failure is None:
                raise
        # The strategy may have caught it and gone on, or raised another.
        if self._failure is not None:
            raise self._failure
        return result

    def _as_meant(self, name: str) -> Callable[..., Any]:
        """Return a verb of ours that raises what the strategy's own verb has raised.

        A ``start`` of the strategy's own may await it, as the end of its rounds.
        """
        verb: Callable[..., Any] = getattr(self, name)

        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return verb(*arguments, **options)
            except VerbError as error:
                if not self._has_own_start or error.__cause__ is None:
                    raise
                raise error.__cause__ from None

        return call

    def _evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Record a round, and return the model's score for a loop of the strategy's own.

        Round 0 is the model that the rounds begin from.
        """
        with self._lasting():
            number = server_round + self.offset
            if number == self._order.begun > self._order.recorded:
                self._order.record(number, self.updates.sound(number, arrays))
            if not self._has_own_start:
                return None
            self._order.scored = number
            return MetricRecord(dict(self._score(arrays)))

    @contextmanager
    def _lasting(self) -> Iterator[None]:
        """Run a part of ours inside the strategy's loop, which is itself there.

        What is raised inside ends the run, whatever the loop makes of it; but for what a
        verb of the strategy itself raises, which is for its own loop.
        """
        if self._failure is not None:
            raise self._failure
        try:
            with self._detour.aside():
                yield
        except VerbError as error:
            self._order.withdraw()
            self._raised = error
            if not self._has_own_start:
                self._failure = error
            raise
        except BaseException as error:
            self._failure = error
            raise

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages of a round's first attempt."""
        number = server_round + self.offset
        with self._lasting():
            self._order.begin(number, arrays)
            self.updates.before = arrays
            self._grid = grid
            self.attempt = 0
            self._grid.begin(number)
            if not isinstance(config, ConfigRecord):
                config = ConfigRecord(config)
            self.config.fill(config, self.settings(number))
            before = dict(config)

            # Another attempt has the same model and config, and another seed and cohort.
            def configure() -> Iterable[Message]:
                # The strategy may have changed it; what it writes this time counts.
                _reset(config, {**before, ATTEMPT: self.attempt})
                arguments = (number, arrays, config, grid)
                messages: list[Message] = self._answer("configure_train", *arguments)
                self._messages = len(messages)
                return messages

            self._configure_again = configure
            return configure()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> Aggregate:
        """Return the new model, after as many attempts as it takes.

        Raises RoundError when no attempt gives one, StrategyError when it is no model.
        """
        number = server_round + self.offset
        with self._lasting():
            self._order.aggregate(number)
            # Flower's loop would go on to the next round: attempts are made within this one.
            while True:
                arrays, metrics = self.updates.aggregate(
                    number, self.attempt, replies, self._grid.leave_out
                )
                if arrays is not None:
                    self._order.model = self.updates.before = arrays
                    self._has_learned = True
                    return arrays, metrics
                if self.updates.is_waiting:
                    self._wait(number)
                    return None, metrics
                self._begin_attempt(number)
                replies = self._grid.send_and_receive(self._configure_again())

    def _wait(self, number: int) -> None:
        """Go on with the model as it is: the strategy has chosen so."""
        self._order.model = self.updates.before
        self.notes.once(
            f"round {number}: {self.name}.aggregate_train made no model of "
            f"{self.updates.usable} updates; the model stays, as in Flower",
            "a round without a model",
        )

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the clients that evaluate; none in other rounds."""
        number = server_round + self.offset
        with self._lasting():
            return self.evaluations.configure(
                number, self.attempt, arrays, config, grid
            )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the strategy's own sum of the clients' evaluations; note ours too."""
        number = server_round + self.offset
        with self._lasting():
            return self.evaluations.aggregate(number, self.attempt, replies)

    def _begin_attempt(self, number: int) -> None:
        """Start the round's next attempt; raises RoundError when there is none left."""
        self.attempt += 1
        why = (
            f"{self.updates.usable} of {self.updates.replies} clients gave a usable update"
            f"{self._reason()}"
        )
        if not self._messages:
            why = f"{self.name}.configure_train asked no client{shares(self.inner)}"
        if self.attempt >= self.attempts:
            raise RoundError(
                f"round {number} learned nothing in {self.attempts} attempts: {why}. "
                f"At least {self.min_clients} are needed (experiment.min_clients); "
                "the last checkpoint is kept"
            )
        self.notes.say(
            f"round {number}, attempt {self.attempt}: {why}; again with a new cohort"
        )
        self._grid.begin_attempt()

    def _answer(self, verb: str, number: int, *arguments: Any) -> Any:
        """Return what a verb of the strategy answers; see `Verbs.call`."""
        return self.verbs.call(verb, number, self.attempt, *arguments)

    def _reason(self) -> str:
        """Return why an attempt gave no model: one client's failure, or the strategy."""
        failures = self._grid.failures()
        if not failures:
            return f", and {self.name} made no model of them"
        # The first by number: which failed first depends on the machine.
        client, reason = min(failures.items())
        return f" (client {client}: {reason})"


def _accepted(start: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the offered arguments that a ``start`` takes by name."""
    parameters = inspect.signature(start).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(offered)
    return {name: value for name, value in offered.items() if name in parameters}


def _reset(config: ConfigRecord, values: Mapping[str, Any]) -> None:
    """Give a config these values and no others; it stays the same object."""
    for key in list(config):
        del config[key]
    config.update(values)
