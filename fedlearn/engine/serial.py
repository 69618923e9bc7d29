"""`Serial`: one client after another in this process. The oracle of every faster engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedlearn.arrays import State
from fedlearn.clients.evaluate import Score, add
from fedlearn.engine.protocol import EveryClient
from fedlearn.engine.runner import Runner, single_thread
from fedlearn.engine.task import Outcome, Task
from fedlearn.errors import RunError, reason_of


class Serial(EveryClient):
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

    def score(self, state: State) -> Score:
        """Return a model's score on the held-out samples. Raises RunError."""
        runner = self.runner
        try:
            return add([runner.score(part, state) for part in range(runner.parts)])
        except Exception as error:  # the model is the user's code
            raise RunError(
                f"the evaluation of held-out samples failed: {reason_of(error)}"
            ) from error

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
