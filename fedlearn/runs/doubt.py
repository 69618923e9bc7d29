"""Whether a run's training loss rises: then what clients hold is in doubt, and they are sent the whole model once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

ROUNDS = 5
"""Rounds averaged: one unlike cohort is no rise."""

RISE, SHARE = 2.0, 0.5
"""How far the average must lie above the lowest one before it, and what share it must be of the first rounds' average: small
losses double by chance."""


def rises(lines: Sequence[Mapping[str, Any]], since: int) -> bool:
    """Tell whether the training loss has come back up: see `RISE`; counted from the round after ``since``."""
    told = [line for line in lines if line["train_loss"] is not None]
    losses = [line["train_loss"] for line in told if line["round"] > since]
    if len(losses) < 2 * ROUNDS:
        return False
    means = [fmean(losses[i : i + ROUNDS]) for i in range(len(losses) - ROUNDS + 1)]
    first = fmean(line["train_loss"] for line in told[:ROUNDS])
    return means[-1] > max(RISE * min(means), SHARE * first)
