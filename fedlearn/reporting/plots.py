"""The pictures of one run, drawn from its folder. matplotlib is imported when the first is drawn.

Each `plot_*` takes the run and a path, writes one PNG and returns True, or False where there is
nothing to draw. Each raises RecordError when the picture cannot be written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.records.line import Line
from fedlearn.records.names import PLOTS_FOLDER
from fedlearn.records.reading import RunRecord, amount, finite, number, read, section
from fedlearn.reporting import style
from fedlearn.reporting.baseline import baseline_of
from fedlearn.reporting.devices_plot import plot_joules, plot_profiles, plot_time
from fedlearn.reporting.label_plot import plot_label_mix
from fedlearn.reporting.profile import OTHER
from fedlearn.reporting.profile_plot import plot_profile
from fedlearn.reporting.results import AccuracyCurve, accuracy_curve
from fedlearn.reporting.stacks import StackedBars, bar_look, grouped
from fedlearn.reporting.units import percent_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Draws a run to a path; False: there was nothing to draw.
Plot = Callable[[RunRecord, Path], bool]

# (round, value)
Point = tuple[int, float]

# Fills of phases in their order on a line; neighbours differ in grey too.
PHASE_FILLS = (
    ("#374151", ""),
    ("#56A3D9", ""),
    ("#F0B73A", "///"),
    ("#D55E00", ""),
    ("#B7DFCF", "..."),
    ("#CC79A7", "xxx"),
    ("#9ca3af", ""),
    ("#e5e7eb", "--"),
)


def draw(folder: Path, into: Path | None = None) -> list[Path]:
    """Draw all pictures of a run folder and return those there was something to draw for.

    into: where to put them; ``plots`` in the run folder when None. Raises UserError when it is not
    a run folder, RecordError when a file cannot be read or written.
    """
    run = read(folder)
    target = into or folder / PLOTS_FOLDER
    paths: list[Path] = []
    for name, plot in PLOTS.items():
        path = target / name
        if plot(run, path):
            paths.append(path)
    return paths


def plot_accuracy_rounds(run: RunRecord, path: Path) -> bool:
    """Draw accuracy over rounds, with the best round marked."""
    curve = accuracy_curve(run.lines)
    if curve.best is None:
        return False
    with style.canvas(path, "Accuracy over rounds") as (_, axes):
        look = style.line_style(0, len(curve.rounds))
        axes.plot(curve.rounds, curve.accuracy, **look)
        _mark_best(axes, curve, curve.best)
        _mark_baseline(axes, run)
        style.round_axis(axes)
        style.percent_axis(axes, "accuracy on held-out data")
    return True


def _mark_best(axes: Axes, curve: AccuracyCurve, best: int) -> None:
    x = curve.rounds[best]
    y = curve.accuracy[best]
    axes.plot(
        [x],
        [y],
        marker="*",
        markersize=14,
        color=style.COLOURS[1],
        linestyle="none",
        zorder=5,
    )
    # In the right half the text stands to the left of its star, or the picture would cut it.
    late = x > (curve.rounds[0] + curve.rounds[-1]) / 2
    axes.annotate(
        f"best {percent_text(y)}, round {x}",
        (x, y),
        xytext=(-6 if late else 6, 9),
        textcoords="offset points",
        ha="right" if late else "left",
    )
    # Room for the text above the star.
    axes.margins(y=0.14)


def _mark_baseline(axes: Axes, run: RunRecord) -> None:
    """Draw what always answering the most frequent class reaches, where that is known."""
    share = baseline_of(run)
    if share is None:
        return
    axes.axhline(
        share,
        label=f"always the most frequent class, {percent_text(share)}",
        color=style.GREY,
        linestyle=":",
        linewidth=1.5,
    )
    axes.legend(loc="lower right")


def plot_accuracy_bytes(run: RunRecord, path: Path) -> bool:
    """Draw accuracy over the bytes exchanged, beside what plain float32 would have taken."""
    curve = accuracy_curve(run.lines)
    if not curve.rounds or curve.bytes_total[-1] <= 0:
        return False
    with style.canvas(path, "Accuracy over bytes exchanged") as (_, axes):
        look = style.line_style(0, len(curve.rounds))
        axes.plot(curve.bytes_total, curve.accuracy, label="as sent", **look)
        values = list(curve.bytes_total)
        # Headers alone differ by less than 2 %: then both curves would be one.
        if curve.bytes_raw[-1] > 1.02 * curve.bytes_total[-1]:
            _plot_raw(axes, curve)
            values += curve.bytes_raw
        style.bytes_axis(axes, values)
        style.percent_axis(axes)
        axes.legend(loc="lower right")
    return True


def _plot_raw(axes: Axes, curve: AccuracyCurve) -> None:
    axes.plot(
        curve.bytes_raw,
        curve.accuracy,
        label="as plain float32",
        color=style.GREY,
        linestyle="--",
        linewidth=1.5,
    )


def plot_loss(run: RunRecord, path: Path) -> bool:
    """Draw the loss on held-out data and the mean training loss of the clients."""
    series = {
        "held-out data": _series(run.lines, "loss"),
        "training, mean of clients": _series(run.lines, "train_loss"),
    }
    losses = [
        value
        for points in series.values()
        for _, value in points
        if math.isfinite(value)
    ]
    if not losses:
        return False
    with style.canvas(path, "Loss") as (_, axes):
        for position, (label, points) in enumerate(series.items()):
            _plot_loss_series(axes, position, label, points)
        # A loss that falls by a factor of 30 would lie on the axis for most of the run.
        if min(losses) > 0 and max(losses) / min(losses) > 30:
            axes.set_yscale("log")
        style.round_axis(axes)
        axes.set_ylabel("loss")
        axes.legend(loc="best")
    return True


def _series(lines: Sequence[Line], key: str) -> list[Point]:
    """Return the recorded values of a key by round; those that are not finite as NaN, a gap."""
    points: list[Point] = []
    for line in lines:
        value = number(line, key)
        if value is None:
            continue
        # A line of matplotlib has a gap at NaN; at infinity the axis would be spoilt.
        if not math.isfinite(value):
            value = math.nan
        points.append((line["round"], value))
    return points


def _plot_loss_series(
    axes: Axes, position: int, label: str, points: Sequence[Point]
) -> None:
    gaps = sum(math.isnan(value) for _, value in points)
    if gaps == len(points):
        return
    if gaps:
        label += f" ({gaps} rounds not finite)"
    look = style.line_style(position, len(points))
    axes.plot(*zip(*points, strict=True), label=label, **look)


def plot_time_per_phase(run: RunRecord, path: Path) -> bool:
    """Draw what the seconds of a round went to, as stacked bars.

    Long runs show means of up to 60 groups of rounds.
    """
    lines = run.trained
    # A dict keeps the order of the phases in a line, which is that of a round.
    phases = list(dict.fromkeys(phase for line in lines for phase in _phases(line)))
    total_s = sum(sum(_phases(line).values()) for line in lines)
    if total_s <= 0:
        return False
    rounds = grouped(lines)
    with style.canvas(path, f"Time per round{rounds.note}") as (_, axes):
        bars = StackedBars(axes, rounds)
        for position, phase in enumerate(phases):
            seconds = partial(_phase_seconds, phase)
            share = sum(map(seconds, lines)) / total_s
            fill = PHASE_FILLS[position % len(PHASE_FILLS)]
            bars.add(phase, share, rounds.means(seconds), bar_look(*fill))
        style.round_axis(axes)
        bars.finish("seconds")
    return True


def _phase_seconds(phase: str, line: Line) -> float:
    return _phases(line).get(phase, 0.0)


def _phases(line: Line) -> Mapping[str, float]:
    """Return a round's phases → seconds, with `OTHER` where they leave more than 1 % of it."""
    recorded = section(line, "seconds_by_phase")
    phases = {key: max(0.0, amount(recorded, key)) for key in recorded}
    if not phases:
        phases = {"train": amount(line, "seconds_training")}
    phases_s = sum(phases.values())
    rest_s = amount(line, "seconds") - phases_s
    if rest_s > 0.01 * phases_s:
        phases[OTHER] = rest_s
    return phases


