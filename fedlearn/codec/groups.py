"""Groups: how a block of rotated values becomes few bits, at one of 16 grades.

**Largest of M** (grades 1 to 11): the values of a block are dealt into groups of M, and
of each group only the place and the sign of the largest magnitude travel: 1 + log2(M)
bits for M values, a fixed number, so that nothing needs an entropy coder. This is the
cross-polytope codebook of vqSGD (Gandikota et al., AISTATS 2021), here after a rotation
and with the nearest of the 2 M vectors, not a random one. For normal values and 0.003 to
0.75 bits a value it leaves a smaller error than to keep all values above a threshold,
even with an ideal entropy coder for their places: see docs/codecs.md.

**Eights** (grade 12): 8 values as one byte, see `eights`. **Levels** (grades 13 to 15):
each value alone as one of 4, 8 or 16 evenly spaced levels.

A decoder makes whole numbers of all of them, none beyond ±15. Group g of a block's G
groups holds the values at the places that leave g modulo G.

Legend: n blocks of B values, G groups a block, M values a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec import eights

Symbols = NDArray[np.uint16]
Floats = NDArray[np.float32]


# In a key of `_largest`: the magnitude without its lowest 12 bits, and the place.
_MAGNITUDE_BITS = 0x7FFFF000
_PLACE_BITS = 0xFFF


@dataclass(frozen=True)
class Grade:
    """A code for the values of a block."""

    # nothing, largest, eights or levels
    kind: str
    # M
    group: int
    # Bits a group.
    width: int
    # The share of the energy that is caught: (⟨y, s⟩ / ‖y‖‖s‖)² for normal values y and
    # what they decode to, s.
    capture: float
    # Between levels, in multiples of the root mean square.
    step: float = 0.0

    def bits(self, block: int) -> int:
        """Return the bits of a block of B values."""
        group_count = block // self.group
        return group_count * self.width


# (mean of the largest of M half-normal values)² / M for M = 4096, 2048, … 4, by numerical
# integration.
_LARGEST_CAPTURES = (
    0.003530,
    0.006420,
    0.011569,
    0.020609,
    0.036200,
    0.062462,
    0.105309,
    0.172149,
    0.269674,
    0.397550,
    0.536357,
)

# The captures of eights and levels are by drawing 10 million normal values. The steps
# between levels are those that catch most of a normal value, by numerical search.
GRADES = (
    Grade("nothing", 1, 0, 0.0),
    *(
        Grade("largest", 2**log2_m, log2_m + 1, capture)
        for log2_m, capture in zip(range(12, 1, -1), _LARGEST_CAPTURES, strict=True)
    ),
    Grade("eights", eights.LENGTH, 8, 0.679760),
    Grade("levels", 1, 2, 0.881154, 0.995),
    Grade("levels", 1, 3, 0.962560, 0.585),
    Grade("levels", 1, 4, 0.988457, 0.335),
)


def choose(rotated: Floats, grade: Grade) -> tuple[Symbols, Floats, Floats]:
    """Return the symbols (n, G) of rotated blocks y (n, B), ⟨y, s⟩ and ⟨s, s⟩, (n,) each.

    s is what the symbols decode to.
    """
    if grade.kind == "largest":
        return _choose_largest(rotated, grade)

    is_eights = grade.kind == "eights"
    symbols = eights.nearest(rotated) if is_eights else _levels(rotated, grade)
    decoded = expand(symbols, grade, rotated.shape[1])
    inner = np.einsum("ij,ij->i", rotated, decoded)
    squares = np.einsum("ij,ij->i", decoded, decoded)
    return symbols, inner, squares


def expand(symbols: Symbols, grade: Grade, block: int) -> Floats:
    """Return the whole numbers (n, B) float32 that symbols (n, G) stand for.

    Every symbol of ``grade.width`` bits stands for some.
    """
    if grade.kind == "largest":
        numbers = np.zeros((len(symbols), block), np.float32)
        count = block // grade.group
        # Group g holds every ``count``-th value from g on.
        places = (symbols >> 1).astype(np.int64) * count + np.arange(count)
        signs = 1 - 2 * (symbols & 1).astype(np.float32)
        np.put_along_axis(numbers, places, signs, axis=1)
        return numbers
    if grade.kind == "eights":
        return eights.vectors(symbols)
    # The levels are the odd numbers around 0: -3, -1, 1, 3 for 2 bits.
    return 2 * symbols.astype(np.float32) + np.float32(1 - 2**grade.width)


def pack(parts: Sequence[tuple[Symbols, int]]) -> bytes:
    """Return symbols of any shapes, with their widths, as bits without gaps.

    The highest bit stands first; zeros fill the last byte.
    """
    bits = [np.empty(0, np.uint8)]
    for symbols, width in parts:
        bits.append(_to_bits(symbols.ravel(), width))
    return np.packbits(np.concatenate(bits)).tobytes()


def unpack(data: bytes, parts: Sequence[tuple[int, int]]) -> list[Symbols]:
    """Return the symbols (count,) of each part (count, width).

    ``data`` must hold at least their bits.
    """
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    symbols = []
    first = 0
    for count, width in parts:
        end = first + count * width
        symbols.append(_from_bits(bits[first:end], width))
        first = end
    return symbols


def _to_bits(symbols: Symbols, width: int) -> NDArray[np.uint8]:
    """Return the bits (count · width,) of numbers (count,)."""
    # Numbers that fill whole bytes are joined first: several times as fast.
    per_byte = 8 // width
    if 8 % width == 0 and symbols.size % per_byte == 0:
        rows = symbols.astype(np.uint8).reshape(-1, per_byte)
        joined = rows[:, 0]
        for column in rows.T[1:]:
            joined = joined << width | column
        return np.unpackbits(joined)

    # Big-endian, so that the bits of a number stand last in its one or two bytes.
    kind = np.uint8 if width <= 8 else ">u2"
    numbers = symbols.astype(kind)[:, None]
    bits = np.unpackbits(numbers.view(np.uint8), axis=1)
    return bits[:, -width:].ravel()


def _from_bits(bits: NDArray[np.uint8], width: int) -> Symbols:
    """Return the numbers (count,) of bits (count · width,)."""
    # The inverse of both ways of `_to_bits`.
    if 8 % width == 0 and bits.size % 8 == 0:
        shifts = np.arange(8 - width, -1, -width, dtype=np.uint8)
        mask = np.uint8(2**width - 1)
        joined = np.packbits(bits)[:, None]
        rows: NDArray[np.uint8] = joined >> shifts & mask
        return rows.astype(np.uint16).ravel()

    size = 8 if width <= 8 else 16
    filled = np.zeros((bits.size // width, size), np.uint8)
    filled[:, size - width :] = bits.reshape(-1, width)

    kind = np.uint8 if size == 8 else ">u2"
    numbers = np.packbits(filled).view(kind)
    return numbers.astype(np.uint16)


def _choose_largest(rotated: Floats, grade: Grade) -> tuple[Symbols, Floats, Floats]:
    """Return what `choose` does, without decoding: s has one ±1 in each group."""
    places = _largest(rotated, grade.group)
    count = places.shape[1]
    chosen = np.take_along_axis(rotated, places, axis=1)
    # The place within the group, and a bit for the sign.
    codes = places // count * 2 + (chosen < 0)
    symbols = codes.astype(np.uint16)
    inner = np.abs(chosen).sum(axis=1)
    return symbols, inner, np.full(len(rotated), count, np.float32)


def _levels(rotated: Floats, grade: Grade) -> Symbols:
    """Return the number of each value's level (n, B), from 0."""
    # The levels lie evenly on both sides of 0.
    half = 2 ** (grade.width - 1)
    mean_squares = np.einsum("ij,ij->i", rotated, rotated) / rotated.shape[1]
    steps = np.sqrt(mean_squares) * np.float32(grade.step)
    levels: Floats = rotated * (1 / steps)[:, None]
    # In place: the blocks of a batch fill a core's cache.
    np.floor(levels, out=levels)
    levels += np.float32(half)
    np.clip(levels, 0, 2 * half - 1, out=levels)
    return levels.astype(np.uint16)


def _largest(rotated: Floats, group: int) -> NDArray[np.int64]:
    """Return the places (n, G) of the largest magnitudes of each group.

    A value's bits without the sign sort like its magnitude. The lowest 12 of them give
    way to its place, and the larger half is kept again and again: maxima of whole rows,
    which numpy computes many at a time. Magnitudes that differ by less than 1 in 2,048
    may be taken for one another, which costs nothing that can be measured.
    """
    block = rotated.shape[1]
    keys = rotated.view(np.int32) & _MAGNITUDE_BITS
    keys |= np.arange(block, dtype=np.int32)

    # Halves meet modulo G as long as more than G keys are left.
    group_count = block // group
    while keys.shape[1] > group_count:
        half = keys.shape[1] // 2
        keys = np.maximum(keys[:, :half], keys[:, half:])
    places = keys & _PLACE_BITS
    return places.astype(np.int64)
