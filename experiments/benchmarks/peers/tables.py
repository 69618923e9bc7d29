"""Tables and a picture of a race."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.experiments.benchmarks.peers.race import LOOPS, Entry
from fedlearn.reporting import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEAD = ("", "ms a round", "of lean", "cores used", "start to round 1, s", "memory, MB")

MOST = 10.0
"""The largest ratio that is drawn to scale."""

OURS: dict[str, Any] = {"color": style.COLOURS[0]}
LOOP: dict[str, Any] = {"color": "white"}
PEER: dict[str, Any] = {"color": "#d1d5db", "hatch": "////"}


def rows(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """Return a workload's table, the head first; who is absent has the reason in the place of
    numbers.
    """
    return [HEAD, *(_row(entry) for entry in entries)]


def plain(entries: Sequence[Entry]) -> str:
    """Return a workload's table for a terminal."""
    table = rows(entries)
    widths = [
        max(len(row[i]) for row in table if len(row) == len(HEAD))
        for i in range(len(HEAD))
    ]
    widths[0] = max(len(row[0]) for row in table)
    lines = [
        "  ".join(
            cell.ljust(widths[0]) if not i else cell.rjust(widths[i])
            for i, cell in enumerate(row)
        ).rstrip()
        if len(row) == len(HEAD)
        else f"{row[0].ljust(widths[0])}  {row[1]}"
        for row in table
    ]
    return "\n".join([entries[0].workload, *lines])


def markdown(entries: Sequence[Entry]) -> str:
    """Return a workload's table in Markdown."""
    head, *body = rows(entries)
    filled = [(*row, *[""] * (len(HEAD) - len(row))) for row in body]
    lines = [
        (entries[0].workload, *head[1:]),
        ("---", *["---:"] * (len(HEAD) - 1)),
        *filled,
    ]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |"
        for line in lines
    )


def _row(entry: Entry) -> tuple[str, ...]:
    if entry.absent:
        return entry.competitor, entry.absent[:80]
    return (
        entry.competitor,
        f"{entry.ms:.{1 if entry.ms < 100 else 0}f}",
        f"{entry.ratio:.2f}",
        f"{entry.cores:.1f}",
        f"{entry.startup_s:.1f}",
        f"{entry.memory_mb:.0f}",
    )


def plot(path: Path, races: Sequence[Sequence[Entry]]) -> None:
    """Write a PNG with a bar for each competitor on each workload: its round over the lean
    loop's, from 1 on a logarithmic axis.

    A bar to the left is faster than the lean loop. Ours are full, loops empty, peers hatched.
    Raises RecordError.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    present = [[entry for entry in entries if not entry.absent] for entries in races]
    heights = [len(entries) + 1 for entries in present]
    grid = {"sharex": True, "gridspec_kw": {"height_ratios": heights}}
    with style.canvas(
        path,
        "A round's time, over a lean loop's on one thread",
        1.0 + 0.29 * sum(heights),
        len(races),
        **grid,
    ) as (
        _,
        drawn,
    ):
        several = drawn if len(races) > 1 else [drawn]
        for axes, entries in zip(several, present, strict=True):
            _bars(axes, entries)
        several[-1].set_xlim(1 / MOST, MOST * 1.6)
        several[-1].xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10]))
        several[-1].xaxis.set_minor_locator(NullLocator())
        several[-1].xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:g}")
        )
        several[-1].set_xlabel("times the lean loop's (left is faster)")


def _bars(axes: Axes, entries: Sequence[Entry]) -> None:
    axes.set_xscale("log")
    for place, entry in enumerate(entries):
        shown, left = min(entry.ratio, MOST), entry.ratio < 1
        looks = (
            OURS
            if entry.competitor.startswith("fedlearn")
            else LOOP
            if entry.competitor in LOOPS
            else PEER
        )
        axes.barh(place, shown - 1, left=1, height=0.62, edgecolor=style.INK, **looks)
        text = f"{entry.ratio:.2f}" if entry.ratio < MOST else f"{entry.ratio:.0f} →"
        offset, side = ((-4, 0), "right") if left else ((4, 0), "left")
        axes.annotate(
            text,
            (shown, place),
            offset,
            textcoords="offset points",
            va="center",
            ha=side,
            fontsize=9,
        )
    axes.axvline(1, color=style.INK, linewidth=1)
    axes.set_yticks(
        range(len(entries)), [entry.competitor for entry in entries], fontsize=9
    )
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_ylabel(entries[0].workload, rotation=0, fontweight="bold", labelpad=16)
