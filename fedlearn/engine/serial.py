"""`Serial`: one client after another in this process. The oracle of every faster engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedlearn.arrays import State
from fedlearn.clients.evaluate import Score, add
from fedlearn.engine.patience import SCORING, Patience, WorkWatch
from fedlearn.engine.protocol import EveryClient
from fedlearn.engine.runner import Runner, single_thread
from fedlearn.engine.task import Outcome, Task
from fedlearn.errors import RunError, reason_of

# This process cannot end a client's work and go on.
_ADVICE = (
    'engine.kind = "pool" with engine.client_timeout_s fails a client that takes longer'
)


class Serial(EveryClient):
    """One client after another, in the order of the tasks."""

    workers = 1

    def __init__(self, runner: Runner) -> None:
        """Take the clients."""
        single_thread()
        self.runner = runner
        self.watch = WorkWatch(Patience(runner.note, _ADVICE))

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task, in order."""
        for task in tasks:
            yield from self.watched((task,), payload)

    def watched(self, unit: tuple[Task, ...], payload: bytes) -> list[Outcome]:
        """Return the outcomes of tasks, while somebody looks at how long they take."""
        self.watch.begin(unit)
        try:
            return self.answer(unit, payload)
        finally:
            self.watch.end()

    def answer(self, unit: tuple[Task, ...], payload: bytes) -> list[Outcome]:
        """Return the outcomes of tasks."""
        return [self.runner.run(task, payload) for task in unit]

    def score(self, state: State) -> Score:
        """Return a model's score on the held-out samples. Raises RunError."""
        runner = self.runner
        self.watch.begin(SCORING)
        try:
            return add([runner.score(part, state) for part in range(runner.parts)])
        except Exception as error:  # the model is the user's code
            raise RunError(
                f"the evaluation of held-out samples failed: {reason_of(error)}"
            ) from error
        finally:
            self.watch.end()

    def close(self) -> None:
        """Look no more."""
        self.watch.close()
