"""Allocation: which layout and which grades a vector gets, before anything is encoded.

Both layouts of `order` are priced, and the one with less error is taken. A codec whose
estimate must be unbiased then leaves its weakest blocks out at random (`thin`).

Legend: P values, n blocks of B values.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec import Context, budget, groups, order
from fedlearn.codec.bits import ceil_div
from fedlearn.codec.block_order import BlockOrder, batches
from fedlearn.errors import PayloadError

# The squared norms of blocks that can be sent: squares of other values underflow or
# overflow in float32.
_MIN_ENERGY = 1e-30
_MAX_ENERGY = 1e30

# Of the largest squared norm; blocks below it travel as zeros, because the steps of a
# byte do not reach their scales.
_WEAKEST = 2.0**-50

# Bytes of the body's first field, the largest scale.
HEAD_BYTES = 2

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Objective(Protocol):
    """What tells an unbiased estimate from one of least error."""

    name: ClassVar[str]
    # Whether a block too weak to be worth its bits is sent now and then, enlarged.
    thins: ClassVar[bool]
    # (16,) the share of a block's energy that is left at each grade.
    costs: ClassVar[Doubles]

    @property
    def rate(self) -> float:
        """Return the bits per value, everything included."""

    def gain(self, capture: Doubles) -> Doubles:
        """Return the factors on the least-squares scales of blocks (n,).

        capture: the share of each block's energy that its symbols catch, (n,).
        """


@dataclass(frozen=True)
class Allocation:
    """Values laid out in blocks, and what is to be spent on each."""

    layout: BlockOrder
    # (n,) squared norms, after the factors.
    energies: Doubles
    # (n,)
    grades: NDArray[np.int64]
    # The squared error that the last bit took away.
    last_gain: float
    # The values, where the layout looks for them.
    buffer: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    # (n,) what the blocks are to be multiplied by; None: 1.
    factors: Floats | None = None

    def error(self, objective: Objective) -> float:
        """Return the squared error to expect."""
        costs = objective.costs[self.grades]
        return float(self.energies @ costs)


def allocate(objective: Objective, values: Floats, context: Context) -> Allocation:
    """Return the allocation with less error: values as they stand, or by movement.

    values: (P,) float32. Raises PayloadError for a block with a norm above 1e15.
    """
    plain = order.as_they_are(values.size)
    energies = _plain_energies(values, plain.block)
    allocation = _graded(objective, plain, energies)
    # The order by movement is mostly better, but on the character LSTM's downlink the
    # plain one halves the error (docs/codecs.md).
    if order.is_known(context):
        layout = order.by_movement(context)
        buffer = layout.spread(values)
        ordered = _graded(objective, layout, _layout_energies(layout, buffer))
        if ordered.error(objective) <= allocation.error(objective):
            return replace(ordered, buffer=buffer)
    return replace(allocation, buffer=plain.spread(values))


def thin(
    objective: Objective, allocation: Allocation, draws: np.random.Generator
) -> Allocation:
    """Return an allocation without its weakest blocks, which stay at random, enlarged.

    The expectation of a block is unchanged. A block of energy E that stays with chance q
    costs the error E / (q c) for the capture c of the lowest grade, and q times its bits;
    with λ the worth of a bit, q = √(E / (c λ bits)) is best (docs/codecs.md derives it).
    """
    layout = allocation.layout
    lowest = _lowest_grade(objective, layout)
    price = _lowest_price(objective, layout)
    bits = _symbol_bits(objective, layout)
    if _has_bits_to_spare(allocation, lowest):
        return allocation

    # Blocks of at least this energy always stay: q is 1 there.
    capture = groups.GRADES[lowest].capture
    threshold = capture * price * allocation.last_gain
    # Infinite where the budget holds no step: then there is nothing to thin.
    if not np.isfinite(threshold):
        return allocation

    chances = _chances(allocation.energies, threshold)
    # Where more blocks would stay than the budget holds.
    while price * chances.sum() > bits:
        threshold *= 2
        chances = _chances(allocation.energies, threshold)

    stays = draws.random(chances.size) < chances
    # Enlarged by 1 / q, so that the expectation is the block itself.
    inverses = 1 / np.where(chances > 0, chances, 1)
    factors = np.where(stays, inverses, 0)
    if (factors == 1).all():
        return allocation
    # Graded anew: the blocks that stay have other energies, and more bits each.
    thinned = _graded(objective, layout, allocation.energies * factors**2)
    return replace(
        thinned, buffer=allocation.buffer, factors=factors.astype(np.float32)
    )


def _chances(energies: Doubles, threshold: float) -> Doubles:
    """Return the chance of each block (n,) to stay."""
    chances: Doubles = np.sqrt(energies / threshold).clip(max=1)
    return chances


def _has_bits_to_spare(allocation: Allocation, lowest: int) -> bool:
    """Tell whether all blocks are sent, and no bit was worth more elsewhere."""
    sent_count = np.count_nonzero(allocation.grades)
    nonzero_count = np.count_nonzero(allocation.energies)
    highest = allocation.grades.max(initial=0)
    return bool(sent_count == nonzero_count and highest <= lowest)


def _plain_energies(values: Floats, block: int) -> Doubles:
    """Return the squared norms (n,) of blocks of values as they stand."""
    full_size = values.size - values.size % block
    energies = [_energies(values[:full_size].reshape(-1, block))]
    # The last block is measured without the zeros that will fill it.
    remainder = values[full_size:]
    if remainder.size:
        energies.append(_energies(remainder[None]))
    return np.concatenate(energies)


def _layout_energies(layout: BlockOrder, buffer: Floats) -> Doubles:
    """Return the squared norms (n,) of the blocks of a layout."""
    energies = [np.empty(0)]
    for members in batches(np.arange(layout.count), layout.block):
        energies.append(_energies(layout.take(buffer, members)))
    return np.concatenate(energies)


def _energies(blocks: Floats) -> Doubles:
    """Return the squared norms (n,) of blocks (n, B), 0 for those too small to send."""
    # Without an array of squares: einsum multiplies and adds in one pass.
    squares = np.einsum("ij,ij->i", blocks, blocks)
    energies = squares.astype(np.float64)
    return np.where(energies < _MIN_ENERGY, 0, energies)


def _graded(objective: Objective, layout: BlockOrder, energies: Doubles) -> Allocation:
    """Return the allocation for blocks of these energies, its buffer still to be set.

    Raises PayloadError for a block with a norm above 1e15.
    """
    weakest = _WEAKEST * energies.max(initial=0)
    energies = np.where(energies < weakest, 0, energies)
    # In this form the check refuses NaN too.
    if energies.size and not energies.max() <= _MAX_ENERGY:
        raise PayloadError(
            f"{np.sqrt(energies.max()):g}, the norm of a block, "
            f"does not fit {objective.name} (up to 1e15); use raw32"
        )
    bits = _symbol_bits(objective, layout)
    grades, last_gain = budget.spend(energies, layout.block, bits, objective.costs)
    return Allocation(layout, energies, grades, last_gain)


def _symbol_bits(objective: Objective, layout: BlockOrder) -> int:
    """Return the bits for scales and symbols: at least what one block takes."""
    total_bits = int(objective.rate * layout.size)
    # Two grades share a byte.
    grade_bytes = ceil_div(layout.count, 2)
    bits = total_bits - 8 * (HEAD_BYTES + grade_bytes)
    return max(bits, _lowest_price(objective, layout))


def _lowest_grade(objective: Objective, layout: BlockOrder) -> int:
    """Return the lowest grade in use besides 0."""
    grades = budget.hull(layout.block, objective.costs)
    return grades[1]


def _lowest_price(objective: Objective, layout: BlockOrder) -> int:
    """Return the bits of a block and its scale at the lowest grade in use."""
    grade = _lowest_grade(objective, layout)
    return budget.price(grade, layout.block)
