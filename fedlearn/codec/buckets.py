"""`q8` and `q4`: stochastic quantisation to 8 or 4 bits in buckets.

Source: QSGD (Alistarh et al., NeurIPS 2017), with the bucket's largest magnitude as its norm. Differs from the paper:
fixed-length levels without entropy coding, and dithers that are used more than once (see `Buckets.encode`). Scales are
float32: float16 scales underflow late in training.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.codec import Context
from fedlearn.errors import FormatError, PayloadError

LARGEST = 1e38
SMALLEST = float(np.finfo(np.float32).tiny)
"""Scales below it are 0: their inverse would not be finite."""

TOGETHER = 65_536
"""Values worked on at a time: a quarter of a megabyte stays in a core's cache."""

DITHERS = TOGETHER + 16_384
_INWARD = 1 - 2**-21
"""Keeps the largest value of a bucket below the last level in spite of rounding; it shifts a value by 5e-7 of itself."""


class Buckets:
    """A level per value and a float32 scale per bucket: unbiased, error below one level of the bucket's scale."""

    uses_moved = False

    def __init__(self, bits: int, bucket: int) -> None:
        """Take 8 or 4 bits a level. bucket: values that share a scale; one outlier coarsens only its own bucket."""
        self.bits, self.bucket, self.levels = bits, bucket, 2 ** (bits - 1) - 1
        self.for_differences = bits < 8

    def length(self, context: Context) -> int:
        """Return the bytes of P values: scales and levels."""
        return 4 * -(-context.size // self.bucket) + -(-context.size * self.bits // 8)

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return scales (B,) float32 and levels (P,) as bytes; raises PayloadError above 1e38.

        A level is floor(value / scale + dither). Every dither is uniform in [0, 1), hence unbiased levels; there are
        at most 81,920 of them, and each 65,536 values begin at a random place among these. Values that share a dither
        round together where they are alike: that adds to the variance of their sum, never to the bias of one.
        """
        scales = self._scales(values)
        inverses = np.divide(
            _INWARD, scales, out=np.zeros_like(scales), where=scales > 0
        )[:, None]
        draws = np.random.Generator(np.random.PCG64(seed))
        dithers = torch.from_numpy(
            draws.random(min(DITHERS, scales.size * self.bucket), dtype=np.float32)
        )
        starts = [
            0,
            *draws.integers(DITHERS - TOGETHER, size=values.size // TOGETHER).tolist(),
        ]
        levels = np.empty((scales.size, self.bucket), np.int8)
        room = torch.empty(min(TOGETHER, dithers.numel()))
        for first, block in self._blocks(values):
            scaled, some = (
                room[: block.numel()].view(block.shape),
                slice(first, first + len(block)),
            )
            at = starts[first * self.bucket // TOGETHER]
            torch.mul(block, torch.from_numpy(inverses[some]), out=scaled)
            scaled += dithers[at : at + block.numel()].view(block.shape)
            np.copyto(levels[some], scaled.floor_().numpy(), casting="unsafe")
        flat = levels.ravel()[: values.size]
        return b"".join(
            [
                scales.astype("<f4").tobytes(),
                flat.data if self.bits == 8 else _pack4(flat),
            ]
        )

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the values (P,) float32: level times its bucket's scale."""
        size = context.size
        if len(body) != self.length(context):
            raise FormatError(
                f"{len(body)} bytes of q{self.bits} where the model needs {self.length(context)}"
            )
        scales = np.frombuffer(body, "<f4", -(-size // self.bucket)).astype(np.float32)
        if not (np.isfinite(scales).all() and (scales >= 0).all()):
            raise FormatError(f"a scale of q{self.bits} is negative, NaN or infinite")
        if scales.size and float(scales.max()) > 2 * LARGEST / self.levels:
            raise FormatError(
                f"a scale of q{self.bits} is beyond what any encoder sends"
            )
        data = np.frombuffer(body, np.int8, offset=4 * scales.size)
        levels = data if self.bits == 8 else _unpack4(data, size)
        out = np.empty(size, np.float32)
        whole = size - size % self.bucket
        rows, step = out[:whole].reshape(-1, self.bucket), TOGETHER // self.bucket
        for first in range(0, len(rows), step):
            block = rows[first : first + step]
            np.copyto(
                block, levels[first * self.bucket :][: block.size].reshape(block.shape)
            )
            block *= scales[first : first + step, None][: len(block)]
        out[whole:] = levels[whole:] * (scales[-1] if whole < size else np.float32(0))
        return out

    def _scales(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the largest magnitude of each bucket by the last level; 0 where its inverse would not be finite."""
        largest = torch.empty(-(-values.size // self.bucket))
        room = torch.empty(min(TOGETHER, largest.numel() * self.bucket))
        for first, block in self._blocks(values):
            torch.amax(
                torch.abs(block, out=room[: block.numel()].view(block.shape)),
                1,
                out=largest[first : first + len(block)],
            )
        if largest.numel() and float(largest.max()) > LARGEST:
            raise PayloadError(
                f"the value {float(largest.max()):g} does not fit q{self.bits} (up to 1e38); use raw32"
            )
        scales = largest.numpy() / np.float32(self.levels)
        return np.where(scales < SMALLEST, np.float32(0), scales)

    def _blocks(
        self, values: NDArray[np.float32]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the first bucket's number and up to 65,536 values as (buckets, bucket); zeros fill the last bucket."""
        flat = torch.from_numpy(np.require(values, np.float32, ["C", "W"]))
        for first in range(0, flat.numel(), TOGETHER):
            block = flat[first : first + TOGETHER]
            if short := -block.numel() % self.bucket:
                block = torch.cat([block, torch.zeros(short)])
            yield first // self.bucket, block.view(-1, self.bucket)


def q8() -> Buckets:
    """Return 8-bit levels with a scale per 1,024 values: 0.4 % overhead."""
    return Buckets(8, 1024)


def q4() -> Buckets:
    """Return 4-bit levels with a scale per 256 values: with 7 levels a side, small buckets cost less than outliers."""
    return Buckets(4, 256)


def _pack4(levels: NDArray[np.int8]) -> bytes:
    """Return two levels a byte, the first in the low half; an odd last one is alone."""
    padded = np.zeros(levels.size + levels.size % 2, np.uint8)
    np.bitwise_and(levels.view(np.uint8), 15, out=padded[: levels.size])
    pairs = padded.view("<u2")
    pairs |= pairs >> 4
    return pairs.astype(np.uint8).tobytes()


def _unpack4(data: NDArray[np.int8], size: int) -> NDArray[np.int8]:
    halves = np.empty((data.size, 2), np.int8)
    halves[:, 0] = data << 4 >> 4  # arithmetic shifts keep the sign
    halves[:, 1] = data >> 4
    return halves.ravel()[:size]
