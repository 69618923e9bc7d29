"""What a progress display knows: the rounds so far, added up as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from fedlearn.records.line import Line
from fedlearn.records.reading import amount, finite, number

BLOCKS = "▁▂▃▄▅▆▇█"

# Rounds that a display shows in its table, at most.
LATEST_ROUNDS = 8

# Rounds whose mean time predicts that of the rounds to come.
PACE_ROUNDS = 10


class RunTally:
    """Sums over the rounds of one run, with the latest lines for a table."""

    def __init__(self, rounds: int, lines: tuple[Line, ...] = ()) -> None:
        """Start a run of so many rounds; lines: those that a resumed run already has."""
        # Planned, and the last one that is finished.
        self.rounds = rounds
        self.round = 0
        # Of all rounds together, as encoded; raw: as plain float32.
        self.bytes_up = 0.0
        self.bytes_down = 0.0
        self.bytes_raw = 0.0
        self.failed = 0
        # Of the last evaluated round, on held-out samples.
        self.accuracy: float | None = None
        self.loss: float | None = None
        # The best accuracy, and the first round that reached it.
        self.best: float | None = None
        self.best_round = 0
        self.accuracies: list[float] = []
        self.latest: deque[Line] = deque(maxlen=LATEST_ROUNDS)
        # Of the running round: clients that have answered, of how many; 0 between rounds.
        self.clients_done = 0
        self.clients_total = 0
        self._recent_s: deque[float] = deque(maxlen=PACE_ROUNDS)
        for line in lines:
            self.add(line)

    @property
    def bytes_total(self) -> float:
        """Return the bytes of both directions."""
        return self.bytes_up + self.bytes_down

    def add(self, line: Line) -> None:
        """Count one finished round."""
        self.round = int(line.get("round", self.round + 1))
        self.latest.append(line)
        self.bytes_up += amount(line, "bytes_up")
        self.bytes_down += amount(line, "bytes_down")
        self.bytes_raw += amount(line, "bytes_raw")
        self.failed += int(amount(line, "failed"))
        self.clients_done = 0
        self.clients_total = 0
        # Round 0 trains nobody: its time says nothing of the others'.
        if self.round > 0:
            self._recent_s.append(amount(line, "seconds"))
        # NaN stays: a display has to show that training diverged.
        loss = number(line, "loss")
        if loss is not None:
            self.loss = loss
        accuracy = finite(line, "accuracy")
        if accuracy is not None:
            self._add_accuracy(accuracy)

    def _add_accuracy(self, accuracy: float) -> None:
        self.accuracy = accuracy
        self.accuracies.append(accuracy)
        if self.best is None or accuracy > self.best:
            self.best = accuracy
            self.best_round = self.round

    def share_done(self) -> float:
        """Return which share of the running round's clients have answered, 0 to 1."""
        if not self.clients_total:
            return 0.0
        return self.clients_done / self.clients_total

    def seconds_left(self) -> float | None:
        """Return the time of the remaining rounds at the pace of the last ten.

        None before the first.
        """
        if not self._recent_s:
            return None
        # The answered share of the running round is done; a resumed run may be past its end.
        rounds_left = max(self.rounds - self.round - self.share_done(), 0)
        return rounds_left * sum(self._recent_s) / len(self._recent_s)

    def sparkline(self, width: int) -> str:
        """Return the accuracies as block characters, from the lowest to the highest.

        width: most characters; of more accuracies, evenly spaced ones are shown.
        """
        if len(self.accuracies) < 2 or width < 2:
            return ""
        count = min(width, len(self.accuracies))
        last = len(self.accuracies) - 1
        positions = [round(i * last / (count - 1)) for i in range(count)]
        picked = [self.accuracies[position] for position in positions]
        low = min(picked)
        # All alike are lowest: a range of 1 keeps the division defined.
        span = (max(picked) - low) or 1
        highest_block = len(BLOCKS) - 1
        blocks: list[str] = []
        for value in picked:
            level = round((value - low) / span * highest_block)
            blocks.append(BLOCKS[level])
        return "".join(blocks)


def facts_text(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the facts that a header shows as (key, text), in order, without those missing."""
    texts: list[tuple[str, str]] = []
    for key in ("data", "model", "strategy", "codec", "engine"):
        if facts.get(key):
            texts.append((key, str(facts[key])))
    return texts
