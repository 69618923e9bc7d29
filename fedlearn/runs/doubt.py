"""Whether a run's training loss rises: then what clients hold is in doubt.

They are sent the whole model once.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from fedlearn.records.line import Line

# Rounds averaged: a single cohort of unlike clients is no rise.
ROUNDS = 5

# The loss has risen when its five-round mean is twice its minimum and above half of the
# first mean. The second bound ignores small losses, which double by noise.
RISE = 2.0
SHARE = 0.5


def rises(lines: Sequence[Line], since: int) -> bool:
    """Return whether the training loss has come back up after round ``since``."""
    trained = [
        (line["round"], line["train_loss"])
        for line in lines
        if line["train_loss"] is not None
    ]
    # Losses from before the whole models were sent say nothing of what is held now.
    losses = [loss for round, loss in trained if round > since]
    # Twice the rounds of a mean: less cannot fall and rise again.
    if len(losses) < 2 * ROUNDS:
        return False
    starts = range(len(losses) - ROUNDS + 1)
    means = [fmean(losses[start : start + ROUNDS]) for start in starts]
    first = fmean(loss for _, loss in trained[:ROUNDS])
    return means[-1] > max(RISE * min(means), SHARE * first)
