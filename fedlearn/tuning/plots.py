"""The pictures of a search. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.reporting import style
from fedlearn.tuning.objectives import KNOWN
from fedlearn.tuning.record import Settings, Trial
from fedlearn.tuning.results import best_front, ranked
from fedlearn.tuning.space import Range, Space, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def draw(
    folder: Path, trials: Sequence[Trial], settings: Settings, space: Space
) -> list[Path]:
    """Draw the pictures of a search into ``plots`` and return those there was something to draw for."""
    if not ranked(trials, settings):
        return []
    made = [folder / "plots" / name for name in ("values.png", "curves.png")]
    draw_values(made[0], trials, settings, space)
    draw_curves(made[1], trials, settings)
    if len(settings.objectives) > 1:
        made.append(folder / "plots" / "front.png")
        draw_front(made[-1], trials, settings)
    return made


def draw_values(
    path: Path, trials: Sequence[Trial], settings: Settings, space: Space
) -> None:
    """Draw the first objective over each searched key; what is pruned shows where the accuracy had come to."""
    name = settings.objectives[0]
    states = (
        ("complete", "pruned") if name == "accuracy" else ("complete",)
    )  # of a pruned trial nothing else is known
    best = best_front(trials, settings)[0]
    with style.canvas(
        path,
        f"{name.capitalize()} over what was searched",
        1.4 + 2.8 * len(space),
        len(space),
    ) as (_, grid):
        for axes, axis in zip([grid] if len(space) == 1 else grid, space, strict=True):
            for state in states:
                shown_trials = [
                    trial for trial in trials if trial.state == state and trial.own
                ]
                points = [
                    (_position(axis, t), _score(t, settings, 0)) for t in shown_trials
                ]
                if points:
                    axes.plot(
                        *zip(*points, strict=True), linestyle="none", **_LOOKS[state]
                    )
            axes.plot(
                [_position(axis, best)],
                [_score(best, settings, 0)],
                label=f"best: {shown(best.values[axis.key])}",
                **_BEST,
            )
            _key_axis(axes, axis)
            _figure_axis(axes, name, settings, "y")
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _score(trial: Trial, settings: Settings, position: int) -> float:
    return (
        settings.asked.scores(trial.figures)[position]
        if trial.figures
        else float("nan")
    )


def _position(axis: Range, trial: Trial) -> float:
    value = trial.values[axis.key]
    return axis.choices.index(value) if axis.choices else float(value)  # type: ignore[arg-type]  # a number, where nothing is chosen


def _key_axis(axes: Axes, axis: Range) -> None:
    axes.set_xlabel(style.literal(axis.key, 60))
    if axis.kind == "log":
        axes.set_xscale("log")
        axes.set_xlim(axis.low / 1.15, axis.high * 1.15)
    if axis.choices:
        axes.set_xticks(
            range(len(axis.choices)),
            [style.literal(shown(choice), 22) for choice in axis.choices],
        )
        axes.set_xlim(-0.5, len(axis.choices) - 0.5)


def _figure_axis(axes: Axes, name: str, settings: Settings, which: str) -> None:
    from matplotlib.ticker import FuncFormatter

    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(
        FuncFormatter(
            lambda value, _: (
                f"{100 * value:.4g} %" if name == "accuracy" else KNOWN[name](value)
            )
        )
    )
    axis.set_label_text(
        "best accuracy" if name == "accuracy" else name + settings.asked.until
    )


def draw_curves(path: Path, trials: Sequence[Trial], settings: Settings) -> None:
    """Draw the best accuracy so far over the rounds: of all trials thinly, of the best ones as lines that can be told apart."""
    best = (
        best_front(trials, settings)
        if len(settings.objectives) > 1
        else ranked(trials, settings)
    )[:3]
    with style.canvas(path, "Best accuracy so far") as (_, axes):
        for trial in trials:
            if trial.curve and trial.own:
                dots = {"pruned": ":", "failed": "--"}.get(trial.state, "-")
                axes.plot(
                    *zip(*trial.curve, strict=True),
                    color="#b6bcc6",
                    linewidth=0.9,
                    linestyle=dots,
                )
        for position, trial in enumerate(best):
            label = ", ".join(shown(value) for value in trial.values.values())
            axes.plot(
                *zip(*trial.curve, strict=True),
                label=style.literal(f"{trial.number}: {label}"),
                **style.line_style(position, len(trial.curve)),
            )
        axes.plot(
            [], [], color="#b6bcc6", linewidth=0.9, label="others (dotted: pruned)"
        )
        style.round_axis(axes)
        style.percent_axis(axes)
        axes.legend(
            loc="lower right", title=style.literal(", ".join(settings.search), 40)
        )


def draw_front(path: Path, trials: Sequence[Trial], settings: Settings) -> None:
    """Draw the trials by two objectives at a time, the first beside each other one; what nothing beats is marked."""
    best = {trial.number for trial in best_front(trials, settings)}
    others = list(enumerate(settings.objectives))[1:]
    with style.canvas(
        path,
        "What nothing beats in all objectives",
        1.4 + 3.2 * len(others),
        len(others),
    ) as (_, grid):
        for axes, (position, name) in zip(
            [grid] if len(others) == 1 else grid, others, strict=True
        ):
            points = [
                (t.number, _score(t, settings, position), _score(t, settings, 0))
                for t in ranked(trials, settings)
            ]
            rest = [(x, y) for number, x, y in points if number not in best]
            front = sorted((x, y) for number, x, y in points if number in best)
            if rest:
                axes.plot(
                    *zip(*rest, strict=True),
                    linestyle="none",
                    marker="o",
                    color="#9ca3af",
                    label="beaten",
                )
            axes.plot(
                *zip(*front, strict=True),
                linestyle="none",
                marker="s",
                color=style.COLOURS[0],
                label="not beaten",
            )
            for number, x, y in points:
                if number in best:
                    axes.annotate(
                        str(number),
                        (x, y),
                        xytext=(5, 5),
                        textcoords="offset points",
                        fontsize=9,
                    )
            values = [x for _, x, _ in points if x > 0]
            if values and max(values) / min(values) > 30:
                axes.set_xscale("log")
            _figure_axis(axes, settings.objectives[0], settings, "y")
            _figure_axis(axes, name, settings, "x")
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
