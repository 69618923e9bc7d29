"""The pictures of a run on simulated devices: accuracy over time and energy, and profiles' times.

Each `plot_*` takes the run and a path, writes one PNG and returns True, or False where there is
nothing to draw. Each raises RecordError when the picture cannot be written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.records.reading import RunRecord, section
from fedlearn.reporting import style
from fedlearn.reporting.devices import PARTS, by_profile, cost_curve, target_of
from fedlearn.reporting.results import crossing
from fedlearn.reporting.stacks import bar_look
from fedlearn.reporting.units import joules_text, percent_text, time_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour and hatching of each of `PARTS`; neighbours differ in grey too.
PART_FILLS = {
    "down": ("#56A3D9", ""),
    "compute": ("#374151", ""),
    "up": ("#F0B73A", "///"),
    "wait": ("#e5e7eb", ""),
    "away": ("#B7DFCF", "..."),
}


@dataclass(frozen=True)
class CostAxis:
    """An axis of costs."""

    title: str
    # The size of a unit in seconds or joules → label; the largest comes first.
    units: Mapping[float, str]
    # How a cost reads.
    text: Callable[[float | None], str]


TIME_AXIS = CostAxis(
    "simulated time",
    {3600.0: "simulated hours", 60.0: "simulated minutes", 1.0: "simulated seconds"},
    time_text,
)
_ENERGY = "energy of all clients above idle"
ENERGY_AXIS = CostAxis(
    "energy",
    {1e6: f"{_ENERGY}, MJ", 1e3: f"{_ENERGY}, kJ", 1.0: f"{_ENERGY}, J"},
    joules_text,
)


def plot_time(run: RunRecord, path: Path) -> bool:
    """Draw accuracy over the simulated time."""
    curve = cost_curve(run.lines)
    costs = curve.seconds
    return _plot_cost(run, path, costs, curve.accuracy, TIME_AXIS)


def plot_joules(run: RunRecord, path: Path) -> bool:
    """Draw accuracy over the energy of the devices."""
    curve = cost_curve(run.lines)
    costs = curve.joules
    return _plot_cost(run, path, costs, curve.accuracy, ENERGY_AXIS)


def _plot_cost(
    run: RunRecord,
    path: Path,
    costs: Sequence[float],
    accuracy: Sequence[float],
    axis: CostAxis,
) -> bool:
    """Draw accuracy over a cost, in the largest unit of which there are at least two."""
    # Without simulated devices all costs are 0.
    if not costs or costs[-1] <= 0:
        return False
    # "1.2 hours" say less than "72 minutes".
    unit = next((size for size in axis.units if costs[-1] >= 2 * size), 1.0)
    target = target_of(run)
    with style.canvas(path, f"Accuracy over {axis.title}") as (_, axes):
        look = style.line_style(0, len(costs))
        axes.plot([cost / unit for cost in costs], accuracy, **look)
        reached = crossing(costs, accuracy, target)
        if reached is not None:
            label = f"{percent_text(target)} at {axis.text(reached)}"
            axes.axvline(
                reached / unit,
                color=style.GREY,
                linestyle="--",
                linewidth=1.5,
                label=label,
            )
            axes.legend(loc="lower right")
        axes.set_xlabel(axis.units[unit])
        style.percent_axis(axes, "accuracy on held-out data")
    return True


def plot_profiles(run: RunRecord, path: Path) -> bool:
    """Draw what the rounds of each profile's clients went to, as shares of their time."""
    shares = _shares_by_profile(run)
    if not shares:
        return False
    # The first profile on top: the axis counts from below.
    names = list(shares)[::-1]
    height = 1.6 + 0.42 * len(names)
    title = "Where a client's round goes, by profile"
    with style.canvas(path, title, height=height) as (_, axes):
        _plot_parts(axes, names, shares)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.grid(axis="y", visible=False)
        style.legend_beside(axes)
    return True


def _shares_by_profile(run: RunRecord) -> dict[str, dict[str, float]]:
    """Return the share of each part in each profile's time (of 1), in the manifest's order.

    A profile that the manifest lacks comes last, one whose clients spent no time not at all.
    """
    sums = by_profile(run.lines)
    planned = section(section(run.manifest, "devices"), "profiles")
    names = [name for name in planned if name in sums]
    # A resumed run may have lines of a profile that its config has no more.
    names += [name for name in sums if name not in planned]
    shares: dict[str, dict[str, float]] = {}
    for name in names:
        seconds = {part: sums[name][part] for part in PARTS}
        total_s = sum(seconds.values())
        if total_s > 0:
            shares[name] = {part: part_s / total_s for part, part_s in seconds.items()}
    return shares


def _plot_parts(
    axes: Axes, names: Sequence[str], shares: Mapping[str, Mapping[str, float]]
) -> None:
    """Draw one bar per profile; parts that took nobody any time are left out of the legend."""
    shown_names = [style.literal(name) for name in names]
    # Where each profile's next part begins, as a share of its time.
    starts = [0.0] * len(names)
    for part, label in PARTS.items():
        widths = [shares[name][part] for name in names]
        if not any(widths):
            continue
        look = bar_look(*PART_FILLS[part])
        axes.barh(shown_names, widths, left=starts, label=label, **look)
        ends = zip(starts, widths, strict=True)
        starts = [start + width for start, width in ends]
