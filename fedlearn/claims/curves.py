"""Pictures of claims: accuracy over rounds and over bytes, each variant with its seeds' band, beside the paper's figure."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fedlearn.claims.results import Result
from fedlearn.reporting import style

Over = Literal["rounds", "bytes"]

HATCHES = ("", "///", "...", "\\\\\\", "xxx")
"""Of the bands, so that they differ without colour."""

SKIPPED = 20
"""The first of so many parts of the rounds may lie below a picture."""


def draw(found: Result, folder: Path) -> list[tuple[Path, str]]:
    """Draw the pictures of a result and return each with its caption; none where no run was evaluated. Raises RecordError."""
    variants: dict[str, list[Mapping[str, Any]]] = {}
    for run in found["runs"]:
        if run["curve"]["rounds"]:
            variants.setdefault(run["variant"], []).append(run["curve"])
    if not variants:
        return []
    seeds = len(found["seeds"])
    band = (
        f" The line is the median of {seeds} seeds, the band goes from the lowest to the highest."
        if seeds > 1
        else ""
    )
    points = [claim["point"] for claim in found["claims"] if claim["point"]]
    star = " The star is the paper's figure." if points else ""
    path = folder / f"{found['name']}-rounds.png"
    _picture(path, "Accuracy over rounds", variants, "rounds", _targets(found), points)
    made = [(path, f"Accuracy on held-out data over rounds.{band}{star}")]
    if len(variants) > 1:
        path = folder / f"{found['name']}-bytes.png"
        _picture(
            path,
            "Accuracy over bytes exchanged",
            variants,
            "bytes",
            _targets(found),
            [],
        )
        made.append(
            (
                path,
                f"The same accuracy over the bytes of both directions, as encoded.{band}",
            )
        )
    return made


def _targets(found: Result) -> list[float]:
    return sorted({claim["target"] for claim in found["claims"] if claim["target"]})


def _picture(
    path: Path,
    title: str,
    variants: Mapping[str, Sequence[Mapping[str, Any]]],
    over: Over,
    targets: Sequence[float],
    points: Sequence[Sequence[float]],
) -> None:
    with style.canvas(path, title, height=4.2 + 0.22 * -(-len(variants) // 2)) as (
        figure,
        axes,
    ):
        for target in targets:
            axes.axhline(target, color="#9ca3af", linewidth=1, zorder=1)
        seen: list[float] = []
        floor = 1.0
        for position, (name, curves) in enumerate(variants.items()):
            x, low, middle, high = band(curves, over)
            seen += x
            floor = min([floor, *low[len(low) // SKIPPED :]])
            look = style.line_style(position, len(x))
            axes.plot(x, middle, label=style.literal(name), **look)
            if len(curves) > 1:
                hatch = HATCHES[position % len(HATCHES)]
                axes.fill_between(
                    x,
                    low,
                    high,
                    color=look["color"],
                    alpha=0.18,
                    hatch=hatch,
                    linewidth=0,
                )
        for round, accuracy in points:
            axes.plot(
                [round],
                [accuracy],
                marker="*",
                markersize=15,
                color=style.INK,
                linestyle="none",
                zorder=6,
            )
            text = f"paper: {100 * accuracy:g} % at {round:g}"
            axes.annotate(
                text,
                (round, accuracy),
                xytext=(-8, -14),
                textcoords="offset points",
                ha="right",
            )
        if over == "rounds":
            style.round_axis(axes)
        else:
            style.bytes_axis(axes, seen)
        style.percent_axis(axes)
        # Where a target is near, the first rounds would leave it no room; and no accuracy is above 100 %.
        axes.set_ylim(floor - 0.08 * (1 - floor), min(axes.get_ylim()[1], 1.005))
        figure.legend(loc="outside lower left", ncols=2)


def band(
    curves: Sequence[Mapping[str, Any]], over: Over
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return x and the lowest, the median and the highest accuracy there; a seed that ended before the others stays where it ended."""
    rounds = sorted({round for curve in curves for round in curve["rounds"]})
    places = [
        [bisect_right(curve["rounds"], round) - 1 for curve in curves]
        for round in rounds
    ]
    x = [
        statistics.median(
            curve[over][place]
            for curve, place in zip(curves, at, strict=True)
            if round <= curve["rounds"][-1]
        )
        for round, at in zip(rounds, places, strict=True)
    ]
    values = [
        [curve["accuracy"][place] for curve, place in zip(curves, at, strict=True)]
        for at in places
    ]
    return (
        x,
        [min(v) for v in values],
        [statistics.median(v) for v in values],
        [max(v) for v in values],
    )
