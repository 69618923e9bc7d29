"""The picture of a profile: each round's phases, and how much of the machine's peak local training reached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.records.line import Line
from fedlearn.records.names import PROFILE_FILE
from fedlearn.records.reading import RunRecord, finite
from fedlearn.reporting import style
from fedlearn.reporting.profile import (
    OTHER,
    RunProfile,
    order,
    phases,
    profile_of,
    read_measurements,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUPS = 60
"""Bars at most; longer runs show means of neighbouring rounds."""

LOOKS = {
    "prepare": ("#CC79A7", "xxx"),
    "train": ("#56A3D9", ""),
    "encode": ("#F0B73A", "///"),
    "aggregate": ("#374151", ""),
    "evaluate": ("#B7DFCF", "..."),
    "record": ("#D55E00", ""),
    OTHER: ("#e5e7eb", ""),
}
"""Colour and hatching of each phase; neighbours differ in grey too."""


def plot_profile(run: RunRecord, path: Path) -> bool:
    """Draw a run that has a profile.json, and return True; False where it has none, or no round was trained."""
    found = (
        profile_of(run, read_measurements(run.folder))
        if (run.folder / PROFILE_FILE).is_file()
        else None
    )
    if found is None:
        return False
    rows = 2 if found.training else 1
    ratios = {"height_ratios": [3, 2], "sharex": True} if rows == 2 else {}
    size = -(-found.rounds // GROUPS)
    title = "Where the time goes" + (f", means of {size} rounds" if size > 1 else "")
    with style.canvas(
        path, title, height=6.4 if rows == 2 else 4.2, rows=rows, **ratios
    ) as (_, axes):
        upper, lower = axes if rows == 2 else (axes, axes)
        _bars(upper, run, found, size)
        if found.training:
            _rates(lower, found)
        style.round_axis(lower)
    return True


def _bars(axes: Axes, run: RunRecord, found: RunProfile, size: int) -> None:
    lines = [line for line in run.trained if (finite(line, "seconds") or 0.0) > 0]
    groups: list[Sequence[Line]] = [
        lines[i : i + size] for i in range(0, len(lines), size)
    ]
    spent = [[phases(line) for line in group] for group in groups]
    x = [sum(line["round"] for line in group) / len(group) for group in groups]
    floor = [0.0] * len(groups)
    for name in order(phases(line) for line in lines):
        heights = [
            1000 * sum(each.get(name, 0.0) for each in group) / len(group)
            for group in spent
        ]
        label = f"{style.literal(name)}  {100 * found.share(name):.1f} %"
        axes.bar(
            x,
            heights,
            size * (1.0 if len(groups) > 25 else 0.8),
            bottom=floor,
            label=label,
            **_look(name),
        )
        floor = [low + height for low, height in zip(floor, heights, strict=True)]
    axes.set_ylabel("ms of a round")
    axes.set_xlim(x[0] - size, max(x[-1], x[0] + 6) + size)
    axes.grid(axis="x", visible=False)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5)
    )


def _look(phase: str) -> dict[str, Any]:
    colour, hatch = LOOKS.get(phase, ("#9ca3af", "--"))
    return {"facecolor": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}


def _rates(axes: Axes, found: RunProfile) -> None:
    """Draw what training reached in each round, and the peak where that was measured."""
    known = [row for row in found.measured.rounds if row.flops and row.training_s > 0]
    rates = [1e-9 * (row.flops or 0.0) * row.workers / row.training_s for row in known]
    top = found.training.peak_gflops if found.training else None
    axes.plot(
        [row.round for row in known],
        rates,
        label="local training",
        **style.line_style(0, len(known)),
    )
    if top:
        label = (
            "peak, one process"
            if found.workers == 1
            else f"peak, {found.workers} processes"
        )
        axes.axhline(top, color=style.INK, linestyle="--", linewidth=1.5, label=label)
    axes.set_ylim(0, 1.08 * max([*rates, top or 0.0]))
    axes.set_ylabel("GFLOP/s, float32")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
