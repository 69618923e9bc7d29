"""`RoundOrder`: which rounds a strategy's ``start`` has begun, aggregated and had recorded.

A ``start`` is the user's code. Rounds that it leaves out, mixes up or does not have
recorded must not end as a finished run with the model of another round.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ArrayRecord

from fedlearn.errors import RunError, VerbError

_LOOP = (
    "a loop of its own calls self.configure_train, grid.send_and_receive and "
    "self.aggregate_train in each round, or returns super().start(…)"
)


class RoundOrder:
    """The rounds of one run, from the first that is missing to the last.

    Rounds are the run's own: a resumed one goes on where it ended.
    """

    def __init__(
        self,
        start: str,
        done: int,
        rounds: int,
        record: Callable[[int, ArrayRecord], None],
    ) -> None:
        """Take what records a round. start: for errors, such as "FedAvg.start"."""
        self.start = start
        self.first = done + 1
        self.rounds = rounds
        self.begun = done
        self.recorded = done
        # The round whose score the strategy asked for last.
        self.scored = done
        self.model: ArrayRecord | None = None
        self._record = record

    def begin(self, number: int, arrays: ArrayRecord) -> None:
        """Note that a round begins from a model; the one before is recorded with it.

        Raises RunError for a round out of order, and where the one before has no model.
        """
        if number != self.begun + 1 or number > self.rounds:
            raise RunError(
                f"{self.start} began round {number} after round {self.begun} of "
                f"{self.rounds}: it counts from 1 to num_rounds, each round once"
            )
        self._record_begun(arrays)
        self.begun = number
        self.model = None

    def withdraw(self) -> None:
        """Note that the round which has begun makes no model: a verb of it has raised."""
        if self.recorded < self.begun and self.model is None:
            self.begun -= 1

    def aggregate(self, number: int) -> None:
        """Check that a round may be aggregated. Raises RunError."""
        if number != self.begun or number < self.first:
            raise RunError(
                f"{self.start} called aggregate_train for round {number}, which "
                f"configure_train did not begin; {_LOOP}"
            )

    def record(self, number: int, arrays: ArrayRecord) -> None:
        """Record a round with its model, where that is not done yet."""
        if number == self.begun > self.recorded:
            self.recorded = number
            self.model = arrays
            self._record(number, arrays)

    def end(self, why: VerbError | None = None) -> str:
        """Note that ``start`` has ended, and return what to tell.

        why: what one of its verbs raised, which it took as an end. Raises RunError where
        rounds are missing, unless the strategy saw a score before, or has raised.
        """
        if self.begun < self.first:
            raise why or RunError(f"{self.start} ended and did no round; {_LOOP}")
        self._record_begun(self.model)
        if self.recorded == self.rounds:
            return ""
        ended = f"{self.start} ended after round {self.recorded} of {self.rounds}"
        if why is not None:
            return f"{ended}: {why}"
        # Only who sees a score can stop early by it.
        if self.scored != self.recorded:
            raise RunError(f"{ended}; it does num_rounds of them")
        return ended

    def _record_begun(self, arrays: ArrayRecord | None) -> None:
        """Record the round that has begun, if `record` has not. Raises RunError."""
        if self.recorded == self.begun:
            return
        if self.model is None or arrays is None:
            raise RunError(
                f"{self.start} went on from round {self.begun} without its "
                f"aggregate_train; {_LOOP}"
            )
        self.record(self.begun, arrays)
