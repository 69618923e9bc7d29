"""Codecs that only choose a number format: `Raw32` (exact) and `Float16` (rounded)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import FormatError, PayloadError

_LARGEST_HALF = 65504.0


class Raw32:
    """Little-endian float32, 4 bytes a value: exact."""

    def encode(self, values: NDArray[np.float32], seed: int) -> bytes:
        """Return the bytes of values (P,) float32."""
        return np.ascontiguousarray(values, "<f4").tobytes()

    def decode(self, body: bytes, size: int, seed: int) -> NDArray[np.float32]:
        """Return the values (P,) float32 of ``4 * size`` bytes."""
        _check_length(body, 4 * size)
        return np.frombuffer(body, "<f4").astype(np.float32)


class Float16:
    """Little-endian IEEE 754 half precision, 2 bytes a value, rounded to nearest even.

    The relative error is at most 2**-11 for magnitudes from 6.1e-5 to 65,504; below that the absolute error is
    at most 2**-25.
    """

    def encode(self, values: NDArray[np.float32], seed: int) -> bytes:
        """Return the bytes of values (P,) float32; raises PayloadError for magnitudes above 65,504."""
        if values.size and (largest := float(np.abs(values).max())) > _LARGEST_HALF:
            raise PayloadError(f"the value {largest:g} does not fit f16 (up to 65,504); use raw32 or q8")
        return values.astype("<f2").tobytes()

    def decode(self, body: bytes, size: int, seed: int) -> NDArray[np.float32]:
        """Return the values (P,) float32 of ``2 * size`` bytes."""
        _check_length(body, 2 * size)
        return np.frombuffer(body, "<f2").astype(np.float32)


def _check_length(body: bytes, wanted: int) -> None:
    if len(body) != wanted:
        raise FormatError(f"{len(body)} bytes of values where the model needs {wanted}")
