"""Graded blocks: the body that `uvq` and `cvq` share.

Values are laid out in blocks of like energy (`order`), each block is rotated (`rotation`), gets a grade (`budget`) and is
sent at that grade (`groups`), with one scale. What is decoded is scale · R⁻¹ s, with s the whole numbers of its symbols.

The rotation is H F₂ H F₁, two rounds of sign flips and a Walsh-Hadamard transform. One round, as in EDEN, leaves 0.05 to
11 % of the error of `uvq` as a bias, the more the fewer values dominate a block; two leave none to be seen.

The body, n blocks of B values being known from P:

| bytes | what |
|---|---|
| 2 | a little-endian signed number: twice the largest scale's step, plus 1 where values are ordered by movement |
| ⌈n/2⌉ | the grade of each block, 4 bits, the low half of a byte first; an odd n leaves 4 bits that are 0 |
| 1 per block that is not of grade 0 | how many steps its scale is below the largest; a step is an eighth of an octave |
| the rest | symbols, block by block within each grade from 1 up, without gaps; bits that fill the last byte are 0 |

Legend: P values, n blocks of B values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.codec import Context, budget, groups, order, rotation
from fedlearn.errors import FormatError, PayloadError

_STEPS = 8
_LOWEST, _HIGHEST = (
    -700,
    480,
)  # steps of the largest scale: 2**-87 (all below travels as 0) to 2**60
_FRACTIONS = np.array(
    [1.0, 1.0905077, 1.1892071, 1.2968396, 1.4142135, 1.5422108, 1.6817929, 1.8340081],
    np.float32,
)
"""2**(k/8), written out: a library's powers may differ in the last bit."""

_LEAST, _MOST = 1e-30, 1e30
"""The squared norms of blocks that can be sent: squares of other values fade out or overflow in float32."""

_WEAKEST = 2.0**-50
"""Of the largest squared norm; blocks below it travel as zeros, because the steps of a byte do not reach their scales."""

_HEAD = 2
_TOGETHER = rotation.TOGETHER * rotation.LARGE
"""Values worked on at a time: they stay in a core's cache."""

Floats = NDArray[np.float32]


