"""The picture of a profile: each round's phases, and local training beside the machine's peak."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.records.line import Line
from fedlearn.records.names import PROFILE_FILE
from fedlearn.records.reading import RunRecord
from fedlearn.reporting import style
from fedlearn.reporting.profile import (
    OTHER,
    RunProfile,
    order,
    phases,
    profile_of,
    read_measurements,
    timed_lines,
    training_gflops,
)
from fedlearn.reporting.stacks import RoundGroups, StackedBars, bar_look, grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour and hatching of each phase; neighbours differ in grey too.
PHASE_FILLS = {
    "prepare": ("#CC79A7", "xxx"),
    "train": ("#56A3D9", ""),
    "encode": ("#F0B73A", "///"),
    "aggregate": ("#374151", ""),
    "evaluate": ("#B7DFCF", "..."),
    "record": ("#D55E00", ""),
    OTHER: ("#e5e7eb", ""),
}
UNKNOWN_FILL = (style.GREY, "--")


def plot_profile(run: RunRecord, path: Path) -> bool:
    """Draw a run that has a profile.json, and return True.

    False where it has none, or no round was trained. Raises RecordError when the picture cannot be
    written.
    """
    if not (run.folder / PROFILE_FILE).is_file():
        return False
    profile = profile_of(run, read_measurements(run.folder))
    if profile is None:
        return False
    lines = timed_lines(run)
    rounds = grouped(lines)
    title = f"Where the time goes{rounds.note}"
    if profile.training is None:
        with style.canvas(path, title) as (_, axes):
            _plot_phases(axes, lines, rounds, profile)
            style.round_axis(axes)
        return True
    grid: dict[str, Any] = {"height_ratios": [3, 2], "sharex": True}
    with style.canvas(path, title, height=6.4, rows=2, **grid) as (_, (upper, lower)):
        _plot_phases(upper, lines, rounds, profile)
        _plot_rates(lower, profile)
        style.round_axis(lower)
    return True


def _plot_phases(
    axes: Axes, lines: Sequence[Line], rounds: RoundGroups, profile: RunProfile
) -> None:
    bars = StackedBars(axes, rounds)
    for name in order(phases(line) for line in lines):
        means_s = rounds.means(partial(_seconds, name))
        heights = [1000 * mean_s for mean_s in means_s]
        fill = PHASE_FILLS.get(name, UNKNOWN_FILL)
        bars.add(name, profile.share(name), heights, bar_look(*fill))
    bars.finish("ms of a round")


def _seconds(phase: str, line: Line) -> float:
    return phases(line).get(phase, 0.0)


def _plot_rates(axes: Axes, profile: RunProfile) -> None:
    """Draw what training reached in each round, and the peak where that was measured."""
    rates: dict[int, float] = {}
    for training in profile.measured.rounds:
        gflops = training_gflops(training)
        if gflops is not None:
            rates[training.round] = gflops
    peak = profile.training.peak_gflops if profile.training else None
    look = style.line_style(0, len(rates))
    axes.plot(list(rates), list(rates.values()), label="local training", **look)
    if peak:
        processes = f"{profile.workers} processes"
        if profile.workers == 1:
            processes = "one process"
        axes.axhline(
            peak,
            color=style.INK,
            linestyle="--",
            linewidth=1.5,
            label=f"peak, {processes}",
        )
    # Some room above the highest line.
    axes.set_ylim(0, 1.08 * max([*rates.values(), peak or 0.0]))
    axes.set_ylabel("GFLOP/s, float32")
    style.legend_beside(axes)
