"""What the encoder of `buckets` does with every value, in torch.

All of it is single IEEE operations, which numpy would do to the same bits; torch finds the
largest of a short row in half the time.

Legend: P values, n buckets.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.codec.bits import TOGETHER, ceil_div


def largest(values: NDArray[np.float32], bucket: int) -> NDArray[np.float32]:
    """Return the largest magnitude of each bucket of values (P,), (n,) float32."""
    count = ceil_div(values.size, bucket)
    maxima = torch.empty(count, dtype=torch.float32)
    # One room for all batches: its pages stay in the cache.
    room = torch.empty(min(TOGETHER, count * bucket), dtype=torch.float32)
    for first, block in _blocks(values, bucket):
        magnitudes = room[: block.numel()].view(block.shape)
        torch.abs(block, out=magnitudes)
        torch.amax(magnitudes, 1, out=maxima[first : first + len(block)])
    return maxima.numpy()


def levels(
    values: NDArray[np.float32],
    bucket: int,
    inverses: NDArray[np.float32],
    dithers: NDArray[np.float32],
    starts: list[int],
) -> NDArray[np.int8]:
    """Return the levels (P,): floor(value times its bucket's inverse + dither).

    inverses: of the scales, (n,). starts: where each batch's dithers begin.
    """
    factors = torch.from_numpy(inverses[:, None])
    noise = torch.from_numpy(dithers)
    levels = np.empty((inverses.size, bucket), np.int8)

    # One room for all batches: its pages stay in the cache.
    room = torch.empty(min(TOGETHER, dithers.size), dtype=torch.float32)
    for first, block in _blocks(values, bucket):
        end = first + len(block)
        size = block.numel()
        start = starts[first * bucket // TOGETHER]
        scaled = room[:size].view(block.shape)
        torch.mul(block, factors[first:end], out=scaled)
        scaled += noise[start : start + size].view(block.shape)
        scaled.floor_()
        np.copyto(levels[first:end], scaled.numpy(), casting="unsafe")
    return levels.ravel()[: values.size]


def _blocks(
    values: NDArray[np.float32], bucket: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the first bucket's number and up to 65,536 values as (buckets, bucket).

    Zeros fill the last bucket.
    """
    # torch warns of memory that it may not write, hence "W".
    writable = np.require(values, np.float32, ["C", "W"])
    flat = torch.from_numpy(writable)
    for first in range(0, flat.numel(), TOGETHER):
        block = flat[first : first + TOGETHER]
        missing = -block.numel() % bucket
        if missing:
            block = torch.cat([block, block.new_zeros(missing)])
        yield first // bucket, block.view(-1, bucket)
