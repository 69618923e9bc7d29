"""The comparison as a table: an example's own metrics, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedlearn.experiments.benchmarks.flower_apps.sides import Side, difference

HEADING = (
    "example",
    "metric",
    "Flower's loop",
    "fedlearn run",
    "model differs by",
    "messages",
)


@dataclass
class Entry:
    """One example: both sides, one pair for each seed. reason: why there is none."""

    name: str
    is_drawn_anew: bool = False
    pairs: list[tuple[Side, Side]] = field(default_factory=list)
    reason: str = ""

    @property
    def is_same(self) -> bool:
        """Return whether all seeds gave the same on both sides, as far as they can."""
        if self.reason or not self.pairs:
            return False
        if any(a.failed or b.failed or a.messages != b.messages for a, b in self.pairs):
            return False
        return self.is_drawn_anew or all(a.digest == b.digest for a, b in self.pairs)

    def differs_by(self) -> float | None:
        """Return the largest difference of the final models; None: the app has none."""
        differences = [difference(a, b) for a, b in self.pairs]
        numbers = [number for number in differences if number is not None]
        return max(numbers) if numbers else None

    def rows(self) -> list[tuple[str, ...]]:
        """Return a row for each of the app's own metrics, or one where it has none."""
        if self.reason:
            return [(self.name, self.reason, "", "", "", "")]
        largest = self.differs_by()
        model = "no result" if largest is None else f"{largest:.1g}"
        ends = (model, self._messages())
        names = list(self.pairs[0][0].metrics)
        if not names:
            return [(self.name, "none in a result", "", "", *ends)]
        rows: list[tuple[str, ...]] = []
        for position, name in enumerate(names):
            columns = [self._spread(side, name) for side in (0, 1)]
            first = position == 0
            end = ends if first else ("", "")
            rows.append((self.name if first else "", name, *columns, *end))
        return rows

    def _spread(self, side: int, name: str) -> str:
        """Return a metric's mean over the seeds, and its standard deviation."""
        values = [pair[side].metrics.get(name, float("nan")) for pair in self.pairs]
        if len(values) == 1:
            return f"{values[0]:.4f}"
        return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"

    def _messages(self) -> str:
        count = sum(a.messages for a, _ in self.pairs)
        if all(a.digest == b.digest for a, b in self.pairs):
            return f"{count}, equal"
        return f"{count}, {'keys drawn anew' if self.is_drawn_anew else 'differ'}"


def plain(entries: Sequence[Entry]) -> str:
    """Return the table for a terminal."""
    rows = [HEADING, *(row for entry in entries for row in entry.rows())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADING))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def markdown(entries: Sequence[Entry]) -> str:
    """Return the table in Markdown."""
    rows = [HEADING, ("---",) * len(HEADING)]
    rows += [row for entry in entries for row in entry.rows()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
