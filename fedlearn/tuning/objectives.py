"""What a trial is judged by: accuracy, rounds, bytes, time; and which trials are best.

Accuracy is the best so far on held-out samples. Rounds, bytes (both directions) and
seconds are those until ``--target`` is reached, or the whole run's where there is no
target. The target counts by McMahan et al.'s rule (AISTATS 2017, section 3): the best
accuracy so far, crossed with linear interpolation between rounds. Seconds are of this
machine at that hour: nothing reproduces them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fedlearn.errors import ConfigError
from fedlearn.names import nearest
from fedlearn.records.line import Line
from fedlearn.records.reading import finite
from fedlearn.reporting.results import accuracy_curve, crossing
from fedlearn.reporting.units import bytes_text, percent_text, time_text

# (round, best accuracy so far) of every round that was evaluated.
Curve = tuple[tuple[int, float], ...]

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class TrialFigures:
    """What a trial came to. The names of the fields are keys in ``trials.json``.

    rounds, bytes (both directions) and time (seconds) are sums over all its rounds;
    accuracy is the best, a share of 1. Those to the target are None where it was not
    reached, or where there is none.
    """

    rounds: int
    accuracy: float
    bytes: float
    time: float
    rounds_to_target: float | None = None
    bytes_to_target: float | None = None
    time_to_target: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON has them."""
        return asdict(self)

    def total(self, name: str) -> float:
        """Return an objective's figure over the whole run."""
        value: float = getattr(self, name)
        return value

    def to_target(self, name: str) -> float | None:
        """Return an objective's figure until the target; None: it was not reached."""
        value: float | None = getattr(self, f"{name}_to_target")
        return value


@dataclass(frozen=True)
class Objectives:
    """What is asked for: names of `VALUE_TEXTS`, and the accuracy to reach.

    target: a share of 1; None: there is none.
    """

    names: tuple[str, ...]
    target: float | None = None

    @property
    def until(self) -> str:
        """Return " to 97 %", or "" without a target."""
        if not self.target:
            return ""
        return f" to {100 * self.target:g} %"

    @property
    def directions(self) -> list[Direction]:
        """Return "maximize" or "minimize" for each, Optuna's words."""
        directions: list[Direction] = []
        for name in self.names:
            # Of all others less is better.
            directions.append("maximize" if name == "accuracy" else "minimize")
        return directions

    @property
    def stops(self) -> bool:
        """Tell whether a trial is known by all objectives once it reached the target."""
        if self.target is None:
            return False
        # The best accuracy may come after the target.
        return "accuracy" not in self.names

    @property
    def comparable(self) -> bool:
        """Tell whether a trial behind in accuracy at a round is behind in all objectives.

        Bytes and seconds of a round differ between trials.
        """
        # Of several objectives a trial may be best in another one.
        return self.names in (("accuracy",), ("rounds",))

    def scores(self, figures: TrialFigures) -> list[float]:
        """Return the number of each objective by which trials are compared."""
        return [self._score(name, figures) for name in self.names]

    def _score(self, name: str, figures: TrialFigures) -> float:
        total = figures.total(name)
        if name == "accuracy" or not self.target:
            return total
        until = figures.to_target(name)
        if until is not None:
            return until
        # Short of the target it counts its whole run, and more by the share of the target
        # that it lacked. Trials that came nearer are better: a sampler sees where to look.
        return total * (1 + (1 - figures.accuracy / self.target))

    def text(self, name: str, figures: TrialFigures) -> str:
        """Return a trial's figure for people: "-" for a target that was not reached."""
        if self.target and name != "accuracy":
            return VALUE_TEXTS[name](figures.to_target(name))
        return VALUE_TEXTS[name](figures.total(name))


def _rounds_text(rounds: float | None) -> str:
    if rounds is None:
        return "-"
    # Rounds to a target are interpolated.
    return f"{rounds:.1f}"


