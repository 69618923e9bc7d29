"""What a progress display knows: the rounds so far, added up as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from fedlearn.records.line import Line
from fedlearn.records.reading import finite, number

BLOCKS = "▁▂▃▄▅▆▇█"


class RunTally:
    """Sums over the rounds of one run, with the latest lines for a table. Bytes are of all rounds together."""

    def __init__(self, rounds: int, lines: tuple[Line, ...] = ()) -> None:
        """Start a run of so many rounds; lines: those that a resumed run already has."""
        self.rounds = rounds
        self.round = 0
        self.bytes_up = self.bytes_down = self.bytes_raw = 0.0
        self.failed = 0
        self.accuracy: float | None = None
        self.loss: float | None = None
        self.best: float | None = None
        self.best_round = 0
        self.accuracies: list[float] = []
        self.latest: deque[Line] = deque(maxlen=8)
        self.clients_done = self.clients_total = 0
        self._recent_s: deque[float] = deque(maxlen=10)
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        """Count one finished round."""
        self.round = int(line.get("round", self.round + 1))
        self.latest.append(line)
        self.bytes_up += finite(line, "bytes_up") or 0
        self.bytes_down += finite(line, "bytes_down") or 0
        self.bytes_raw += finite(line, "bytes_raw") or 0
        self.failed += int(finite(line, "failed") or 0)
        self.clients_done = self.clients_total = 0
        if self.round > 0:
            self._recent_s.append(finite(line, "seconds") or 0)
        if number(line, "loss") is not None:
            self.loss = number(line, "loss")
        accuracy = finite(line, "accuracy")
        if accuracy is not None:
            self.accuracy = accuracy
            self.accuracies.append(accuracy)
            if self.best is None or accuracy > self.best:
                self.best, self.best_round = accuracy, self.round

    def seconds_left(self) -> float | None:
        """Return the time that the remaining rounds will take at the pace of the last ten; None before the first."""
        if not self._recent_s:
            return None
        share_done = (
            self.clients_done / self.clients_total if self.clients_total else 0.0
        )
        return (
            max(self.rounds - self.round - share_done, 0)
            * sum(self._recent_s)
            / len(self._recent_s)
        )

    def sparkline(self, width: int) -> str:
        """Return the accuracies as at most ``width`` block characters, from the lowest to the highest seen."""
        if len(self.accuracies) < 2 or width < 2:
            return ""
        count = min(width, len(self.accuracies))
        picked = [
            self.accuracies[round(i * (len(self.accuracies) - 1) / (count - 1))]
            for i in range(count)
        ]
        low, high = min(picked), max(picked)
        return "".join(
            BLOCKS[round((value - low) / ((high - low) or 1) * (len(BLOCKS) - 1))]
            for value in picked
        )


def facts_text(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the facts a header shows, in order: those of data, model, strategy, codec and engine that are given."""
    return [
        (key, str(facts[key]))
        for key in ("data", "model", "strategy", "codec", "engine")
        if facts.get(key)
    ]
