"""`NodeWaits`: tells a strategy that waits for nodes from one that merely asks for them often."""

from __future__ import annotations

import time
from collections.abc import Callable

# NodeWaits in a row after which no more clients can be hoped for.
_MOST_WAITS = 5

# Seconds between two questions from which on the strategy may have slept.
_WAIT_S = 0.5

# Questions in a row that no strategy asks but one that waits without sleeping.
_MOST_ASKED = 1_000_000


class NodeWaits:
    """Counts how often a strategy slept between two questions for the nodes.

    Flower's strategies sleep for a second while there are too few nodes. One that draws
    several groups asks as often, and does not sleep in between.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        working: Callable[[], float] = time.process_time,
    ) -> None:
        """Take two clocks, in seconds: of the time that passed, and of this process's work."""
        self._clock = clock
        self._working = working
        self.end()

    def end(self) -> None:
        """Note that the strategy has stopped asking."""
        self._asked = 0
        self._waits = 0
        self._before: tuple[float, float] | None = None

    def asked(self) -> bool:
        """Note a question, and return whether the strategy waits in vain."""
        now = (self._clock(), self._working())
        if self._before is not None and self._slept(self._before, now):
            self._waits += 1
        self._before = now
        self._asked += 1
        return self._waits >= _MOST_WAITS or self._asked > _MOST_ASKED

    def _slept(self, before: tuple[float, float], now: tuple[float, float]) -> bool:
        passed_s = now[0] - before[0]
        worked_s = now[1] - before[1]
        # Who computes between two questions, for however long, does not wait for nodes.
        return passed_s >= _WAIT_S and worked_s < passed_s / 2
