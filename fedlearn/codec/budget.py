"""Budget: which grade each block gets, so that the bits go where they take most error away.

Source: Lagrangian bit allocation on the lower convex hull of each block's choices (Shoham & Gersho, IEEE Trans. ASSP
1988). Here all blocks share one table of costs, times their energy, so that the hull is found once and the greedy walk
along it is one sort.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec.groups import GRADES

SCALE_BITS = 8
"""What a block of any grade but 0 pays besides its symbols."""

_LAST = 256
"""Steps that are tried for the last bits."""

Floats = NDArray[np.float64]


def spend(
    energies: Floats, block: int, bits: int, costs: Floats
) -> tuple[NDArray[np.int64], float]:
    """Return a grade for each block (n,) within ``bits`` in all, and the error that the last bit took away.

    energies: squared norms (n,). costs: what is left of a block's energy at each grade (16,), falling.
    """
    steps = hull(block, costs)
    prices = np.diff([price(grade, block) for grade in steps])
    worth = -np.diff(costs[steps]) / prices
    gains = np.multiply.outer(energies, worth).ravel()
    falling = np.argsort(-gains, kind="stable")
    falling = falling[gains[falling] > 0]
    fits = int(
        np.searchsorted(
            np.cumsum(np.tile(prices, energies.size)[falling]), bits, side="right"
        )
    )
    taken = np.bincount(falling[:fits] // len(prices), minlength=energies.size)
    _fill(
        taken,
        falling[fits:],
        prices,
        bits - int(np.tile(prices, energies.size)[falling[:fits]].sum()),
    )
    return np.asarray(steps)[taken], float(gains[falling[fits - 1]]) if fits else np.inf


def _fill(
    taken: NDArray[np.int64],
    falling: NDArray[np.int64],
    prices: NDArray[np.int64],
    bits: int,
) -> None:
    """Spend the last ``bits`` on the next best steps that fit: a step of a block may cost a tenth of a small model's budget."""
    for step in falling[:_LAST]:
        block, price = int(step) // len(prices), int(prices[step % len(prices)])
        if step % len(prices) == taken[block] and price <= bits:
            taken[block] += 1
            bits -= price


def hull(block: int, costs: Floats) -> list[int]:
    """Return the grades worth having for blocks of B values: each step along them takes less error away per bit."""
    steps = [0]
    for grade in range(1, len(GRADES)):
        if GRADES[grade].group > block:
            continue
        while len(steps) > 1 and _slope(steps[-1], grade, block, costs) >= _slope(
            steps[-2], steps[-1], block, costs
        ):
            steps.pop()
        steps.append(grade)
    return steps


def _slope(low: int, high: int, block: int, costs: Floats) -> float:
    return float((costs[low] - costs[high]) / (price(high, block) - price(low, block)))


def price(grade: int, block: int) -> int:
    """Return the bits of a block of B values at a grade, with its scale."""
    return GRADES[grade].bits(block) + (SCALE_BITS if grade else 0)
