"""`Q8`: stochastic 8-bit quantisation in buckets.

Source: QSGD (Alistarh et al., NeurIPS 2017), with the bucket's largest magnitude as its norm and 127 levels a
side. Differs from the paper: fixed-length levels without entropy coding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import FormatError, PayloadError

BUCKET = 1024  # values that share a scale: 0.4 % overhead, and one outlier coarsens only its own bucket
LEVELS = 127


class Q8:
    """One byte a value and a float32 scale per bucket: unbiased, error below one level of its bucket."""

    def encode(self, values: NDArray[np.float32], seed: int) -> bytes:
        """Return scales (B,) float32 and levels (P,) int8 as bytes; raises PayloadError above 1e38."""
        size = values.size
        padded = np.zeros((-(-size // BUCKET), BUCKET), np.float32)
        padded.ravel()[:size] = values
        largest = np.abs(padded).max(axis=1, initial=0.0)
        if largest.size and float(largest.max()) > 1e38:
            raise PayloadError(f"the value {largest.max():g} does not fit q8 (up to 1e38); use raw32")
        scales = (largest / LEVELS).astype(np.float32)
        safe = np.where(scales > 0, scales, np.float32(1))
        noise = np.random.Generator(np.random.PCG64(seed)).random(padded.shape, dtype=np.float32)
        levels = np.clip(np.floor(padded / safe[:, None] + noise), -LEVELS, LEVELS).astype(np.int8)
        return b"".join([scales.astype("<f4").tobytes(), levels.ravel()[:size].tobytes()])

    def decode(self, body: bytes, size: int, seed: int) -> NDArray[np.float32]:
        """Return the values (P,) float32: level times its bucket's scale."""
        buckets = -(-size // BUCKET)
        if len(body) != 4 * buckets + size:
            raise FormatError(f"{len(body)} bytes of q8 where the model needs {4 * buckets + size}")
        scales = np.frombuffer(body, "<f4", buckets)
        if not (np.isfinite(scales).all() and (scales >= 0).all()):
            raise FormatError("a scale of q8 is negative, NaN or infinite")
        levels = np.frombuffer(body, np.int8, size, 4 * buckets)
        return levels.astype(np.float32) * np.repeat(scales.astype(np.float32), BUCKET)[:size]
