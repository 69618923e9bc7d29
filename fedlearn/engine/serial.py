"""`Serial`: one client after another in this process. The oracle of every faster engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from fedlearn.arrays import State
from fedlearn.clients.evaluate import Score, add
from fedlearn.engine.runner import Outcome, Runner, Task, single_thread
from fedlearn.errors import RunError


class Engine(Protocol):
    """Runs the clients of a cohort; which engine it is never changes an outcome."""

    workers: int

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task, in any order; ``payload`` is the model that all of them are sent."""

    def available(self, round: int) -> Sequence[int] | None:
        """Return the clients that can be asked in a round now; None: every client, always."""

    def score(self, state: State) -> Score:
        """Return the score of a model on the server's held-out samples."""

    def refused(self, client: int, reason: str) -> None:
        """Take note that a client's last answer cannot be used."""

    def close(self) -> None:
        """Release what the engine holds; it cannot be used afterwards."""


class Around:
    """An engine before another one, which does what this one does not do itself."""

    inner: Engine

    def available(self, round: int) -> Sequence[int] | None:
        """Return the inner engine's clients."""
        return self.inner.available(round)

    def score(self, state: State) -> Score:
        """Return the inner engine's score."""
        return self.inner.score(state)

    def refused(self, client: int, reason: str) -> None:
        """Tell the inner engine."""
        self.inner.refused(client, reason)

    def close(self) -> None:
        """Close the inner engine."""
        self.inner.close()


def whole_score(found: Iterable[tuple[int, object]]) -> Score:
    """Return the score of all parts, which come in any order; raises RunError with the reason that one has none."""
    scores = {}
    for part, score in found:
        if not isinstance(score, Score):
            raise RunError(f"the evaluation of held-out samples failed: {score}")
        scores[part] = score
    return add(scores[part] for part in sorted(scores))


class Serial:
    """One client after another, in the order of the tasks."""

    workers = 1

    def __init__(self, runner: Runner) -> None:
        """Take the clients."""
        single_thread()
        self.runner = runner

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task, in order."""
        for task in tasks:
            yield self.runner.run(task, payload)

    def available(self, round: int) -> None:
        """Return None: every client is here."""

    def score(self, state: State) -> Score:
        """Return the score of a model on the server's held-out samples; raises RunError when it cannot be had."""
        try:
            return add(
                [self.runner.score(part, state) for part in range(self.runner.parts)]
            )
        except Exception as error:  # the model is the user's code
            raise RunError(
                f"the evaluation of held-out samples failed: {type(error).__name__}: {error}"
            ) from error

    def refused(self, client: int, reason: str) -> None:
        """Do nothing: the run's line tells."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
