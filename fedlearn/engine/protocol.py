"""`Engine`: what runs the clients of a cohort, whatever is behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from fedlearn.arrays import State
from fedlearn.clients.evaluate import Score, add
from fedlearn.engine.task import Outcome, Task
from fedlearn.errors import RunError


class Engine(Protocol):
    """Runs the clients of a cohort; which engine it is never changes an outcome.

    workers: processes that train at the same time. not_stacked: why clients are trained
    one at a time although stacks were asked for; "" otherwise.
    """

    workers: int
    not_stacked: str

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task, in any order; all tasks start from ``payload``."""

    def available(self, round: int) -> Sequence[int] | None:
        """Return the clients that can be asked in a round now; None: all, always."""

    def score(self, state: State) -> Score:
        """Return a model's score on the held-out samples. Raises RunError."""

    def refused(self, client: int, reason: str) -> None:
        """Take note that a client's last answer cannot be used."""

    def remark(self, client: int, text: str) -> None:
        """Take note of what is odd about a client's last answer, which is used."""

    def close(self) -> None:
        """Release what the engine holds; it cannot be used afterwards."""


class EveryClient:
    """What engines share whose clients are simulated: each can be asked, in every round."""

    not_stacked = ""

    def available(self, round: int) -> None:
        """Return None: every client can be asked."""

    def refused(self, client: int, reason: str) -> None:
        """Do nothing: the run's line has the reason, and nobody else waits for it."""

    def remark(self, client: int, text: str) -> None:
        """Do nothing: a simulation has no log."""


class Layer:
    """An engine in front of another one; what it does not do itself, the inner one does."""

    def __init__(self, inner: Engine) -> None:
        """Take the inner engine."""
        self.inner = inner
        self.workers = inner.workers
        self.not_stacked = inner.not_stacked

    def available(self, round: int) -> Sequence[int] | None:
        """Return the inner engine's clients."""
        return self.inner.available(round)

    def score(self, state: State) -> Score:
        """Return the inner engine's score. Raises RunError."""
        return self.inner.score(state)

    def refused(self, client: int, reason: str) -> None:
        """Tell the inner engine."""
        self.inner.refused(client, reason)

    def remark(self, client: int, text: str) -> None:
        """Tell the inner engine."""
        self.inner.remark(client, text)

    def close(self) -> None:
        """Close the inner engine."""
        self.inner.close()


def whole_score(results: Iterable[tuple[int, object]]) -> Score:
    """Return the score of all parts, which come as (part, score or reason) in any order.

    Raises RunError with the reason that one part has no score.
    """
    scores: dict[int, Score] = {}
    for part, result in results:
        if not isinstance(result, Score):
            raise RunError(f"the evaluation of held-out samples failed: {result}")
        scores[part] = result
    # In the order of the parts: the sum is exact, and the order then never matters.
    return add(scores[part] for part in sorted(scores))
