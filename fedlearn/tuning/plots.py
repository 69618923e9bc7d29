"""The pictures of a search. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.reporting import style
from fedlearn.tuning.objectives import VALUE_TEXTS
from fedlearn.tuning.record import SearchSettings, Trial
from fedlearn.tuning.results import best_front, ranked
from fedlearn.tuning.space import Range, Space, value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# How the points of trials look, by their state.
_LOOKS: Mapping[str, dict[str, Any]] = {
    "complete": {"marker": "o", "color": style.COLOURS[0], "label": "complete"},
    "pruned": {"marker": "x", "color": style.COLOURS[1], "label": "pruned"},
}
_BEST: dict[str, Any] = {
    "marker": "*",
    "markersize": 14,
    "color": style.COLOURS[1],
    "linestyle": "none",
    "zorder": 5,
}
_BEATEN: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "color": "#9ca3af",
    "label": "beaten",
}
_UNBEATEN: dict[str, Any] = {
    "linestyle": "none",
    "marker": "s",
    "color": style.COLOURS[0],
    "label": "not beaten",
}

# Lines of trials in the background: thin and pale.
_PALE: dict[str, Any] = {"color": "#b6bcc6", "linewidth": 0.9}
_PALE_DASHES = {"pruned": ":", "failed": "--"}

# Trials whose curves can be told apart.
_LINES = 3

# From this ratio between the largest and the smallest value an axis is logarithmic.
_WIDE = 30


def draw(
    folder: Path, trials: Sequence[Trial], settings: SearchSettings, space: Space
) -> list[Path]:
    """Draw the pictures of a search into ``plots``, and return their files.

    None where no trial has completed. Raises RecordError.
    """
    if not ranked(trials, settings):
        return []
    plots = folder / "plots"
    values, curves, front = (
        plots / name for name in ("values.png", "curves.png", "front.png")
    )
    draw_values(values, trials, settings, space)
    draw_curves(curves, trials, settings)
    if len(settings.objectives) == 1:
        return [values, curves]
    draw_front(front, trials, settings)
    return [values, curves, front]


def draw_values(
    path: Path, trials: Sequence[Trial], settings: SearchSettings, space: Space
) -> None:
    """Draw the first objective over each searched key.

    A pruned trial's accuracy is where it had come to.
    """
    name = settings.objectives[0]
    # There is one: `draw` looks first.
    best = best_front(trials, settings)[0]
    title = f"{name.capitalize()} over what was searched"
    # Inches: a title, and each key.
    height = 1.4 + 2.8 * len(space)
    with style.canvas(path, title, height, len(space)) as (_, grid):
        for axes, axis in zip(_each(grid, len(space)), space, strict=True):
            _draw_points(axes, axis, trials, settings)
            label = f"best: {value_text(best.values[axis.key])}"
            x, y = _point(axis, best, settings)
            axes.plot([x], [y], label=label, **_BEST)
            _key_axis(axes, axis)
            _figure_axis(axes, name, settings, "y")
            # Beside the axes: points may lie anywhere in them.
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _each(grid: Any, count: int) -> list[Axes]:
    """Return the axes of a canvas of so many rows as a list."""
    # matplotlib gives no list for one row.
    if count == 1:
        return [grid]
    return list(grid)


def _draw_points(
    axes: Axes, axis: Range, trials: Sequence[Trial], settings: SearchSettings
) -> None:
    """Draw the trials that ran as points: the first objective over one key."""
    states = ["complete"]
    if settings.objectives[0] == "accuracy":
        # Nothing else is known of a pruned trial.
        states.append("pruned")
    for state in states:
        points = [
            _point(axis, trial, settings)
            for trial in trials
            if trial.state == state and trial.has_own_run
        ]
        if points:
            axes.plot(*zip(*points, strict=True), linestyle="none", **_LOOKS[state])


def _point(axis: Range, trial: Trial, settings: SearchSettings) -> tuple[float, float]:
    """Return a trial's value of a key, as a position, and its first objective."""
    x = _position(axis, trial)
    y = _score(trial, settings, 0)
    return x, y


def _score(trial: Trial, settings: SearchSettings, position: int) -> float:
    """Return the objective at a position; NaN of a trial that was never evaluated."""
    if not trial.figures:
        return float("nan")
    return settings.criteria.scores(trial.figures)[position]