class Aim(Protocol):
    """What tells an unbiased estimate from one of least error."""

    name: ClassVar[str]
    thins: ClassVar[
        bool
    ]  # whether a block too weak to be worth its bits is sent now and then, enlarged
    costs: ClassVar[
        NDArray[np.float64]
    ]  # (16,) what is left of a block's energy at each grade

    @property
    def rate(self) -> float:
        """Return the bits per value, everything included."""

    def gain(self, capture: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the factor on the least-squares scale of blocks whose symbols catch these shares of their energy."""


@dataclass(frozen=True)
class _Plan:
    """Values laid out in blocks, and what is to be spent on each."""

    layout: order.Order
    energies: NDArray[np.float64]  # (n,) squared norms, after the factors
    grades: NDArray[np.int64]  # (n,)
    last_gain: float  # the squared error that the last bit took away
    buffer: Floats = field(
        default_factory=lambda: np.empty(0, np.float32)
    )  # the values, where the layout looks for them
    factors: Floats | None = (
        None  # (n,) what the blocks are to be multiplied with; None: 1
    )

    def left(self, aim: Aim) -> float:
        """Return the squared error to expect."""
        return float(self.energies @ aim.costs[self.grades])


def encode(aim: Aim, values: Floats, seed: int, context: Context) -> bytes:
    """Return values (P,) in at most rate · P bits, or with one block sent at the lowest grade where that is more.

    Blocks with a norm below 1e-15, or below 2**-25 of the largest one's, travel as zeros. Raises PayloadError for a block
    with a norm above 1e15.
    """
    draws = np.random.Generator(np.random.PCG64([seed, 1]))
    plan = _plan(aim, np.ascontiguousarray(values, np.float32), context)
    if aim.thins:
        plan = _thin(aim, plan, draws)
    block = plan.layout.block
    flips, between = rotation.signs(seed)[:block], rotation.signs([seed, 2])[:block]
    scales, parts = np.zeros(plan.layout.count, np.float32), []
    for grade, members in _by_grade(plan.grades, block):
        flipped = torch.from_numpy(plan.layout.take(plan.buffer, members)).mul_(flips)
        if plan.factors is not None:
            flipped *= torch.from_numpy(plan.factors[members, None])
        rotated = rotation.mix(flipped, between).numpy()
        symbols, inner, squares = groups.choose(rotated, groups.GRADES[grade])
        fit = inner.astype(np.float64) / (squares * block)
        scales[members] = fit * aim.gain(fit * inner / plan.energies[members])
        parts.append((symbols, groups.GRADES[grade].width))
    return _seal(plan, scales, parts, draws)


def decode(aim: Aim, body: bytes, seed: int, context: Context) -> Floats:
    """Return the values (P,) float32, the same bits on every machine; raises FormatError for any other bytes."""
    layout, grades, scales, symbols = _open(aim, body, context)
    flips, between = (
        rotation.signs(seed)[: layout.block],
        rotation.signs([seed, 2])[: layout.block],
    )
    buffer = layout.buffer()
    for (grade, members), chosen in zip(
        _by_grade(grades, layout.block), symbols, strict=True
    ):
        numbers = groups.expand(
            chosen.reshape(len(members), -1), groups.GRADES[grade], layout.block
        )
        rotated = rotation.mix(
            torch.from_numpy(numbers), between
        )  # whole numbers: exact
        rotated *= torch.from_numpy(scales[members, None])
        rotated *= flips
        layout.put(buffer, members, rotated)
    return layout.collect(buffer)


def _plan(aim: Aim, values: Floats, context: Context) -> _Plan:
    """Return the plan that leaves less error: values as they stand, or ordered by movement where that is known."""
    plain = order.as_they_are(values.size)
    whole = values[: values.size - values.size % plain.block].reshape(-1, plain.block)
    rest = values[whole.size :]
    choice = _priced(
        aim,
        plain,
        np.concatenate(
            [_energies(whole), _energies(rest[None])[: plain.count - len(whole)]]
        ),
    )
    if order.is_known(context):
        layout = order.by_movement(context)
        buffer = layout.spread(values)
        energies = [
            _energies(layout.take(buffer, members))
            for members in _together(np.arange(layout.count), layout.block)
        ]
        by_movement = _priced(aim, layout, np.concatenate([np.empty(0), *energies]))
        if by_movement.left(aim) <= choice.left(aim):
            return replace(by_movement, buffer=buffer)
    return replace(choice, buffer=plain.spread(values))


def _energies(blocks: Floats) -> NDArray[np.float64]:
    """Return the squared norms (n,), 0 for those too small to send."""
    energies = np.einsum("ij,ij->i", blocks, blocks).astype(np.float64)
    return np.where(energies < _LEAST, 0, energies)


def _priced(aim: Aim, layout: order.Order, energies: NDArray[np.float64]) -> _Plan:
    """Return the plan for blocks of these energies, its buffer still to be set."""
    energies = np.where(energies < _WEAKEST * energies.max(initial=0), 0, energies)
    if energies.size and not energies.max() <= _MOST:
        raise PayloadError(
            f"{np.sqrt(energies.max()):g}, the norm of a block, does not fit {aim.name} (up to 1e15); use raw32"
        )
    return _Plan(
        layout,
        energies,
        *budget.spend(energies, layout.block, _bits(aim, layout), aim.costs),
    )


def _thin(aim: Aim, plan: _Plan, draws: np.random.Generator) -> _Plan:
    """Return the plan with its weakest blocks left out at random, and made as much stronger where they stay.

    The expectation of a block is unchanged. A block of energy E that stays with chance q costs the error E / (q c) for
    the capture c of the lowest grade, and q times its bits; with λ the worth of a bit, q = √(E / (c λ bits)) is best.
    """
    lowest = groups.GRADES[budget.hull(plan.layout.block, aim.costs)[1]]
    if (plan.grades > 0).sum() == (plan.energies > 0).sum() and plan.grades.max(
        initial=0
    ) <= groups.GRADES.index(lowest):
        return plan  # all are sent, and no bit was worth more elsewhere
    price, bits = _price(aim, plan.layout), _bits(aim, plan.layout)
    least = lowest.capture * price * plan.last_gain
    if not np.isfinite(least):
        return plan
    while price * np.sqrt(plan.energies / least).clip(max=1).sum() > bits:
        least *= 2
    chances = np.sqrt(plan.energies / least).clip(max=1)
    factors = np.where(
        draws.random(chances.size) < chances, 1 / np.where(chances > 0, chances, 1), 0
    )
    if (factors == 1).all():
        return plan
    stronger = _priced(aim, plan.layout, plan.energies * factors**2)
    return replace(stronger, buffer=plan.buffer, factors=factors.astype(np.float32))


def _bits(aim: Aim, layout: order.Order) -> int:
    """Return what is left for scales and symbols: at least what one block takes."""
    left = int(aim.rate * layout.size) - 8 * (_HEAD + (layout.count + 1) // 2)
    return max(left, _price(aim, layout))


def _price(aim: Aim, layout: order.Order) -> int:
    """Return the bits of a block and its scale at the lowest grade that is used."""
    return budget.price(budget.hull(layout.block, aim.costs)[1], layout.block)


def _by_grade(
    grades: NDArray[np.int64], block: int
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each grade in use but 0 with some of its blocks, as many as are worked on together."""
    for grade in range(1, len(groups.GRADES)):
        for members in _together(np.flatnonzero(grades == grade), block):
            yield grade, members


def _together(members: NDArray[np.int64], block: int) -> Iterator[NDArray[np.int64]]:
    for at in range(0, members.size, _TOGETHER // block):
        yield members[at : at + _TOGETHER // block]


def _seal(
    plan: _Plan,
    scales: Floats,
    parts: list[tuple[groups.Symbols, int]],
    draws: np.random.Generator,
) -> bytes:
    """Return the body; scales are rounded to steps up or down at random, without bias."""
    sent = plan.grades > 0
    steps = np.floor(_STEPS * np.log2(scales[sent])).astype(np.int64)
    low, high = np.exp2(steps / _STEPS), np.exp2((steps + 1) / _STEPS)
    steps += draws.random(steps.size) * (high - low) < scales[sent] - low
    top = int(steps.max(initial=_LOWEST))
    below = (top - steps).clip(max=255)
    halves = np.zeros(2 * ((plan.layout.count + 1) // 2), np.uint8)
    halves[: plan.layout.count] = plan.grades
    head = np.array([2 * top + (plan.layout.runs is not None)], "<i2")
    return b"".join(
        [
            head.tobytes(),
            (halves[0::2] | halves[1::2] << 4).tobytes(),
            below.astype(np.uint8).tobytes(),
            groups.pack(parts),
        ]
    )


def _open(
    aim: Aim, body: bytes, context: Context
) -> tuple[order.Order, NDArray[np.int64], Floats, list[groups.Symbols]]:
    """Return the layout, the grades (n,), the scales (n,) and the symbols in the order of `_by_grade`."""
    if len(body) < _HEAD:
        raise FormatError(f"{len(body)} bytes of {aim.name}: too few for its head")
    top, ordered = divmod(int(np.frombuffer(body, "<i2", 1)[0]), 2)
    if not _LOWEST <= top <= _HIGHEST:
        raise FormatError(
            f"the largest scale of {aim.name} is 2**({top}/8), which no encoder sends"
        )
    if ordered and not order.is_known(context):
        raise FormatError(
            f"the values of {aim.name} are ordered by a movement that is not known here"
        )
    layout = order.by_movement(context) if ordered else order.as_they_are(context.size)
    half = (layout.count + 1) // 2
    pairs = np.frombuffer(body[_HEAD : _HEAD + half], np.uint8)
    if pairs.size < half:
        raise FormatError(
            f"{len(body)} bytes of {aim.name}: too few for the grades of {layout.count} blocks"
        )
    halves = np.stack([pairs & 15, pairs >> 4], axis=1).ravel().astype(np.int64)
    grades = halves[: layout.count]
    if halves[layout.count :].any() or any(
        groups.GRADES[g].group > layout.block for g in np.unique(grades)
    ):
        raise FormatError(
            f"a block of {aim.name} has a grade that its size does not allow"
        )
    at = _HEAD + half + np.count_nonzero(grades)
    shapes = [
        (len(m) * (layout.block // groups.GRADES[g].group), groups.GRADES[g].width)
        for g, m in _by_grade(grades, layout.block)
    ]
    bits = sum(count * width for count, width in shapes)
    if len(body) != at + (bits + 7) // 8:
        raise FormatError(
            f"{len(body)} bytes of {aim.name} where its grades need {at + (bits + 7) // 8}"
        )
    if bits % 8 and body[-1] & (0xFF >> bits % 8):
        raise FormatError(f"the bits that fill the last byte of {aim.name} are not 0")
    steps = top - np.frombuffer(body[_HEAD + half : at], np.uint8).astype(np.int32)
    scales = np.zeros(layout.count, np.float32)
    scales[grades > 0] = np.ldexp(_FRACTIONS[steps % _STEPS], steps // _STEPS)
    return layout, grades, scales, groups.unpack(body[at:], shapes)
