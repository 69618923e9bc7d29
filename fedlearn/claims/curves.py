"""Pictures of claims: accuracy over rounds and over bytes, beside the paper's figure.

Each variant is a line, with a band from the lowest to the highest of its seeds.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedlearn.claims.results import Result
from fedlearn.reporting import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Over = Literal["rounds", "bytes"]

# One run's "rounds", "bytes" and "accuracy", as a result has them.
RunCurve = Mapping[str, Any]

# Of the bands, so that they differ without colour.
HATCHES = ("", "///", "...", "\\\\\\", "xxx")

# The first one in so many points may lie below a picture: models start near chance.
SKIPPED = 20

_TITLES = {"rounds": "Accuracy over rounds", "bytes": "Accuracy over bytes exchanged"}

# Grey, and behind the lines.
_TARGET_COLOUR = "#9ca3af"


@dataclass(frozen=True)
class Band:
    """One variant's accuracy: x, and the lowest, median and highest of its seeds there."""

    x: list[float]
    low: list[float]
    middle: list[float]
    high: list[float]


def draw(result: Result, folder: Path) -> list[tuple[Path, str]]:
    """Draw the pictures of a result and return each with its caption.

    None where no run was evaluated. Raises RecordError when one cannot be written.
    """
    variants = _variants(result)
    if not variants:
        return []
    name = result["name"]
    targets = sorted({c["target"] for c in result["claims"] if c["target"]})
    # JSON has lists for pairs: (round, accuracy).
    points = [claim["point"] for claim in result["claims"] if claim["point"]]
    band = ""
    seeds = len(result["seeds"])
    if seeds > 1:
        band = (
            f" The line is the median of {seeds} seeds, the band goes from the lowest "
            "to the highest."
        )
    star = ""
    if points:
        star = " The star is the paper's figure."
    path = folder / f"{name}-rounds.png"
    _picture(path, variants, "rounds", targets, points)
    pictures = [(path, f"Accuracy on held-out data over rounds.{band}{star}")]
    # One variant's bytes are its rounds on another scale.
    if len(variants) > 1:
        path = folder / f"{name}-bytes.png"
        # The papers count rounds: their figures have no place among bytes.
        _picture(path, variants, "bytes", targets, [])
        caption = "The same accuracy over the bytes of both directions, as encoded."
        pictures.append((path, f"{caption}{band}"))
    return pictures


def _variants(result: Result) -> dict[str, list[RunCurve]]:
    """Return each variant's curves, of the runs that were evaluated."""
    variants: dict[str, list[RunCurve]] = {}
    for run in result["runs"]:
        if run["curve"]["rounds"]:
            variants.setdefault(run["variant"], []).append(run["curve"])
    return variants


def _picture(
    path: Path,
    variants: Mapping[str, Sequence[RunCurve]],
    over: Over,
    targets: Sequence[float],
    points: Sequence[Sequence[float]],
) -> None:
    """Draw one picture; points: the paper's figures, as (round, accuracy)."""
    # Inches: the legend has two columns, below the axes.
    height = 4.2 + 0.22 * math.ceil(len(variants) / 2)
    with style.canvas(path, _TITLES[over], height=height) as (figure, axes):
        for target in targets:
            axes.axhline(target, color=_TARGET_COLOUR, linewidth=1, zorder=1)
        bands = {name: band(curves, over) for name, curves in variants.items()}
        for position, (name, variant) in enumerate(bands.items()):
            _draw_band(axes, variant, name, position, len(variants[name]) > 1)
        for number, accuracy in points:
            _draw_star(axes, number, accuracy)
        if over == "rounds":
            style.round_axis(axes)
        else:
            style.bytes_axis(axes, [x for variant in bands.values() for x in variant.x])
        style.percent_axis(axes)
        _limit_accuracy(axes, list(bands.values()))
        figure.legend(loc="outside lower left", ncols=2)


def _limit_accuracy(axes: Axes, bands: Sequence[Band]) -> None:
    """Choose the accuracies that a picture shows."""
    floor = 1.0
    for variant in bands:
        # Where a target is near, the first rounds would leave it no room.
        skipped = len(variant.low) // SKIPPED
        floor = min(floor, *variant.low[skipped:])
    # No accuracy is above 100 %; half a percent more, for the markers.
    top = min(axes.get_ylim()[1], 1.005)
    axes.set_ylim(floor - 0.08 * (1 - floor), top)


def _draw_band(
    axes: Axes, variant: Band, name: str, position: int, several: bool
) -> None:
    """Draw a variant's line and, if it has several seeds, its band."""
    look = style.line_style(position, len(variant.x))
    axes.plot(variant.x, variant.middle, label=style.literal(name), **look)
    if several:
        axes.fill_between(
            variant.x,
            variant.low,
            variant.high,
            color=look["color"],
            alpha=0.18,
            hatch=HATCHES[position % len(HATCHES)],
            linewidth=0,
        )


def _draw_star(axes: Axes, number: float, accuracy: float) -> None:
    """Draw the paper's figure, an accuracy after a round."""
    axes.plot(
        [number],
        [accuracy],
        marker="*",
        markersize=15,
        color=style.INK,
        linestyle="none",
        # Above every line.
        zorder=6,
    )
    axes.annotate(
        f"paper: {100 * accuracy:g} % at {number:g}",
        (number, accuracy),
        xytext=(-8, -14),
        textcoords="offset points",
        ha="right",
    )


def band(curves: Sequence[RunCurve], over: Over) -> Band:
    """Return the band of a variant's curves, over rounds or bytes.

    A seed that ended before the others stays at its last accuracy; its bytes count for x
    as long as it ran.
    """
    variant = Band([], [], [], [])
    for number in sorted({number for curve in curves for number in curve["rounds"]}):
        running: list[float] = []
        accuracies: list[float] = []
        for curve in curves:
            # The last evaluation up to this round.
            place = bisect_right(curve["rounds"], number) - 1
            accuracies.append(curve["accuracy"][place])
            if number <= curve["rounds"][-1]:
                running.append(curve[over][place])
        variant.x.append(statistics.median(running))
        variant.low.append(min(accuracies))
        variant.middle.append(statistics.median(accuracies))
        variant.high.append(max(accuracies))
    return variant
