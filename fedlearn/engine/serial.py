"""`Serial`: one client after another in this process. The oracle of every faster engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
            return add([self.runner.score(part, state) for part in range(self.runner.parts)])
        except Exception as error:  # the model is the user's code
            raise RunError(f"the evaluation of held-out samples failed: {type(error).__name__}: {error}") from error

    def refused(self, client: int, reason: str) -> None:
        """Do nothing: the run's line tells."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
