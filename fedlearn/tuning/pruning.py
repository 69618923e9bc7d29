"""When a trial is given up: its best accuracy so far is behind that of the trials before it at the same round.

``median``: behind half of them (Golovin et al., "Google Vizier", KDD 2017, section 3.2.2, here of the best value so far).
``halving``: behind two thirds of them, asked after a ninth and a third of the rounds (asynchronous successive halving, Li et
al., MLSys 2020, with a reduction factor of 3).

A rule sees only trials that had ended when this one began, so that what is pruned does not depend on the machine's speed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedlearn.reporting.units import percent_text
from fedlearn.tuning.objectives import Curve

ENOUGH = 5
"""Trials that must have come as far before one is compared with their median: fewer say little of it."""

FACTOR = 3
"""Of how many trials one goes on from a rung."""


@dataclass(frozen=True)
class Past:
    """A trial that ended: its curve, and whether it went to its end (or to the target) rather than being given up."""

    curve: Curve
    whole: bool


def at(past: Past, round: int) -> float | None:
    """Return the best accuracy that a trial had by a round; None when it was given up before."""
    upto = [accuracy for done, accuracy in past.curve if done <= round]
    return upto[-1] if upto and (past.whole or past.curve[-1][0] >= round) else None


def median(own: Curve, past: Sequence[Past], rounds: int) -> str:
    """Return why the trial is given up, "" for going on. Not before a quarter of the rounds: a low rate starts slowly."""
    round, accuracy = own[-1]
    reached = [value for trial in past if (value := at(trial, round)) is not None]
    if (
        round < max(2, math.ceil(rounds / 4))
        or len(reached) < ENOUGH
        or accuracy >= statistics.median(reached)
    ):
        return ""
    middle = percent_text(statistics.median(reached))
    return f"{percent_text(accuracy)} at round {round}, below the median of {len(reached)} trials, {middle}"


def halving(own: Curve, past: Sequence[Past], rounds: int) -> str:
    """Return why the trial is given up, "" for going on."""
    round, accuracy = own[-1]
    before = own[-2][0] if len(own) > 1 else 0
    if not any(
        before < rung <= round
        for rung in (max(1, math.ceil(rounds / FACTOR**2)), math.ceil(rounds / FACTOR))
    ):
        return ""
    reached = [value for trial in past if (value := at(trial, round)) is not None]
    ahead = sum(value > accuracy for value in reached)
    if len(reached) + 1 < FACTOR or ahead < math.ceil((len(reached) + 1) / FACTOR):
        return ""
    return f"{percent_text(accuracy)} at round {round}, behind {ahead} of {len(reached)} trials"


RULES: dict[str, Callable[[Curve, Sequence[Past], int], str]] = {
    "median": median,
    "halving": halving,
    "none": lambda own, past, rounds: "",
}
