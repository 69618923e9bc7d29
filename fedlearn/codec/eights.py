"""Eights: one byte for 8 values, the nearest of 256 vectors.

The vectors are the 240 shortest of the lattice E8 (Conway & Sloane, Sphere Packings,
Lattices and Groups, chapter 4), the densest way to put points around a centre in 8
dimensions, times 2, and the 16 ends of the axes, a little longer:

- byte 0 to 127: (±1, …, ±1) with an even number of minuses; bit k is set where value
  k < 7 is negative;
- byte 128 + 16 p + 2 q + s: ±2 at two places. s = 1: minus at place p. At place q the
  same sign if p < q, else the other. With p = q: ±3 at that place alone.

They catch 0.680 of the energy of normal values; the 8 signs, which take as many bits,
catch 0.637.

Legend: n blocks of B values, in groups of 8.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int32]

LENGTH = 8

# The length of the other vectors: an axis is chosen by its direction, not by its length.
_AXIS_LENGTH = np.float32(8**0.5)

# In a key, the magnitude without its lowest 4 bits; then the sign, and the place 0 to 7.
_MAGNITUDE_BITS = 0x7FFFFFF0
_SIGN_BIT = 8
_PLACE_BITS = 7

# The 8 places along the first axis of (8, n, B/8).
_PLACES: Integers = np.arange(LENGTH, dtype=np.int32)[:, None, None]


def nearest(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bytes (n, B/8) of values (n, B) float32.

    Byte g stands for the values at the places that leave g modulo B/8.
    """
    patterns = values.view(np.int32).reshape(len(values), LENGTH, -1)
    # (8, n, B/8): maxima over the first axis are of whole rows.
    rows = patterns.transpose(1, 0, 2)
    # The lowest 4 bits of a magnitude give way to its sign and place, so that maxima and
    # minima bring these along. As floats the keys are the magnitudes, nearly.
    signs = rows >> 31 & _SIGN_BIT
    keys = rows & _MAGNITUDE_BITS | signs | _PLACES
    first, second, last = _extremes(keys)

    large = first.view(np.float32)
    small = second.view(np.float32)
    weakest = last.view(np.float32)

    # The inner products with the best vector of each kind. An even number of minuses is
    # reached by changing the sign that costs least, that of the weakest value.
    odd = np.bitwise_xor.reduce(signs, axis=0) >> 3
    all_eight = keys.view(np.float32).sum(axis=0) - 2 * weakest * odd
    pair = 2 * (large + small)
    axis = _AXIS_LENGTH * large

    minuses = np.bitwise_or.reduce(signs >> 3 << _PLACES, axis=0)
    eight_code = (minuses ^ odd << (last & _PLACE_BITS)) & 127
    # An axis is written as a pair of one place with itself.
    partner = np.where(axis > pair, first, second)
    is_eight = all_eight > np.maximum(pair, axis)
    symbols: Integers = np.where(is_eight, eight_code, _pair_code(first, partner))
    return symbols.astype(np.uint16)


def vectors(symbols: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the whole numbers (n, B) float32 that bytes (n, B/8) stand for."""
    # (n, B/8, 8); a byte's values stand B/8 apart in a block.
    by_symbol = _table()[symbols]
    by_place = np.ascontiguousarray(by_symbol.transpose(0, 2, 1))
    return by_place.reshape(len(symbols), -1)


def _extremes(keys: Integers) -> tuple[Integers, Integers, Integers]:
    """Return the largest, the second largest and the smallest of 8 keys (8, n, B/8)."""
    first = np.maximum(keys[0], keys[1])
    second = np.minimum(keys[0], keys[1])
    last = second.copy()
    for key in keys[2:]:
        np.minimum(last, key, out=last)
        np.maximum(second, np.minimum(first, key), out=second)
        np.maximum(first, key, out=first)
    return first, second, last


def _pair_code(first: Integers, second: Integers) -> Integers:
    """Return the bytes 128 + 16 p + 2 q + s of two keys each, equal ones for an axis."""
    # The order of p and q says whether the signs agree.
    increasing = (first & _PLACE_BITS) < (second & _PLACE_BITS)
    same_sign = (first ^ second) & _SIGN_BIT == 0
    swap = increasing != same_sign
    p = np.where(swap, second, first)
    q = np.where(swap, first, second)
    sign = p >> 3 & 1
    p_bits = (p & _PLACE_BITS) << 4
    q_bits = (q & _PLACE_BITS) << 1
    code: Integers = 128 | p_bits | q_bits | sign
    return code


@lru_cache(maxsize=1)
def _table() -> NDArray[np.float32]:
    """Return the vector of each byte (256, 8)."""
    table = np.zeros((256, LENGTH), np.float32)
    codes = np.arange(128)[:, None]

    # Bit k of the byte is the sign of value k.
    table[:128, :7] = 1 - 2 * (codes >> np.arange(7) & 1)
    # The product of the other signs: the number of minuses is then even.
    table[:128, 7] = table[:128, :7].prod(axis=1)

    for code in range(128):
        p = code >> 4
        q = code >> 1 & 7
        sign = 1 - 2 * (code & 1)
        if p == q:
            table[128 + code, p] = 3 * sign
        else:
            table[128 + code, p] = 2 * sign
            table[128 + code, q] = 2 * (sign if p < q else -sign)
    return table
