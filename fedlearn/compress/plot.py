"""The picture of a comparison: accuracy over bytes, and the front that nothing beats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlearn.compress.rows import Candidate, unbeaten
from fedlearn.reporting import style
from fedlearn.reporting.units import bytes_text

# Inches: room for the names beside their points.
_HEIGHT = 4.6

_ORIGINAL: dict[str, Any] = {"marker": "s", "color": style.INK, "label": "original"}
_PASSED: dict[str, Any] = {
    "marker": "o",
    "color": style.COLOURS[0],
    "label": "within the gate",
}
_REFUSED: dict[str, Any] = {
    "marker": "x",
    "color": style.COLOURS[1],
    "label": "refused",
}
_CHOSEN: dict[str, Any] = {
    "marker": "o",
    "markersize": 13,
    "markerfacecolor": "none",
    "color": style.COLOURS[0],
    "label": "chosen",
}


def draw(
    path: Path, rows: Sequence[Candidate], chosen: Candidate | None, gate: float
) -> None:
    """Draw the rows, the original first, into a PNG file.

    gate: percentage points below the original's accuracy, where a line stands. Raises
    RecordError when the file cannot be written.
    """
    with style.canvas(path, "Accuracy over bytes", _HEIGHT) as (_, axes):
        axes.axhline(
            rows[0].accuracy - gate / 100,
            color=style.GREY,
            linewidth=1,
            label=f"gate: {gate:g} points",
        )
        front = unbeaten(rows)
        axes.plot(
            [row.bytes for row in front],
            [row.accuracy for row in front],
            color=style.GREY,
            linestyle=":",
            label="not beaten",
        )
        _points(axes, rows[:1], _ORIGINAL)
        _points(axes, [row for row in rows[1:] if not row.refusal], _PASSED)
        _points(axes, [row for row in rows[1:] if row.refusal], _REFUSED)
        _points(axes, [chosen] if chosen else [], _CHOSEN)
        _name(axes, rows)
        _bytes_axis(axes)
        axes.set_xlabel("bytes of graph and weights, as a device gets them")
        style.percent_axis(axes, "accuracy on the test set")
        style.legend_beside(axes)


def _points(axes: Any, rows: Sequence[Candidate], look: dict[str, Any]) -> None:
    if rows:
        axes.plot(
            [row.bytes for row in rows],
            [row.accuracy for row in rows],
            linestyle="none",
            **look,
        )


def _name(axes: Any, rows: Sequence[Candidate]) -> None:
    """Write each name beside its point, by turns above and below: neighbours are near."""
    for place, row in enumerate(sorted(rows, key=lambda row: row.bytes)):
        axes.annotate(
            style.literal(row.name),
            (row.bytes, row.accuracy),
            textcoords="offset points",
            xytext=(4, -12 if place % 2 else 6),
            fontsize=8,
            color=style.FAINT,
        )


def _bytes_axis(axes: Any) -> None:
    """Label the horizontal axis with bytes, in magnitudes and their halves."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: bytes_text(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    # Names stand to the right of their points.
    axes.margins(x=0.25, y=0.12)
