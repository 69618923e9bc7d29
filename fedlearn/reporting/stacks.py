"""Stacked bars of what the rounds of a run went to; long runs show means of neighbouring rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedlearn.records.line import Line
from fedlearn.reporting import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Bars at most.
MOST_BARS = 60

# From so many bars on they touch: gaps would only flicker.
TOUCHING_BARS = 25


@dataclass(frozen=True)
class RoundGroups:
    """The rounds of a run in groups of neighbours, each of which gets one bar."""

    # Rounds of a group; the last one may be shorter.
    size: int
    groups: tuple[Sequence[Line], ...]

    @property
    def centres(self) -> list[float]:
        """Return the mean round of each group."""
        return self.means(_round_of)

    def means(self, value: Callable[[Line], float]) -> list[float]:
        """Return the mean of a value over each group."""
        means: list[float] = []
        for group in self.groups:
            total = sum(map(value, group))
            # The last group may be shorter: each is divided by its own length.
            means.append(total / len(group))
        return means

    @property
    def note(self) -> str:
        """Return what a title says of groups: "" when each round has a bar of its own."""
        if self.size == 1:
            return ""
        return f", means of {self.size} rounds"


def _round_of(line: Line) -> int:
    return line["round"]


def grouped(lines: Sequence[Line]) -> RoundGroups:
    """Return the rounds in at most `MOST_BARS` groups of neighbours."""
    # Rounded up, so that there are never more groups than bars.
    size = -(-len(lines) // MOST_BARS)
    starts = range(0, len(lines), size)
    groups = tuple(lines[start : start + size] for start in starts)
    return RoundGroups(size, groups)


class StackedBars:
    """Bars over the rounds, one layer above the other."""

    def __init__(self, axes: Axes, rounds: RoundGroups) -> None:
        """Begin at the axis, with nothing drawn."""
        self._axes = axes
        self._centres = rounds.centres
        self._size = rounds.size
        # Where the next layer begins, for each bar.
        self._floor = [0.0] * len(rounds.groups)
        # In rounds, the unit of the axis.
        self._width = 0.8 * rounds.size
        if len(rounds.groups) > TOUCHING_BARS:
            self._width = 1.0 * rounds.size

    def add(
        self, name: str, share: float, heights: Sequence[float], look: dict[str, Any]
    ) -> None:
        """Draw a layer; its legend has the name and its share of all rounds' time (of 1)."""
        self._axes.bar(
            self._centres,
            heights,
            self._width,
            bottom=self._floor,
            label=f"{style.literal(name)}  {100 * share:.1f} %",
            **look,
        )
        layer = zip(self._floor, heights, strict=True)
        self._floor = [low + height for low, height in layer]

    def finish(self, label: str) -> None:
        """Name the vertical axis and put the legend beside the bars, in their order."""
        first = self._centres[0]
        # Few rounds keep room for six more, or a single bar would fill the picture.
        last = max(self._centres[-1], first + 6)
        self._axes.set_ylabel(label)
        self._axes.set_xlim(first - self._size, last + self._size)
        self._axes.grid(axis="x", visible=False)
        style.legend_beside(self._axes, upside_down=True)


def bar_look(colour: str, hatch: str) -> dict[str, Any]:
    """Return how a bar is filled."""
    return {
        "facecolor": colour,
        # matplotlib draws a hatch in the colour of the edge, which itself has no width.
        "hatch": hatch,
        "edgecolor": "white",
        "linewidth": 0,
    }
