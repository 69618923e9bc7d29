"""What a trial is judged by: accuracy, rounds, bytes, time, and which trials nothing else beats in all of them.

Accuracy is the best so far on held-out samples. Rounds, bytes (both directions) and seconds are those until ``--target``
is reached, by McMahan et al.'s rule (AISTATS 2017, section 3: the best accuracy so far, crossed with linear interpolation
between rounds), or the whole run's where there is no target. Seconds are of this machine at that hour: nothing reproduces them.
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

Curve = tuple[tuple[int, float], ...]
"""(round, best accuracy so far) of every round that was evaluated."""


@dataclass(frozen=True)
class Figures:
    """What a trial came to. The sums are over all its rounds; those to the target are None where it was not reached."""

    rounds: int
    accuracy: float  # the best, share of 1
    bytes: float  # both directions
    time: float  # seconds
    rounds_to_target: float | None = None
    bytes_to_target: float | None = None
    time_to_target: float | None = None

    def told(self) -> dict[str, Any]:
        """Return the figures as JSON has them."""
        return asdict(self)


@dataclass(frozen=True)
class Objectives:
    """What is asked for: names of `KNOWN`, and the accuracy to reach (None: no target)."""

    names: tuple[str, ...]
    target: float | None = None

    @property
    def until(self) -> str:
        """Return " to 97 %", or "" without a target."""
        return f" to {100 * self.target:g} %" if self.target else ""

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """Return "maximize" or "minimize" for each."""
        return ["maximize" if name == "accuracy" else "minimize" for name in self.names]

    @property
    def stops(self) -> bool:
        """Tell whether a trial has shown all it is judged by once it reached the target."""
        return self.target is not None and "accuracy" not in self.names

    @property
    def comparable(self) -> bool:
        """Tell whether a trial that is behind in accuracy at a round is behind in all that counts."""
        return self.names in (("accuracy",), ("rounds",))

    def scores(self, figures: Figures) -> list[float]:
        """Return the number of each objective by which trials are compared.

        One that did not reach the target counts what its whole run took, and more by the share of the target it lacked: those
        that came nearer are better, which tells a sampler where to look.
        """
        lacking = 1 + (1 - figures.accuracy / self.target if self.target else 0.0)
        found = []
        for name in self.names:
            whole: float = getattr(figures, name)
            reached = getattr(figures, f"{name}_to_target", None)
            found.append(
                whole
                if name == "accuracy" or not self.target
                else reached
                if reached is not None
                else whole * lacking
            )
        return found

    def text(self, name: str, figures: Figures) -> str:
        """Return a trial's figure for people: "-" for a target that was not reached."""
        value = (
            getattr(figures, f"{name}_to_target")
            if self.target and name != "accuracy"
            else getattr(figures, name)
        )
        return KNOWN[name](value)


KNOWN = {
    "accuracy": percent_text,
    "rounds": lambda value: "-" if value is None else f"{value:.1f}",
    "bytes": bytes_text,
    "time": time_text,
}
"""Each objective, and how its value reads."""


def objectives(text: str | None, target: float | None) -> Objectives:
    """Return what ``--objective`` and ``--target`` ask for. Raises ConfigError for what cannot be judged."""
    if target is not None and not 0 < target < 1:
        raise ConfigError(
            f"--target {target:g}: give a share of 1, such as 0.97 for 97 %"
        )
    names = tuple(
        name.strip()
        for name in (text or ("accuracy" if target is None else "rounds")).split(",")
    )
    for name in names:
        if name not in KNOWN:
            raise ConfigError(
                f"--objective: unknown name '{name}'.{nearest(name, KNOWN)} Known: {', '.join(KNOWN)}"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"--objective {text}: a name is given twice")
    if target is None and "rounds" in names:
        raise ConfigError(
            "--objective rounds counts the rounds to an accuracy; add --target, such as --target 0.97"
        )
    if target is None and "accuracy" not in names:
        raise ConfigError(
            f"--objective {text}: least where nothing is learned; add accuracy, or the accuracy to reach: --target 0.97"
        )
    return Objectives(names, target)


def curve(lines: Sequence[Line]) -> Curve:
    """Return the best accuracy so far, by round, of the lines of a run."""
    found = accuracy_curve(lines)
    return tuple(
        zip(found.rounds, itertools.accumulate(found.accuracy, max), strict=True)
    )


def figures(lines: Sequence[Line], target: float | None) -> Figures:
    """Return what the lines of a run come to; they hold at least one that was evaluated."""
    found = accuracy_curve(lines)
    seconds = list(
        itertools.accumulate(finite(line, "seconds") or 0.0 for line in lines)
    )
    at = {line["round"]: passed for line, passed in zip(lines, seconds, strict=True)}
    reached: dict[str, float | None] = {}
    if target is not None:
        axes: Mapping[str, Sequence[float]] = {
            "rounds": found.rounds, "bytes": found.bytes_total, "time": [at[round] for round in found.rounds],
        }  # fmt: skip
        reached = {
            f"{name}_to_target": crossing(axis, found.accuracy, target)
            for name, axis in axes.items()
        }
    sent = sum(
        (finite(line, "bytes_up") or 0.0) + (finite(line, "bytes_down") or 0.0)
        for line in lines
    )
    return Figures(
        lines[-1]["round"], max(found.accuracy), sent, seconds[-1], **reached
    )


def front(
    scores: Mapping[int, Sequence[float]], directions: Sequence[str]
) -> list[int]:
    """Return the trials that no other beats: none is at least as good in everything and better in something.

    scores: trial → its number in each objective. Sorted best first in the first objective, then in the next.
    """
    signed = {
        trial: [
            -s if d == "maximize" else s for s, d in zip(row, directions, strict=True)
        ]
        for trial, row in scores.items()
    }

    def beaten(row: Sequence[float]) -> bool:
        return any(
            other != row and all(a <= b for a, b in zip(other, row, strict=True))
            for other in signed.values()
        )

    return sorted(
        (trial for trial, row in signed.items() if not beaten(row)),
        key=lambda trial: (signed[trial], trial),
    )