def plot_clients(run: RunRecord, path: Path) -> bool:
    """Draw the clients' own accuracy where it was evaluated.

    Shown are the mean, the mean ± spread, and the mean of the worst 10 % of the clients.
    """
    evaluations = {
        line["round"]: section(line, "clients_evaluation") for line in run.lines
    }
    evaluated = {
        round_number: evaluation
        for round_number, evaluation in evaluations.items()
        if finite(evaluation, "accuracy") is not None
    }
    if not evaluated:
        return False
    with style.canvas(path, "Accuracy on the clients' own data") as (_, axes):
        _plot_spread(axes, evaluated)
        worst = [
            (round_number, value)
            for round_number, evaluation in evaluated.items()
            if (value := finite(evaluation, "worst10")) is not None
        ]
        if worst:
            axes.plot(
                *zip(*worst, strict=True),
                label="worst 10 % of clients",
                **style.line_style(1, len(worst)),
            )
        style.round_axis(axes)
        style.percent_axis(axes)
        axes.legend(loc="lower right")
    return True


def _plot_spread(axes: Axes, evaluated: Mapping[int, Mapping[str, Any]]) -> None:
    """Draw the clients' mean accuracy and a band of one standard deviation around it."""
    rounds = list(evaluated)
    means = [amount(evaluation, "accuracy") for evaluation in evaluated.values()]
    spreads = [amount(evaluation, "spread") for evaluation in evaluated.values()]
    # Accuracies are shares: the band ends at 0 and at 1.
    bands = list(zip(means, spreads, strict=True))
    low = [max(mean - spread, 0.0) for mean, spread in bands]
    high = [min(mean + spread, 1.0) for mean, spread in bands]
    axes.fill_between(
        rounds, low, high, color="#c7dcec", linewidth=0, label="mean ± spread"
    )
    # A band of one point is invisible.
    if len(rounds) == 1:
        axes.errorbar(rounds, means, yerr=spreads, color="#7fa8c9", capsize=6)
    look = style.line_style(0, len(rounds))
    axes.plot(rounds, means, label="mean of clients", **look)


# In the order of a page and of a listing: first how good the model is, then what it cost.
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
