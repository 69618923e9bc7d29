"""What waits, the earliest deadline first: Liu and Layland, JACM 1973.

What differs: a request without a deadline has one for its order, so that those with one
cannot pass it for ever.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Generic, Protocol, TypeVar

# Seconds after its arrival by which a request stands in the order at the latest.
PATIENCE_S = 10.0


class Waits(Protocol):
    """What can wait. rows: its samples. kind: its class."""

    deadline: float
    rows: int
    kind: str
    bytes: int


Entry = TypeVar("Entry", bound=Waits)


class EarliestFirst(Generic[Entry]):
    """Requests in the order of their deadlines, and of their arrival where these are equal."""

    def __init__(self) -> None:
        """Begin with none."""
        self._heap: list[tuple[float, int, Entry]] = []
        self._count = 0
        self.rows = 0
        self.bytes = 0
        self.rows_of: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._heap)

    @property
    def first(self) -> Entry:
        """Return the request that is next."""
        return self._heap[0][2]

    def push(self, entry: Entry, now_s: float) -> None:
        """Let a request wait, which came now."""
        self._count += 1
        due_s = min(entry.deadline, now_s + PATIENCE_S)
        heapq.heappush(self._heap, (due_s, self._count, entry))
        self._counted(entry, 1)

    def pop(self) -> Entry:
        """Return the request that is next, which waits no more."""
        entry = heapq.heappop(self._heap)[2]
        self._counted(entry, -1)
        return entry

    def rows_before(self, deadline: float) -> int:
        """Return how many samples wait that are due until a deadline."""
        return sum(entry.rows for due_s, _, entry in self._heap if due_s <= deadline)

    def _counted(self, entry: Entry, sign: int) -> None:
        self.rows += sign * entry.rows
        self.bytes += sign * entry.bytes
        self.rows_of[entry.kind] += sign * entry.rows
        # Strangers may invent classes: those without samples take no memory.
        if not self.rows_of[entry.kind]:
            del self.rows_of[entry.kind]
