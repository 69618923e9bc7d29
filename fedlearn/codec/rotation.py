"""A random rotation of blocks: signs from a seed, then a Walsh-Hadamard transform.

After it the values of a block look like draws of one normal distribution, whatever they
were before, so that few bits per value say much. Blocks of 4,096 values are small enough
for the cache and large enough for that. What is left of a vector is cut into blocks of
512, so that a small model pays for at most 511 values that it does not have.

A block of r · 64 values is transformed as H_r · X · H_64, two small matrix products.
Where X holds small whole numbers (what a decoder has: signs), every sum is exact in
float32, in any order of additions: **decoding gives the same bits on every machine**,
with whatever matrix library it has.

What a decoder needs is numpy alone: a board that only decodes has no torch. Encoders rotate
real numbers, whose last bits depend on the library: `torch_rotation` is theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import isqrt
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec.bits import ceil_div

# The larger factor of a block's size: rows of 64 keep both matrix products small.
WIDTH = 64

# Values per block.
LARGE = 4096
SMALL = 512

# Large blocks worked on at a time: half a megabyte stays in a core's cache (twice as
# fast as all at once).
BATCH_BLOCKS = 32
BATCH_VALUES = BATCH_BLOCKS * LARGE

Floats = NDArray[np.float32]
_Number = TypeVar("_Number", bound=np.generic)


def padded(size: int) -> int:
    """Return the number of values in the blocks of a vector of ``size`` values."""
    remainder = size % LARGE
    # What a large block would be filled with is saved.
    small_blocks = ceil_div(remainder, SMALL)
    return size - remainder + small_blocks * SMALL


def blocks(values: NDArray[_Number], size: int) -> Iterator[NDArray[_Number]]:
    """Yield the blocks of a vector: (n, 4096) with n up to 32, then those of 512 (m, 512).

    values: (size,), or (padded(size),) with what fills the last block. The blocks are
    views where the vector has all of their values; a last one that it has a part of is a
    copy, padded with zeros.
    """
    # The generator gives a few blocks at a time, so that its user works in the cache.
    cut = size - size % LARGE
    for first in range(0, cut, BATCH_VALUES):
        end = min(first + BATCH_VALUES, cut)
        yield values[first:end].reshape(-1, LARGE)
    if cut < size:
        remainder = values[cut:]
        missing = -remainder.size % SMALL
        if missing:
            zeros = np.zeros(missing, remainder.dtype)
            remainder = np.concatenate([remainder, zeros])
        yield remainder.reshape(-1, SMALL)


def count(size: int) -> int:
    """Return the number of blocks of a vector of ``size`` values."""
    remainder = size % LARGE
    return size // LARGE + ceil_div(remainder, SMALL)


def signs(seed: int | Sequence[int]) -> Floats:
    """Return 4,096 random signs, float32; a block uses the first of them."""
    # Raw draws: numpy promises never to change this stream.
    words = np.random.PCG64(seed).random_raw(LARGE // 64)
    # Little-endian, so that the bits come in the same order on every machine.
    word_bytes = words.astype("<u8").view(np.uint8)
    bits = np.unpackbits(word_bytes).astype(np.float32)
    return bits * 2 - 1


def transform(block: Floats) -> Floats:
    """Return the unnormalised Walsh-Hadamard transform of each row of (n, 64 r).

    Applied twice it gives 64 r times the input.
    """
    n, size = block.shape
    rows = size // WIDTH
    # One product a block, none larger than 64 x 64 x 64: OpenBLAS starts its threads for
    # larger ones, and they would fight a pool's workers for the cores.
    across = np.matmul(block.reshape(n, rows, WIDTH), hadamard(WIDTH))
    product: Floats = np.matmul(hadamard(rows), across)
    return product.reshape(n, size)


def mix(block: Floats, between: Floats) -> Floats:
    """Return two transforms of each row of (n, 64 r), sign flips (64 r,) between them.

    The result is as large as after one transform; 64 r is a power of 4. One transform of
    a block with few large values has few different values; the second one makes it look
    like draws of a normal distribution. The map is symmetric: applied twice it gives 64 r
    times the input. It is exact where the rows are whole numbers s with
    64 r · ‖s‖ < 2**24: no sum on the way, nor a part of it, is larger (Cauchy-Schwarz).
    """
    # A power of two, because 64 r is a power of 4: the product is exact.
    scale = 1 / isqrt(block.shape[1])
    first = transform(block)
    first *= between * np.float32(scale)
    return transform(first)


# Three sizes occur: 64 (a row, or the rows of 4,096 values), 16 and 8 (fewer rows).
@lru_cache(maxsize=4)
def hadamard(size: int) -> Floats:
    """Return the matrix of the transform (size, size), of entries 1 and -1.

    It is shared: do not write to it.
    """
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        upper = np.concatenate([matrix, matrix], axis=1)
        lower = np.concatenate([matrix, -matrix], axis=1)
        matrix = np.concatenate([upper, lower])
    return matrix
