"""Claims in words: what is measured, what must hold, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedlearn.claims.sections import PLAIN, Claim
from fedlearn.reporting.units import bytes_text, number_text, percent_text

# Measures whose name in a file of claims is not how a person writes it.
_MEASURES = {"best_accuracy": "best accuracy", "hash": "model hash"}


def claim_text(claim: Claim) -> str:
    """Return a claim in words, without its limits."""
    text = _measure_text(claim)
    compared = claim.minus or claim.over or claim.same_as
    # The plain run needs no name while there is no other beside it.
    if claim.of == PLAIN and not compared:
        return text
    if claim.minus:
        return f"{text}: {claim.of} − {claim.minus}"
    if claim.over:
        return f"{text}: {claim.of} ÷ {claim.over}"
    return f"{text}: {claim.of}"


def _measure_text(claim: Claim) -> str:
    """Return in words what a claim measures of each run."""
    text = _MEASURES.get(claim.what, claim.what)
    if claim.target is not None:
        text += f" to {100 * claim.target:g} %"
    if claim.round:
        until = "by" if claim.what == "best_accuracy" else "after"
        text += f" {until} round {claim.round}"
    if claim.last > 1:
        text += f", median of the last {claim.last} evaluations"
    return text


def limits_text(claim: Claim) -> str:
    """Return a claim's limits in words."""
    if claim.what == "hash":
        return f"= {claim.same_as}" if claim.same_as else "as recorded"
    low = value_text(claim, claim.at_least)
    high = value_text(claim, claim.at_most)
    if claim.at_least is None:
        return f"≤ {high}"
    if claim.at_most is None:
        return f"≥ {low}"
    return f"{low} to {high}"


def value_text(claim: Claim, value: float | None) -> str:
    """Return a value of a claim's measure, difference or ratio in words."""
    if value is None or math.isnan(value):
        return "-"
    if value == math.inf:
        return "not reached"
    if value == -math.inf:
        # The variant that is subtracted is the infinite one.
        return "other not reached"
    if claim.over:
        return f"{value:.3g}×"
    if claim.minus:
        return _difference_text(claim.what, value)
    return _plain_text(claim.what, value)


def _plain_text(measure: str, value: float) -> str:
    """Return a finite value of a measure in words."""
    if measure == "rounds":
        return f"{value:.1f}".removesuffix(".0")
    if measure == "bytes":
        return _signed_bytes(value)
    if measure == "loss":
        return number_text(value)
    # An accuracy, as a share of 1.
    return percent_text(value)


def _difference_text(measure: str, value: float) -> str:
    """Return a finite difference of two values of a measure in words."""
    if measure == "rounds":
        return f"{value:+.1f}"
    if measure == "bytes":
        return _signed_bytes(value)
    if measure == "loss":
        return f"{value:+.2g}"
    # "%" of a difference could be read as a ratio.
    return f"{100 * value:+.2f} points"


def _signed_bytes(value: float) -> str:
    # `bytes_text` chooses the unit by the size, and knows no negative ones.
    sign = "-" if value < 0 else ""
    return f"{sign}{bytes_text(abs(value))}"


def band_text(claim: Claim, values: Sequence[float], middle: float) -> str:
    """Return the figure that the limits are for, and the band of the seeds around it."""
    # One seed has no band.
    if len(values) == 1:
        return value_text(claim, values[0])
    low = value_text(claim, min(values))
    high = value_text(claim, max(values))
    return f"{value_text(claim, middle)} ({low} … {high})"


def paper_text(claim: Claim) -> str:
    """Return the paper's figure, and where it stands there."""
    text = claim.paper
    if not isinstance(text, str):
        text = value_text(claim, text)
    if claim.figure:
        text = f"{text} ({claim.figure})"
    return text.strip()
