"""A random rotation of blocks: signs drawn from a seed, then a Walsh-Hadamard transform.

After it the values of a block look like draws of one normal distribution, whatever they were before, so that few bits
per value say much. Blocks of 4,096 values are small enough for the cache and large enough for that; the rest of a vector
is cut into blocks of 512, so that a small model pays for at most 511 values that it does not have.

A block of r · 64 values is transformed as H_r · X · H_64, two small matrix products. Where X holds small whole
numbers (what a decoder has: signs), every sum is exact in float32, in any order of additions: **decoding gives the same
bits on every machine**, with whatever matrix library it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from math import isqrt

import numpy as np
import torch

WIDTH = 64
LARGE, SMALL = 4096, 512
TOGETHER = 32
"""Large blocks worked on at a time: half a megabyte stays in a core's cache (twice as fast as all at once)."""


def padded(size: int) -> int:
    """Return the number of values in the blocks of a vector of ``size`` values."""
    return size - size % LARGE + -(-(size % LARGE) // SMALL) * SMALL


def blocks(values: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Yield the blocks of a vector of ``size`` values, up to 32 of 4,096 at a time, then those of 512: (n, 4096), (m, 512).

    values: (size,), or (padded(size),) with what fills the last block. They are views where the vector has whole blocks; a
    last part of one is padded with zeros, in a copy.
    """
    cut = size - size % LARGE
    if cut:
        yield from torch.split(values[:cut].view(-1, LARGE), TOGETHER)
    if cut < size:
        rest = values[cut:]
        short = -rest.numel() % SMALL
        yield (torch.cat([rest, rest.new_zeros(short)]) if short else rest).view(
            -1, SMALL
        )


def count(size: int) -> int:
    """Return the number of blocks of a vector of ``size`` values."""
    return size // LARGE + -(-(size % LARGE) // SMALL)


def signs(seed: int | Sequence[int]) -> torch.Tensor:
    """Return 4,096 random signs, float32; every block uses the first of them that it needs."""
    drawn = (
        np.random.PCG64(seed).random_raw(LARGE // 64).astype("<u8")
    )  # numpy keeps this stream for ever
    bits = np.unpackbits(drawn.view(np.uint8))
    return torch.from_numpy(bits.astype(np.float32) * 2 - 1)


def transform(block: torch.Tensor) -> torch.Tensor:
    """Return the unnormalised Walsh-Hadamard transform of each row of (n, 64 r); twice gives 64 r times the input."""
    n, size = block.shape
    rows = size // WIDTH
    with full_precision():
        return torch.matmul(
            _hadamard(rows), torch.matmul(block.view(n, rows, WIDTH), _hadamard(WIDTH))
        ).view(n, size)


def mix(block: torch.Tensor, between: torch.Tensor) -> torch.Tensor:
    """Return two transforms of each row of (n, 64 r) with sign flips (64 r,) between them, as large as one transform.

    64 r is a power of 4. One transform of a block with few large values has few different values; the second one makes
    it look like draws of a normal distribution. The map is symmetric: twice gives 64 r times the input. Exact where the
    rows are whole numbers s with 64 r · ‖s‖ < 2**24: no sum on the way, nor a part of it, is larger (Cauchy-Schwarz).
    """
    return transform(transform(block).mul_(between * (1 / isqrt(block.shape[1]))))


@contextmanager
def full_precision() -> Iterator[None]:
    """Have torch multiply matrices in float32, whatever a model's code or its user asked of it.

    Its "medium" precision and its autocast round to bfloat16 on a CPU that can: a decoder would then find other values.
    """
    asked = torch.get_float32_matmul_precision()
    if asked == "highest" and not torch.is_autocast_enabled(
        "cpu"
    ):  # as mostly: a tenth of the encoding's time is saved
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(asked)


@lru_cache(maxsize=4)
def _hadamard(size: int) -> torch.Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float32, device="cpu")
    while matrix.shape[0] < size:
        matrix = torch.cat(
            [torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)]
        )
    return matrix
