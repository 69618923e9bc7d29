"""The pictures of one run, drawn from its folder. matplotlib is imported when the first one is drawn.

Each `plot_*` takes the run and a path, writes one PNG and returns True, or False where there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.records.line import Line
from fedlearn.records.names import PLOTS_FOLDER
from fedlearn.records.reading import RunRecord, finite, number, read, section
from fedlearn.reporting import style
from fedlearn.reporting.devices import plot_joules, plot_profiles, plot_time
from fedlearn.reporting.label_plot import plot_label_mix
from fedlearn.reporting.profile_plot import plot_profile
from fedlearn.reporting.results import AccuracyCurve, accuracy_curve
from fedlearn.reporting.units import percent_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Plot = Callable[[RunRecord, Path], bool]


def draw(folder: Path, into: Path | None = None) -> list[Path]:
    """Draw all pictures of a run folder and return those there was something to draw for.

    into: where to put them; ``plots`` in the run folder when None. Raises UserError when it is not a run folder.
    """
    run = read(folder)
    target = into or folder / PLOTS_FOLDER
    return [target / name for name, plot in PLOTS.items() if plot(run, target / name)]


def plot_accuracy_rounds(run: RunRecord, path: Path) -> bool:
    """Draw accuracy over rounds, with the best round marked."""
    curve = accuracy_curve(run.lines)
    if not curve.rounds:
        return False
    with style.canvas(path, "Accuracy over rounds") as (_, axes):
        axes.plot(
            curve.rounds, curve.accuracy, **style.line_style(0, len(curve.rounds))
        )
        _mark_best(axes, curve)
        style.round_axis(axes)
        style.percent_axis(axes, "accuracy on held-out data")
    return True


def _mark_best(axes: Axes, curve: AccuracyCurve) -> None:
    best = max(range(len(curve.rounds)), key=lambda i: curve.accuracy[i])
    x, y = curve.rounds[best], curve.accuracy[best]
    axes.plot(
        [x],
        [y],
        marker="*",
        markersize=14,
        color=style.COLOURS[1],
        linestyle="none",
        zorder=5,
    )
    text = f"best {percent_text(y)}, round {x}"
    late = x > (curve.rounds[0] + curve.rounds[-1]) / 2
    axes.annotate(
        text,
        (x, y),
        xytext=(-6 if late else 6, 9),
        textcoords="offset points",
        ha="right" if late else "left",
    )
    axes.margins(y=0.14)


def plot_accuracy_bytes(run: RunRecord, path: Path) -> bool:
    """Draw accuracy over the bytes exchanged, and beside it the same run as plain float32 would have been."""
    curve = accuracy_curve(run.lines)
    if not curve.rounds or curve.bytes_total[-1] <= 0:
        return False
    with style.canvas(path, "Accuracy over bytes exchanged") as (_, axes):
        axes.plot(
            curve.bytes_total,
            curve.accuracy,
            label="as sent",
            **style.line_style(0, len(curve.rounds)),
        )
        values = list(curve.bytes_total)
        if curve.bytes_raw[-1] > 1.02 * curve.bytes_total[-1]:
            axes.plot(
                curve.bytes_raw,
                curve.accuracy,
                label="as plain float32",
                color="#9ca3af",
                linestyle="--",
                linewidth=1.5,
            )
            values += curve.bytes_raw
        style.bytes_axis(axes, values)
        style.percent_axis(axes)
        axes.legend(loc="lower right")
    return True


def plot_loss(run: RunRecord, path: Path) -> bool:
    """Draw the loss on held-out data and the mean training loss of the clients."""
    series = {
        "held-out data": _series(run.lines, "loss"),
        "training, mean of clients": _series(run.lines, "train_loss"),
    }
    shown = [
        value
        for points in series.values()
        for _, value in points
        if math.isfinite(value)
    ]
    if not shown:
        return False
    with style.canvas(path, "Loss") as (_, axes):
        for position, (label, points) in enumerate(series.items()):
            if any(math.isfinite(value) for _, value in points):
                lost = sum(not math.isfinite(value) for _, value in points)
                label += f" ({lost} rounds not finite)" if lost else ""
                axes.plot(
                    *zip(*points, strict=True),
                    label=label,
                    **style.line_style(position, len(points)),
                )
        if min(shown) > 0 and max(shown) / min(shown) > 30:
            axes.set_yscale("log")
        style.round_axis(axes)
        axes.set_ylabel("loss")
        axes.legend(loc="best")
    return True


def _series(lines: tuple[Line, ...], key: str) -> list[tuple[int, float]]:
    found = [(line["round"], number(line, key)) for line in lines]
    return [
        (position, value if math.isfinite(value) else math.nan)
        for position, value in found
        if value is not None
    ]


def plot_time_per_phase(run: RunRecord, path: Path) -> bool:
    """Draw what the seconds of a round went to, as stacked bars; long runs show means of up to 60 groups of rounds."""
    lines = run.trained
    phases = list(dict.fromkeys(phase for line in lines for phase in _phases(line)))
    if not any(sum(_phases(line).values()) > 0 for line in lines):
        return False
    size = -(-len(lines) // 60)
    groups = [lines[i : i + size] for i in range(0, len(lines), size)]
    title = "Time per round" if size == 1 else f"Time per round, means of {size} rounds"
    with style.canvas(path, title) as (_, axes):
        floor = [0.0] * len(groups)
        x = [sum(line["round"] for line in group) / len(group) for group in groups]
        total = sum(sum(_phases(line).values()) for line in lines)
        for position, phase in enumerate(phases):
            heights = [
                sum(_phases(line).get(phase, 0.0) for line in group) / len(group)
                for group in groups
            ]
            share = sum(_phases(line).get(phase, 0.0) for line in lines) / total
            width = size * (1.0 if len(groups) > 25 else 0.8)
            axes.bar(
                x,
                heights,
                width,
                bottom=floor,
                label=f"{style.literal(phase)}  {100 * share:.1f} %",
                **_fill(position),
            )
            floor = [low + height for low, height in zip(floor, heights, strict=True)]
        style.round_axis(axes)
        axes.set_ylabel("seconds")
        axes.set_xlim(x[0] - size, max(x[-1], x[0] + 6) + size)
        axes.grid(axis="x", visible=False)
        handles, names = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5)
        )
    return True


def _phases(line: Line) -> Mapping[str, float]:
    recorded = section(line, "seconds_by_phase")
    phases = {key: max(finite(recorded, key) or 0.0, 0.0) for key in recorded}
    if not phases:
        phases = {"train": finite(line, "seconds_training") or 0.0}
    rest = (finite(line, "seconds") or 0.0) - sum(phases.values())
    return phases | ({"other": rest} if rest > 0.01 * sum(phases.values()) else {})


def _fill(position: int) -> dict[str, Any]:
    colours = (
        "#374151",
        "#56A3D9",
        "#F0B73A",
        "#D55E00",
        "#B7DFCF",
        "#CC79A7",
        "#9ca3af",
        "#e5e7eb",
    )
    hatches = ("", "", "///", "", "...", "xxx", "", "--")
    return {
        "facecolor": colours[position % 8],
        "hatch": hatches[position % 8],
        "edgecolor": "white",
        "linewidth": 0,
    }


def plot_clients(run: RunRecord, path: Path) -> bool:
    """Draw the clients' own accuracy where it was evaluated: mean, mean ± spread, and the mean of the worst 10 %."""
    found = [(line["round"], section(line, "clients_evaluation")) for line in run.lines]
    points = [
        (position, table)
        for position, table in found
        if finite(table, "accuracy") is not None
    ]
    if not points:
        return False
    rounds = [position for position, _ in points]
    mean = [finite(table, "accuracy") or 0.0 for _, table in points]
    spread = [finite(table, "spread") or 0.0 for _, table in points]
    worst = [(position, finite(table, "worst10")) for position, table in points]
    low = [max(m - s, 0.0) for m, s in zip(mean, spread, strict=True)]
    high = [min(m + s, 1.0) for m, s in zip(mean, spread, strict=True)]
    with style.canvas(path, "Accuracy on the clients' own data") as (_, axes):
        axes.fill_between(
            rounds, low, high, color="#c7dcec", linewidth=0, label="mean ± spread"
        )
        if len(rounds) == 1:  # a band of one point is invisible
            axes.errorbar(rounds, mean, yerr=spread, color="#7fa8c9", capsize=6)
        axes.plot(
            rounds, mean, label="mean of clients", **style.line_style(0, len(rounds))
        )
        known = [(position, value) for position, value in worst if value is not None]
        if known:
            axes.plot(
                *zip(*known, strict=True),
                label="worst 10 % of clients",
                **style.line_style(1, len(known)),
            )
        style.round_axis(axes)
        style.percent_axis(axes)
        axes.legend(loc="lower right")
    return True


PLOTS: dict[str, Plot] = {
    "accuracy_rounds.png": plot_accuracy_rounds,
    "accuracy_bytes.png": plot_accuracy_bytes,
    "loss.png": plot_loss,
    "clients.png": plot_clients,
    "accuracy_time.png": plot_time,
    "accuracy_joules.png": plot_joules,
    "devices.png": plot_profiles,
    "time_per_phase.png": plot_time_per_phase,
    "profile.png": plot_profile,
    "label_mix.png": plot_label_mix,
}
