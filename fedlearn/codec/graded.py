"""Graded blocks: the body that `uvq` and `cvq` share.

Values are laid out in blocks of like energy (`order`), each block is rotated (`rotation`),
gets a grade (`allocate`, `budget`) and is sent at that grade (`groups`), with one scale.
What is decoded is scale · R⁻¹ s, with s the whole numbers of its symbols.

The rotation is H F₂ H F₁, two rounds of sign flips and a Walsh-Hadamard transform. One
round, as in EDEN, leaves 0.05 to 11 % of the error of `uvq` as a bias, the more the fewer
values dominate a block; two leave none to be seen.

The body, n blocks of B values being known from P:

- 2 bytes: a little-endian signed number, twice the largest scale's step, plus 1 where
  values are ordered by movement;
- ⌈n/2⌉ bytes: the grade of each block, 4 bits, the low half of a byte first; an odd n
  leaves 4 bits that are 0;
- 1 byte per block that is not of grade 0: how many steps its scale is below the largest;
  a step is an eighth of an octave;
- symbols, block by block within each grade from 1 up, without gaps; bits that fill the
  last byte are 0.

Legend: P values, n blocks of B values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec import Context, groups, order, rotation
from fedlearn.codec.allocate import HEAD_BYTES, Allocation, Objective, allocate, thin
from fedlearn.codec.bits import ceil_div
from fedlearn.codec.block_order import BlockOrder, batches
from fedlearn.errors import FormatError

# Steps of a scale in an octave.
_STEPS = 8

# Steps of the largest scale: 2**-87 (all below travels as 0) to 2**60.
_LOWEST = -700
_HIGHEST = 480

# 2**(k/8), written out: a library's powers may differ in the last bit.
_FRACTIONS = np.array(
    [1.0, 1.0905077, 1.1892071, 1.2968396, 1.4142135, 1.5422108, 1.6817929, 1.8340081],
    np.float32,
)

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class _Body:
    """What the bytes say."""

    layout: BlockOrder
    # (n,)
    grades: Whole
    # (n,), 0 for blocks of grade 0.
    scales: Floats
    # In the order of `_by_grade`.
    symbols: list[groups.Symbols]


def encode(objective: Objective, values: Floats, seed: int, context: Context) -> bytes:
    """Return the body of values (P,) float32, in at most rate · P bits.

    One block is sent at the lowest grade even where that takes more. Blocks with a norm
    below 1e-15, or below 2**-25 of the largest one's, travel as zeros. Raises PayloadError
    for a block with a norm above 1e15.
    """
    # Here, because a board that only decodes has no torch.
    import torch

    from fedlearn.codec import torch_rotation

    draws = np.random.Generator(np.random.PCG64([seed, 1]))
    values = np.ascontiguousarray(values, np.float32)
    allocation = allocate(objective, values, context)
    if objective.thins:
        allocation = thin(objective, allocation, draws)

    layout = allocation.layout
    flips, between = map(torch.from_numpy, _flips(seed, layout.block))
    scales = np.zeros(layout.count, np.float32)
    parts = []
    for grade, members in _by_grade(allocation.grades, layout.block):
        code = groups.GRADES[grade]
        blocks = torch.from_numpy(layout.take(allocation.buffer, members)).mul_(flips)
        if allocation.factors is not None:
            blocks *= torch.from_numpy(allocation.factors[members, None])
        rotated = torch_rotation.mix(blocks, between).numpy()

        symbols, inner, squares = groups.choose(rotated, code)
        # The decoder's rotation is √B too large, as is this one: hence B.
        least_squares = inner.astype(np.float64) / (squares * layout.block)
        capture = least_squares * inner / allocation.energies[members]
        scales[members] = least_squares * objective.gain(capture)
        parts.append((symbols, code.width))
    return _write(allocation, scales, parts, draws)


def decode(objective: Objective, body: bytes, seed: int, context: Context) -> Floats:
    """Return the values (P,) float32, the same bits on every machine.

    Raises FormatError for any other bytes than a body of these shapes.
    """
    parsed = _read(objective, body, context)
    layout = parsed.layout
    flips, between = _flips(seed, layout.block)

    # Whatever the grade, a block is written where its values belong.
    buffer = layout.buffer()
    batches = _by_grade(parsed.grades, layout.block)
    for (grade, members), flat in zip(batches, parsed.symbols, strict=True):
        symbols = flat.reshape(len(members), -1)
        numbers = groups.expand(symbols, groups.GRADES[grade], layout.block)
        # Whole numbers, so that the rotation is exact; the scale rounds once.
        rotated = rotation.mix(numbers, between)
        rotated *= parsed.scales[members, None]
        rotated *= flips
        layout.put(buffer, members, rotated)
    return layout.collect(buffer)


def _flips(seed: int, block: int) -> tuple[Floats, Floats]:
    """Return the signs (B,) of F₁, before all, and of F₂, between the transforms."""
    before = rotation.signs(seed)
    # [seed, 1] is taken by the encoder's own draws.
    between = rotation.signs([seed, 2])
    return before[:block], between[:block]


def _by_grade(grades: Whole, block: int) -> Iterator[tuple[int, Whole]]:
    """Yield each grade in use but 0 with some of its blocks, a batch at a time."""
    for grade in range(1, len(groups.GRADES)):
        for members in batches(np.flatnonzero(grades == grade), block):
            yield grade, members


def _write(
    allocation: Allocation,
    scales: Floats,
    parts: list[tuple[groups.Symbols, int]],
    draws: np.random.Generator,
) -> bytes:
    """Return the body of scales (n,) and of symbols with their widths."""
    layout = allocation.layout
    steps = _steps(scales[allocation.grades > 0], draws)
    # A byte holds 255 steps, 32 octaves; the allocation leaves out weaker blocks.
    largest = int(steps.max(initial=_LOWEST))
    below = (largest - steps).clip(max=255).astype(np.uint8)
    is_ordered = layout.runs is not None

    # Two grades share a byte; an odd number of them is filled up.
    halves = np.zeros(2 * ceil_div(layout.count, 2), np.uint8)
    halves[: layout.count] = allocation.grades
    return b"".join(
        [
            np.array([2 * largest + is_ordered], "<i2").tobytes(),
            (halves[0::2] | halves[1::2] << 4).tobytes(),
            below.tobytes(),
            groups.pack(parts),
        ]
    )


def _steps(scales: Floats, draws: np.random.Generator) -> Whole:
    """Return scales in steps, rounded up or down at random so that they are unbiased."""
    exact = _STEPS * np.log2(scales)
    steps: Whole = np.floor(exact).astype(np.int64)
    low = np.exp2(steps / _STEPS)
    high = np.exp2((steps + 1) / _STEPS)
    # Up with the chance that makes the mean of both the scale itself.
    steps += draws.random(steps.size) * (high - low) < scales - low
    return steps


def _read(objective: Objective, body: bytes, context: Context) -> _Body:
    """Return what the bytes say; raises FormatError for those that no encoder sends."""
    name = objective.name
    largest, layout = _read_head(name, body, context)
    grades = _read_grades(name, body, layout)
    first_scale = HEAD_BYTES + ceil_div(layout.count, 2)
    first_symbol = first_scale + int(np.count_nonzero(grades))
    shapes = _symbol_shapes(grades, layout.block)
    _check_length(name, body, first_symbol, shapes)

    below = np.frombuffer(body[first_scale:first_symbol], np.uint8)
    steps = largest - below.astype(np.int32)
    # Exact: a fraction from the table, times a power of two.
    fractions = _FRACTIONS[steps % _STEPS]
    scales = np.zeros(layout.count, np.float32)
    scales[grades > 0] = np.ldexp(fractions, steps // _STEPS)

    symbols = groups.unpack(body[first_symbol:], shapes)
    return _Body(layout, grades, scales, symbols)


def _check_length(
    name: str, body: bytes, first_symbol: int, shapes: list[tuple[int, int]]
) -> None:
    """Raise FormatError unless the body ends with these symbols, filled up by zeros."""
    bits = sum(count * width for count, width in shapes)
    length = first_symbol + ceil_div(bits, 8)
    if len(body) != length:
        raise FormatError(f"{len(body)} bytes of {name} where its grades need {length}")
    # One body for equal symbols: no bits that a sender could choose freely.
    filling = 0xFF >> bits % 8
    if bits % 8 and body[-1] & filling:
        raise FormatError(f"the bits that fill the last byte of {name} are not 0")


def _read_head(name: str, body: bytes, context: Context) -> tuple[int, BlockOrder]:
    """Return the step of the largest scale, and the layout; raises FormatError."""
    if len(body) < HEAD_BYTES:
        raise FormatError(f"{len(body)} bytes of {name}: too few for its head")
    head = int(np.frombuffer(body, "<i2", 1)[0])
    largest, is_ordered = divmod(head, 2)
    if not _LOWEST <= largest <= _HIGHEST:
        raise FormatError(
            f"the largest scale of {name} is 2**({largest}/8), which no encoder sends"
        )

    # Known movement does not decide: the encoder may have taken the plain order.
    if not is_ordered:
        return largest, order.as_they_are(context.size)
    if not order.is_known(context):
        raise FormatError(
            f"the values of {name} are ordered by a movement that is not known here"
        )
    return largest, order.by_movement(context)


def _read_grades(name: str, body: bytes, layout: BlockOrder) -> Whole:
    """Return the grades (n,); raises FormatError for those that no encoder sends."""
    count = ceil_div(layout.count, 2)
    pairs = np.frombuffer(body[HEAD_BYTES : HEAD_BYTES + count], np.uint8)
    if pairs.size < count:
        raise FormatError(
            f"{len(body)} bytes of {name}: "
            f"too few for the grades of {layout.count} blocks"
        )
    halves = np.empty(2 * count, np.int64)
    halves[0::2] = pairs & 15
    halves[1::2] = pairs >> 4
    grades = halves[: layout.count]

    # A group larger than its block has no symbol at all.
    ends_in_zeros = not halves[layout.count :].any()
    group_sizes = [groups.GRADES[grade].group for grade in np.unique(grades)]
    if not ends_in_zeros or max(group_sizes, default=0) > layout.block:
        raise FormatError(f"a block of {name} has a grade that its size does not allow")
    return grades


def _symbol_shapes(grades: Whole, block: int) -> list[tuple[int, int]]:
    """Return the number of symbols and their width, for each part of `_by_grade`."""
    shapes = []
    for grade, members in _by_grade(grades, block):
        code = groups.GRADES[grade]
        shapes.append((len(members) * (block // code.group), code.width))
    return shapes
