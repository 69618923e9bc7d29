"""When a trial is given up: its best accuracy is behind that of earlier trials.

``median``: behind half of them at the same round (Golovin et al., "Google Vizier", KDD
2017, section 3.2.2, here of the best value so far). ``halving``: behind two thirds of
them, asked after a ninth and a third of the rounds (asynchronous successive halving, Li
et al., MLSys 2020, with a reduction factor of 3).

A rule sees only trials that had ended when this one began: what is pruned does not depend
on the machine's speed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedlearn.reporting.units import percent_text
from fedlearn.tuning.objectives import Curve

# Trials that must have come as far before one is compared with their median: fewer say
# little about it.
ENOUGH = 5

# One trial in so many goes on from a rung.
FACTOR = 3


@dataclass(frozen=True)
class PastTrial:
    """A trial that ended.

    finished: it went to its end (or to the target), and was not given up.
    """

    curve: Curve
    finished: bool


def accuracy_by(past: PastTrial, number: int) -> float | None:
    """Return the best accuracy of a trial until a round; None: it was given up before.

    None, too, where nothing had been evaluated by then.
    """
    until = [accuracy for position, accuracy in past.curve if position <= number]
    if not until:
        return None
    last_round, _ = past.curve[-1]
    if not past.finished and last_round < number:
        return None
    return until[-1]


def _accuracies_by(past: Sequence[PastTrial], number: int) -> list[float]:
    """Return the accuracies of the trials that came as far as a round."""
    accuracies = [accuracy_by(trial, number) for trial in past]
    return [accuracy for accuracy in accuracies if accuracy is not None]


def median(curve: Curve, past: Sequence[PastTrial], rounds: int) -> str:
    """Return why a trial of so many rounds is given up, "" for going on."""
    number, accuracy = curve[-1]
    # Not before a quarter of the rounds: a low rate starts slowly.
    if number < max(2, math.ceil(rounds / 4)):
        return ""
    accuracies = _accuracies_by(past, number)
    if len(accuracies) < ENOUGH:
        return ""
    middle = statistics.median(accuracies)
    if accuracy >= middle:
        return ""
    return (
        f"{percent_text(accuracy)} at round {number}, "
        f"below the median of {len(accuracies)} trials, {percent_text(middle)}"
    )


def halving(curve: Curve, past: Sequence[PastTrial], rounds: int) -> str:
    """Return why a trial of so many rounds is given up, "" for going on."""
    number, accuracy = curve[-1]
    before = 0
    if len(curve) > 1:
        before, _ = curve[-2]
    rungs = (max(1, math.ceil(rounds / FACTOR**2)), math.ceil(rounds / FACTOR))
    # A rung may not be evaluated: the first evaluation after it counts.
    if not any(before < rung <= number for rung in rungs):
        return ""
    accuracies = _accuracies_by(past, number)
    ahead = sum(value > accuracy for value in accuracies)
    # With this trial itself.
    trials = len(accuracies) + 1
    if trials < FACTOR or ahead < math.ceil(trials / FACTOR):
        return ""
    return (
        f"{percent_text(accuracy)} at round {number}, "
        f"behind {ahead} of {len(accuracies)} trials"
    )


def never(curve: Curve, past: Sequence[PastTrial], rounds: int) -> str:
    """Return "": no trial is given up."""
    return ""


# The names of ``--prune``.
RULES: dict[str, Callable[[Curve, Sequence[PastTrial], int], str]] = {
    "median": median,
    "halving": halving,
    "none": never,
}