# Each objective, and how its value reads; None: the target was not reached.
VALUE_TEXTS = {
    "accuracy": percent_text,
    "rounds": _rounds_text,
    "bytes": bytes_text,
    "time": time_text,
}


def parse_objectives(text: str | None, target: float | None) -> Objectives:
    """Return what ``--objective`` and ``--target`` ask for.

    Raises ConfigError for what cannot be judged.
    """
    if target is not None and not 0 < target < 1:
        raise ConfigError(
            f"--target {target:g}: give a share of 1, such as 0.97 for 97 %"
        )
    if not text:
        default = "accuracy" if target is None else "rounds"
        return Objectives((default,), target)
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in VALUE_TEXTS:
            raise ConfigError(
                f"--objective: unknown name '{name}'.{nearest(name, VALUE_TEXTS)} "
                f"Known: {', '.join(VALUE_TEXTS)}"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"--objective {text}: a name is given twice")
    if target is None and "rounds" in names:
        raise ConfigError(
            "--objective rounds counts the rounds to an accuracy; "
            "add --target, such as --target 0.97"
        )
    # Without a target a model that learns nothing, and sends nothing, would be best.
    if target is None and "accuracy" not in names:
        raise ConfigError(
            f"--objective {text}: least where nothing is learned; "
            "add accuracy, or the accuracy to reach: --target 0.97"
        )
    return Objectives(names, target)


def trial_curve(lines: Sequence[Line]) -> Curve:
    """Return the best accuracy so far, by round, of the lines of a run."""
    curve = accuracy_curve(lines)
    best = itertools.accumulate(curve.accuracy, max)
    return tuple(zip(curve.rounds, best, strict=True))


def trial_figures(lines: Sequence[Line], target: float | None) -> TrialFigures:
    """Return what the lines of a run come to; at least one of them was evaluated."""
    curve = accuracy_curve(lines)
    # Integers, as bytes are, stay integers: so they are written to ``trials.json``.
    seconds: float = 0
    bytes_: float = 0
    # Round → the seconds until its end.
    seconds_by: dict[int, float] = {}
    for line in lines:
        seconds += finite(line, "seconds") or 0.0
        up = finite(line, "bytes_up") or 0.0
        down = finite(line, "bytes_down") or 0.0
        bytes_ += up + down
        seconds_by[line["round"]] = seconds
    crossings: dict[str, float | None] = {}
    if target is not None:
        axes: Mapping[str, Sequence[float]] = {
            "rounds": curve.rounds,
            "bytes": curve.bytes_total,
            "time": [seconds_by[number] for number in curve.rounds],
        }
        for name, axis in axes.items():
            crossings[f"{name}_to_target"] = crossing(axis, curve.accuracy, target)
    return TrialFigures(
        rounds=lines[-1]["round"],
        accuracy=max(curve.accuracy),
        bytes=bytes_,
        time=seconds,
        **crossings,
    )


def front(
    scores: Mapping[int, Sequence[float]], directions: Sequence[str]
) -> list[int]:
    """Return the trials that no other beats: the Pareto front.

    A trial beats another if it is at least as good in everything and better in something.
    scores: trial → its number in each objective. The first is best in the first objective,
    then in the next.
    """
    # Costs: less is better in each objective, so that one comparison serves all.
    costs: dict[int, list[float]] = {}
    for trial, numbers in scores.items():
        pairs = zip(numbers, directions, strict=True)
        costs[trial] = [
            -number if direction == "maximize" else number
            for number, direction in pairs
        ]
    unbeaten = [
        trial
        for trial, row in costs.items()
        if not any(_beats(rival, row) for rival in costs.values())
    ]
    return sorted(unbeaten, key=lambda trial: (costs[trial], trial))


def _beats(rival: Sequence[float], row: Sequence[float]) -> bool:
    """Tell whether a trial's costs are nowhere above another's, and somewhere below."""
    # Equal trials do not beat each other: both stay.
    if rival == row:
        return False
    return all(cost <= limit for cost, limit in zip(rival, row, strict=True))
