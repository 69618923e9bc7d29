"""`q8` and `q4`: stochastic quantisation to 8 or 4 bits in buckets.

Source: QSGD (Alistarh et al., NeurIPS 2017), with the bucket's largest magnitude as its
norm. Differs from the paper: fixed-length levels without entropy coding, and dithers that
are used more than once (see `Buckets.encode`). Scales are float32: float16 scales
underflow late in training.

Legend: P values, n buckets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import magnitude
from fedlearn.codec import Context
from fedlearn.codec.bits import TOGETHER, ceil_div
from fedlearn.errors import FormatError, PayloadError

# The largest magnitude: a level times a scale stays below float32's 3.4e38.
LARGEST = 1e38

# Scales below it are 0: their inverse would not be finite.
SMALLEST = float(np.finfo(np.float32).tiny)

# Random numbers in all; the values of a batch begin at one of the first 16,384.
DITHERS = TOGETHER + 16_384

# Keeps the largest value of a bucket below the last level in spite of rounding; it shifts
# a value by 5e-7 of itself.
_INWARD = 1 - 2**-21


class Buckets:
    """A level per value and a float32 scale per bucket: unbiased.

    The error is below one level of the bucket's scale.
    """

    uses_moved = False

    def __init__(self, bits: int, bucket: int) -> None:
        """Take 8 or 4 bits a level.

        bucket: values that share a scale; one outlier coarsens only its own bucket.
        """
        self.bits = bits
        self.bucket = bucket
        # The last level: 127 or 7 on each side of 0.
        self.levels = 2 ** (bits - 1) - 1
        self.for_differences = bits < 8

    def length(self, context: Context) -> int:
        """Return the bytes of P values: scales and levels."""
        scale_bytes = 4 * ceil_div(context.size, self.bucket)
        level_bytes = ceil_div(context.size * self.bits, 8)
        return scale_bytes + level_bytes

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return scales (n,) float32 and levels (P,) as bytes; raises PayloadError above 1e38.

        A level is floor(value / scale + dither). Every dither is uniform in [0, 1), hence
        unbiased levels; there are at most 81,920 of them, and each 65,536 values begin at
        a random place among these. Values that share a dither round together where they
        are alike: that adds to the variance of their sum, never to the bias of one.
        """
        # Here, because a board that only decodes has no torch.
        from fedlearn.codec import torch_buckets

        scales = self._scales(torch_buckets.largest(values, self.bucket))
        draws = np.random.Generator(np.random.PCG64(seed))
        count = min(DITHERS, scales.size * self.bucket)
        dithers = draws.random(count, dtype=np.float32)
        # The first batch begins at 0: a small model has no more dithers than values.
        batches = values.size // TOGETHER
        offsets = draws.integers(DITHERS - TOGETHER, size=batches)
        starts = [0, *offsets.tolist()]

        zeros = np.zeros_like(scales)
        inverses = np.divide(_INWARD, scales, out=zeros, where=scales > 0)
        levels = torch_buckets.levels(values, self.bucket, inverses, dithers, starts)
        # 8-bit levels are bytes as they stand.
        packed = levels.data if self.bits == 8 else _pack4(levels)
        return b"".join([scales.astype("<f4").tobytes(), packed])

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the values (P,) float32: level times its bucket's scale.

        Raises FormatError for bytes that no encoder made for P values.
        """
        size = context.size
        scales = self._read_scales(body, context)
        data = np.frombuffer(body, np.int8, offset=4 * scales.size)
        levels = data if self.bits == 8 else _unpack4(data, size)

        values = np.empty(size, np.float32)
        full_size = size - size % self.bucket
        # The last bucket may be short: it is worked on apart.
        rows = values[:full_size].reshape(-1, self.bucket)
        level_rows = levels[:full_size].reshape(rows.shape)

        # Batch by batch, so that casting and scaling read the same cached values.
        step = TOGETHER // self.bucket
        for first in range(0, len(rows), step):
            block = rows[first : first + step]
            np.copyto(block, level_rows[first : first + step])
            block *= scales[first : first + len(block), None]

        if full_size < size:
            values[full_size:] = levels[full_size:] * scales[-1]
        return values

    def _read_scales(self, body: bytes, context: Context) -> NDArray[np.float32]:
        """Return the scales (n,); raises FormatError for those that no encoder sends."""
        if len(body) != self.length(context):
            raise FormatError(
                f"{len(body)} bytes of q{self.bits} "
                f"where the model needs {self.length(context)}"
            )
        count = ceil_div(context.size, self.bucket)
        scales = np.frombuffer(body, "<f4", count).astype(np.float32)
        if not (np.isfinite(scales).all() and (scales >= 0).all()):
            raise FormatError(f"a scale of q{self.bits} is negative, NaN or infinite")
        # Twice what is sent: with such a scale every level is still finite.
        if scales.size and float(scales.max()) > 2 * LARGEST / self.levels:
            raise FormatError(
                f"a scale of q{self.bits} is beyond what any encoder sends"
            )
        return scales

    def _scales(self, largest: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return each bucket's largest magnitude by the last level, (n,) float32.

        0 where its inverse would not be finite. Raises PayloadError above 1e38.
        """
        maximum = magnitude(largest)
        if maximum > LARGEST:
            raise PayloadError(
                f"the value {maximum:g} does not fit q{self.bits} (up to 1e38); "
                "use raw32"
            )
        scales = largest / np.float32(self.levels)
        return np.where(scales < SMALLEST, np.float32(0), scales)


def q8() -> Buckets:
    """Return 8-bit levels with a scale per 1,024 values: 0.4 % overhead."""
    return Buckets(8, 1024)


def q4() -> Buckets:
    """Return 4-bit levels with a scale per 256 values.

    With 7 levels a side, small buckets cost less than outliers.
    """
    return Buckets(4, 256)


def _pack4(levels: NDArray[np.int8]) -> bytes:
    """Return two levels a byte, the first in the low half; an odd last one is alone."""
    size = levels.size
    padded = np.zeros(size + size % 2, np.uint8)
    np.bitwise_and(levels.view(np.uint8), 15, out=padded[:size])
    # As 16-bit numbers, two levels fold into their low byte in one pass.
    pairs = padded.view("<u2")
    pairs |= pairs >> 4
    return pairs.astype(np.uint8).tobytes()


def _unpack4(data: NDArray[np.int8], size: int) -> NDArray[np.int8]:
    """Return the levels (size,) of two a byte."""
    halves = np.empty((data.size, 2), np.int8)
    # Arithmetic shifts keep the sign.
    halves[:, 0] = data << 4 >> 4
    halves[:, 1] = data >> 4
    return halves.ravel()[:size]
