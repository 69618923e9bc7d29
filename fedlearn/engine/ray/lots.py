"""Which tasks an actor is dealt next: `TaskQueue`, by the numbers of the tasks."""

from __future__ import annotations

from collections import Counter, deque
from itertools import takewhile

from fedlearn.engine.pool import MAX_ATTEMPTS

# Tasks dealt to an actor at once, at most. A message costs about as much as training a
# tiny client.
MAX_LOT = 16

# A lot is at most a quarter of an actor's share of the tasks that wait. So lots shrink
# towards the end, and no actor works much longer than the others.
_LOTS_OF_SHARE = 4


class TaskQueue:
    """Tasks that wait, and how often each may have killed its actor.

    unanswered: tasks without a result, whether they wait or are dealt.
    """

    def __init__(self, count: int) -> None:
        """Let tasks 0 to ``count`` - 1 wait, in this order."""
        self.unanswered = count
        self._waiting = deque(range(count))
        self._deaths = Counter[int]()

    def __len__(self) -> int:
        """Return how many tasks wait."""
        return len(self._waiting)

    @property
    def suspect(self) -> bool:
        """Return whether the next task may have killed an actor; it is dealt alone."""
        return self._deaths[self._waiting[0]] > 0

    def lot(self, working: int) -> tuple[int, ...]:
        """Return the next tasks for one of so many working actors; one at least.

        A suspect is a lot of its own, so that its next death is its own.
        """
        if self.suspect:
            return (self._waiting.popleft(),)
        size = max(1, min(MAX_LOT, len(self._waiting) // (_LOTS_OF_SHARE * working)))
        before_suspect = takewhile(lambda n: not self._deaths[n], self._waiting)
        size = min(size, sum(1 for _ in before_suspect))
        return tuple(self._waiting.popleft() for _ in range(size))

    def lost(self, number: int, blamed: bool) -> bool:
        """Return whether a task whose actor died waits again; otherwise it has failed.

        blamed: the task may have killed the actor.
        """
        self._deaths[number] += blamed
        if self._deaths[number] >= MAX_ATTEMPTS:
            return False
        self._waiting.appendleft(number)
        return True
