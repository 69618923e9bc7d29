"""Budget: which grade each block gets, so that bits go where they remove most error.

Source: Lagrangian bit allocation on the lower convex hull of each block's choices (Shoham
& Gersho, IEEE Trans. ASSP 1988). Here all blocks share one table of costs, times their
energy, so that the hull is found once and the greedy walk along it is one sort.

Legend: n blocks of B values; a step leads from one grade on the hull to the next.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec.groups import GRADES

# Bits that a block of any grade but 0 pays besides its symbols.
SCALE_BITS = 8

# Steps that are tried for the last bits.
_LAST_STEPS = 256

Floats = NDArray[np.float64]


def spend(
    energies: Floats, block: int, bits: int, costs: Floats
) -> tuple[NDArray[np.int64], float]:
    """Return a grade for each block (n,), and the error that the last bit took away.

    All blocks together take at most ``bits``. That error is infinite where no step fits.

    energies: squared norms (n,). costs: the share of a block's energy that is left at
    each grade (16,), falling.
    """
    grades = hull(block, costs)
    prices = np.diff([price(grade, block) for grade in grades])

    # Error taken away per bit, for each block and each of its steps.
    worth = -np.diff(costs[grades]) / prices
    gains = np.multiply.outer(energies, worth).ravel()

    # One sort is the greedy walk: all steps of all blocks, the most worth first. It is
    # stable, so that equal gains give equal grades on every machine.
    falling = np.argsort(-gains, kind="stable")
    falling = falling[gains[falling] > 0]

    falling_prices = np.tile(prices, energies.size)[falling]
    totals = np.cumsum(falling_prices)
    count = int(np.searchsorted(totals, bits, side="right"))
    # The gains of a block fall along the hull, so that its first steps come first.
    steps = np.bincount(falling[:count] // len(prices), minlength=energies.size)
    unspent = bits - int(falling_prices[:count].sum())
    _spend_last(steps, falling[count:], prices, unspent)

    last_gain = np.inf
    if count:
        last_step = falling[count - 1]
        last_gain = float(gains[last_step])
    return np.asarray(grades)[steps], last_gain


def _spend_last(
    steps: NDArray[np.int64],
    falling: NDArray[np.int64],
    prices: NDArray[np.int64],
    bits: int,
) -> None:
    """Spend the last ``bits`` on the next best steps that fit, in place.

    One step of a block may cost a tenth of a small model's budget.
    """
    for candidate in falling[:_LAST_STEPS]:
        # Steps of a block come in order, so that its next one is the step it has reached.
        block, step = divmod(int(candidate), len(prices))
        cost = int(prices[step])
        if step == steps[block] and cost <= bits:
            steps[block] += 1
            bits -= cost


def hull(block: int, costs: Floats) -> list[int]:
    """Return the grades worth having for blocks of B values.

    Each step along them takes less error away per bit than the one before.
    """
    grades = [0]
    for grade in range(1, len(GRADES)):
        if GRADES[grade].group > block:
            continue
        # A grade above the line between its neighbours is never worth its bits.
        while len(grades) > 1:
            before = _slope(grades[-2], grades[-1], block, costs)
            after = _slope(grades[-1], grade, block, costs)
            if after < before:
                break
            grades.pop()
        grades.append(grade)
    return grades


def _slope(low: int, high: int, block: int, costs: Floats) -> float:
    """Return the error that a bit takes away between two grades."""
    bits = price(high, block) - price(low, block)
    error = costs[low] - costs[high]
    return float(error / bits)


def price(grade: int, block: int) -> int:
    """Return the bits of a block of B values at a grade, with its scale."""
    if not grade:
        return 0
    return GRADES[grade].bits(block) + SCALE_BITS
