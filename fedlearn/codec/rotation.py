"""A random rotation of blocks: signs from a seed, then a Walsh-Hadamard transform.

After it the values of a block look like draws of one normal distribution, whatever they
were before, so that few bits per value say much. Blocks of 4,096 values are small enough
for the cache and large enough for that. What is left of a vector is cut into blocks of
512, so that a small model pays for at most 511 values that it does not have.

A block of r · 64 values is transformed as H_r · X · H_64, two small matrix products.
Where X holds small whole numbers (what a decoder has: signs), every sum is exact in
float32, in any order of additions: **decoding gives the same bits on every machine**,
with whatever matrix library it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from math import isqrt

import numpy as np
import torch

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


def padded(size: int) -> int:
    """Return the number of values in the blocks of a vector of ``size`` values."""
    remainder = size % LARGE
    # What a large block would be filled with is saved.
    small_blocks = ceil_div(remainder, SMALL)
    return size - remainder + small_blocks * SMALL


def blocks(values: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Yield the blocks of a vector: (n, 4096) with n up to 32, then those of 512 (m, 512).

    values: (size,), or (padded(size),) with what fills the last block. The blocks are
    views where the vector has all of their values; a last one that it has a part of is a
    copy, padded with zeros.
    """
    # The generator gives a few blocks at a time, so that its user works in the cache.
    cut = size - size % LARGE
    if cut:
        yield from torch.split(values[:cut].view(-1, LARGE), BATCH_BLOCKS)
    if cut < size:
        remainder = values[cut:]
        missing = -remainder.numel() % SMALL
        if missing:
            remainder = torch.cat([remainder, remainder.new_zeros(missing)])
        yield remainder.view(-1, SMALL)


def count(size: int) -> int:
    """Return the number of blocks of a vector of ``size`` values."""
    remainder = size % LARGE
    return size // LARGE + ceil_div(remainder, SMALL)


def signs(seed: int | Sequence[int]) -> torch.Tensor:
    """Return 4,096 random signs, float32; a block uses the first of them."""
    # Raw draws: numpy promises never to change this stream.
    words = np.random.PCG64(seed).random_raw(LARGE // 64)
    # Little-endian, so that the bits come in the same order on every machine.
    word_bytes = words.astype("<u8").view(np.uint8)
    bits = np.unpackbits(word_bytes).astype(np.float32)
    return torch.from_numpy(bits * 2 - 1)


def transform(block: torch.Tensor) -> torch.Tensor:
    """Return the unnormalised Walsh-Hadamard transform of each row of (n, 64 r).

    Applied twice it gives 64 r times the input.
    """
    n, size = block.shape
    rows = size // WIDTH
    with full_precision():
        across = torch.matmul(block.view(n, rows, WIDTH), _hadamard(WIDTH))
        return torch.matmul(_hadamard(rows), across).view(n, size)


def mix(block: torch.Tensor, between: torch.Tensor) -> torch.Tensor:
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
    first *= between * scale
    return transform(first)


@contextmanager
def full_precision() -> Iterator[None]:
    """Have torch multiply matrices in float32, whatever its user asked of it.

    Its "medium" precision and its autocast round to bfloat16 on a CPU that can: a decoder
    would then compute other values.
    """
    precision = torch.get_float32_matmul_precision()
    # The usual case, which sets nothing: that saves a tenth of the encoding's time.
    if precision == "highest" and not torch.is_autocast_enabled("cpu"):
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


# Three sizes occur: 64 (a row, or the rows of 4,096 values), 16 and 8 (fewer rows).
@lru_cache(maxsize=4)
def _hadamard(size: int) -> torch.Tensor:
    """Return the matrix of the transform (size, size), of entries 1 and -1."""
    matrix = torch.ones(1, 1, dtype=torch.float32, device="cpu")
    while matrix.shape[0] < size:
        upper = torch.cat([matrix, matrix], 1)
        lower = torch.cat([matrix, -matrix], 1)
        matrix = torch.cat([upper, lower])
    return matrix