def _position(axis: Range, trial: Trial) -> float:
    """Return where a trial's value stands on the axis of a key."""
    value = trial.values[axis.key]
    if axis.choices:
        return axis.choices.index(value)
    # The other kinds of range have numbers.
    return float(value)  # type: ignore[arg-type]


def _key_axis(axes: Axes, axis: Range) -> None:
    """Label the horizontal axis with a key and, of choices, with their texts."""
    axes.set_xlabel(style.literal(axis.key, 60))
    if axis.kind == "log":
        axes.set_xscale("log")
        # The ends are values too: their markers need room.
        axes.set_xlim(axis.low / 1.15, axis.high * 1.15)
    if axis.choices:
        labels = [style.literal(value_text(choice), 22) for choice in axis.choices]
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.5, len(labels) - 0.5)


def _figure_axis(axes: Axes, name: str, settings: SearchSettings, which: str) -> None:
    """Label the axis ``which``, "x" or "y", with an objective."""
    from matplotlib.ticker import FuncFormatter

    axis = axes.yaxis if which == "y" else axes.xaxis
    if name == "accuracy":
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
        axis.set_label_text("best accuracy")
    else:
        text = VALUE_TEXTS[name]
        axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
        axis.set_label_text(name + settings.criteria.until)


def draw_curves(path: Path, trials: Sequence[Trial], settings: SearchSettings) -> None:
    """Draw the best accuracy so far over the rounds.

    All trials are thin lines, the best ones lines that can be told apart.
    """
    # Best in the first objective alone may be worst in another.
    several = len(settings.objectives) > 1
    order = best_front if several else ranked
    best = order(trials, settings)[:_LINES]
    with style.canvas(path, "Best accuracy so far") as (_, axes):
        for trial in trials:
            if trial.curve and trial.has_own_run:
                dashes = _PALE_DASHES.get(trial.state, "-")
                points = zip(*trial.curve, strict=True)
                axes.plot(*points, linestyle=dashes, **_PALE)
        for position, trial in enumerate(best):
            values = ", ".join(value_text(value) for value in trial.values.values())
            label = style.literal(f"{trial.number}: {values}")
            look = style.line_style(position, len(trial.curve))
            axes.plot(*zip(*trial.curve, strict=True), label=label, **look)
        # A line without points, for the legend.
        axes.plot([], [], label="others (dotted: pruned)", **_PALE)
        style.round_axis(axes)
        style.percent_axis(axes)
        title = style.literal(", ".join(settings.search), 40)
        axes.legend(loc="lower right", title=title)


def draw_front(path: Path, trials: Sequence[Trial], settings: SearchSettings) -> None:
    """Draw the trials by two objectives at a time: the first, and each other one.

    What nothing beats is marked.
    """
    names = settings.objectives[1:]
    title = "What nothing beats in all objectives"
    height = 1.4 + 3.2 * len(names)
    with style.canvas(path, title, height, len(names)) as (_, grid):
        for position, axes in enumerate(_each(grid, len(names)), 1):
            _draw_pair(axes, trials, settings, position)


def _draw_pair(
    axes: Axes, trials: Sequence[Trial], settings: SearchSettings, position: int
) -> None:
    """Draw the trials by the first objective and the one at a position."""
    points = {
        trial.number: (_score(trial, settings, position), _score(trial, settings, 0))
        for trial in ranked(trials, settings)
    }
    unbeaten = {trial.number for trial in best_front(trials, settings)}
    beaten = [point for number, point in points.items() if number not in unbeaten]
    # Without points there is nothing to unpack.
    if beaten:
        axes.plot(*zip(*beaten, strict=True), **_BEATEN)
    # As a line would go, so that the squares lie in their order.
    front = sorted(point for number, point in points.items() if number in unbeaten)
    axes.plot(*zip(*front, strict=True), **_UNBEATEN)
    for number, point in points.items():
        if number in unbeaten:
            axes.annotate(
                str(number),
                point,
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=9,
            )
    values = [x for x, _ in points.values() if x > 0]
    if values and max(values) / min(values) > _WIDE:
        axes.set_xscale("log")
    _figure_axis(axes, settings.objectives[0], settings, "y")
    _figure_axis(axes, settings.objectives[position], settings, "x")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
