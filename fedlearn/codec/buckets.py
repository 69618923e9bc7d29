"""`q8` and `q4`: stochastic quantisation to 8 or 4 bits in buckets.

Source: QSGD (Alistarh et al., NeurIPS 2017), with the bucket's largest magnitude as its norm. Differs from the paper:
fixed-length levels without entropy coding. Scales are float32: float16 scales underflow late in training.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import FormatError, PayloadError

LARGEST = 1e38


class Buckets:
    """A level per value and a float32 scale per bucket: unbiased, error below one level of the bucket's scale."""

    def __init__(self, bits: int, bucket: int) -> None:
        """Take 8 or 4 bits a level. bucket: values that share a scale; one outlier coarsens only its own bucket."""
        self.bits, self.bucket, self.levels = bits, bucket, 2 ** (bits - 1) - 1

    def encode(self, values: NDArray[np.float32], seed: int) -> bytes:
        """Return scales (B,) float32 and levels (P,) as bytes; raises PayloadError above 1e38."""
        size = values.size
        padded = np.zeros((-(-size // self.bucket), self.bucket), np.float32)
        padded.ravel()[:size] = values
        largest = np.abs(padded).max(axis=1, initial=0.0)
        if largest.size and float(largest.max()) > LARGEST:
            raise PayloadError(f"the value {largest.max():g} does not fit q{self.bits} (up to 1e38); use raw32")
        scales = (largest / self.levels).astype(np.float32)
        padded /= np.where(scales > 0, scales, np.float32(1))[:, None]
        padded += np.random.Generator(np.random.PCG64(seed)).random(padded.shape, dtype=np.float32)
        np.floor(padded, out=padded)
        np.clip(padded, -self.levels, self.levels, out=padded)
        levels = padded.astype(np.int8).ravel()[:size]
        return b"".join([scales.astype("<f4").tobytes(), levels.tobytes() if self.bits == 8 else _pack4(levels)])

    def decode(self, body: bytes, size: int, seed: int) -> NDArray[np.float32]:
        """Return the values (P,) float32: level times its bucket's scale."""
        buckets = -(-size // self.bucket)
        wanted = 4 * buckets + -(-size * self.bits // 8)
        if len(body) != wanted:
            raise FormatError(f"{len(body)} bytes of q{self.bits} where the model needs {wanted}")
        scales = np.frombuffer(body, "<f4", buckets).astype(np.float32)
        if not (np.isfinite(scales).all() and (scales >= 0).all()):
            raise FormatError(f"a scale of q{self.bits} is negative, NaN or infinite")
        data = np.frombuffer(body, np.int8, offset=4 * buckets)
        levels = data if self.bits == 8 else _unpack4(data, size)
        return levels.astype(np.float32) * np.repeat(scales, self.bucket)[:size]


def q8() -> Buckets:
    """Return 8-bit levels with a scale per 1,024 values: 0.4 % overhead."""
    return Buckets(8, 1024)


def q4() -> Buckets:
    """Return 4-bit levels with a scale per 256 values: with 7 levels a side, small buckets cost less than outliers."""
    return Buckets(4, 256)


def _pack4(levels: NDArray[np.int8]) -> bytes:
    """Return two levels a byte, the first in the low half; an odd last one is alone."""
    padded = np.zeros(levels.size + levels.size % 2, np.uint8)
    padded[: levels.size] = levels.view(np.uint8) & 15
    return (padded[0::2] | padded[1::2] << 4).tobytes()


def _unpack4(data: NDArray[np.int8], size: int) -> NDArray[np.int8]:
    halves = np.empty((data.size, 2), np.int8)
    halves[:, 0] = data << 4 >> 4  # arithmetic shifts keep the sign
    halves[:, 1] = data >> 4
    return halves.ravel()[:size]
