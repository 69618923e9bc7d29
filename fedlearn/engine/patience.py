"""A line about work that takes much longer than any before it, such as a client that sleeps."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from fedlearn.engine.task import Task
from fedlearn.text import first_few

# Seconds without an answer before a line is said; a run's first round has nothing to
# compare with.
FIRST_S = 20.0

# A line is said when nothing came for so many times the longest silence before, and again
# whenever the silence has grown by that factor.
FACTOR = 3

# Seconds between two looks at what is at work.
LOOK_S = 1.0

# What is being done where no client is.
SCORING = "the evaluation of held-out samples"

# Clients that a line names.
_NAMED = 8


class Patience:
    """How long an engine has waited for its clients; only time spent waiting counts."""

    def __init__(self, note: Callable[[str], None], advice: str) -> None:
        """Take what shows a line, and what a user can do about a client."""
        self._note = note
        self._advice = advice
        self._silence_s = 0.0
        self._longest_s = 0.0
        self._limit_s = FIRST_S

    def came(self) -> None:
        """Take note that an answer has come."""
        self._longest_s = max(self._longest_s, self._silence_s)
        self._silence_s = 0.0
        self._limit_s = max(FIRST_S, FACTOR * self._longest_s)

    def passed(self, seconds: float, works: Sequence[object]) -> None:
        """Take note that so many seconds more passed without an answer.

        works: what is being done, each the tasks of some clients, or a text.
        """
        self._silence_s += seconds
        if self._silence_s < self._limit_s:
            return
        self._limit_s = FACTOR * self._silence_s
        # The parts of the held-out samples have one text.
        names = dict.fromkeys(map(_described, works))
        advice = ""
        if any(isinstance(work, tuple) for work in works):
            advice = f"; {self._advice}"
        self._note(
            f"nothing has come for {self._silence_s:.0f} s; still at work: "
            f"{first_few(names, _NAMED)}{advice}"
        )


class WorkWatch:
    """Has a thread look at the work of this process, which itself cannot look up."""

    def __init__(self, patience: Patience) -> None:
        """Take whose patience it is; the thread begins with the first work."""
        self._patience = patience
        self._work: object = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def begin(self, work: object) -> None:
        """Take note of what is being done from now on; see `Patience.passed`."""
        self._patience.came()
        self._work = work
        if self._thread.ident is None:
            self._thread.start()

    def end(self) -> None:
        """Take note that it is done."""
        self._work = None

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _look(self) -> None:
        while not self._closed.wait(LOOK_S):
            work = self._work
            if work is not None:
                self._patience.passed(LOOK_S, [work])


@contextlib.contextmanager
def looked_at(note: Callable[[str], None], work: str) -> Iterator[None]:
    """Have somebody look at how long the work of the block takes."""
    watch = WorkWatch(Patience(note, ""))
    watch.begin(work)
    try:
        yield
    finally:
        watch.close()


def clients_of(tasks: Sequence[Task]) -> list[int]:
    """Return the clients of tasks, those of groups too."""
    clients: list[int] = []
    for task in tasks:
        clients += task.group.clients if task.group else (task.client,)
    return clients


def _described(work: object) -> str:
    if not isinstance(work, tuple):
        return str(work)
    clients = clients_of(work)
    noun = "client" if len(clients) == 1 else "clients"
    task: Task = work[0]
    return f"{noun} {first_few(clients, _NAMED)} ({task.kind}, round {task.plan.round})"
