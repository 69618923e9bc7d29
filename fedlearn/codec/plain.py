"""Codecs that only choose a number format.

`Raw32` is exact; `Float16` and `BFloat16` round.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.arrays import magnitude
from fedlearn.codec import Context
from fedlearn.errors import FormatError, PayloadError

# The largest finite float16.
_LARGEST_HALF = 65504.0

# A little below the largest finite bfloat16, 3.3895e38: what the message names.
_LARGEST_BRAIN = 3.38e38


class Raw32:
    """Little-endian float32, 4 bytes a value: exact."""

    uses_moved = False
    for_differences = False

    def length(self, context: Context) -> int:
        """Return the bytes of P values."""
        return 4 * context.size

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the bytes of values (P,) float32."""
        return np.ascontiguousarray(values, "<f4").tobytes()

    def decode(
        self, body: bytes | memoryview, seed: int, context: Context
    ) -> NDArray[np.float32]:
        """Return the values (P,) float32 of 4 P bytes; raises FormatError for others.

        They are a view of the bytes, where these are aligned for float32.
        """
        _check_length(body, self.length(context))
        # No copy: a model's payload is hundreds of megabytes.
        values = np.frombuffer(body, "<f4").astype(np.float32, copy=False)
        if values.flags.aligned:
            return values
        return values.copy()


class Float16:
    """Little-endian IEEE 754 half precision, 2 bytes a value, rounded to nearest even.

    The relative error is at most 2**-11 for magnitudes from 6.1e-5 to 65,504; below that
    the absolute error is at most 2**-25.
    """

    uses_moved = False
    for_differences = False

    def length(self, context: Context) -> int:
        """Return the bytes of P values."""
        return 2 * context.size

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the bytes of values (P,) float32; raises PayloadError above 65,504."""
        largest = magnitude(values)
        if largest > _LARGEST_HALF:
            raise PayloadError(
                f"the value {largest:g} does not fit f16 (up to 65,504); "
                "use raw32 or q8"
            )
        halves = _tensor(values).to(torch.float16).numpy()
        return halves.astype("<f2", copy=False).tobytes()

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the values (P,) float32 of 2 P bytes; raises FormatError for others."""
        _check_length(body, self.length(context))
        halves = torch.from_numpy(_halves(body, "<f2"))
        return halves.to(torch.float32).numpy()


class BFloat16:
    """The upper half of a float32, little-endian, 2 bytes a value.

    Rounded to nearest even, in the range of float32. The relative error is at most 2**-8,
    and 2**-9 for most; magnitudes below 1.2e-38 have an absolute error of at most 2**-134.
    """

    uses_moved = False
    for_differences = False

    def length(self, context: Context) -> int:
        """Return the bytes of P values."""
        return 2 * context.size

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the bytes of values (P,) float32; raises PayloadError above 3.38e38."""
        largest = magnitude(values)
        if largest > _LARGEST_BRAIN:
            raise PayloadError(
                f"the value {largest:g} does not fit bf16 (up to 3.38e38); use raw32"
            )
        # As integers, because numpy has no bfloat16.
        halves = _tensor(values).to(torch.bfloat16).view(torch.int16)
        return halves.numpy().astype("<i2", copy=False).tobytes()

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the values (P,) float32 of 2 P bytes; raises FormatError for others."""
        _check_length(body, self.length(context))
        halves = torch.from_numpy(_halves(body, "<i2")).view(torch.bfloat16)
        return halves.to(torch.float32).numpy()


def _tensor(values: NDArray[np.float32]) -> torch.Tensor:
    """Return values that torch can read in order.

    It rounds to halves ten times faster than numpy.
    """
    # torch warns of memory that it may not write, hence "W".
    writable = np.require(values, np.float32, ["C", "W"])
    return torch.from_numpy(writable)


def _halves(body: bytes, kind: str) -> NDArray[np.generic]:
    """Return 2-byte values of this machine's byte order, in writable memory.

    torch warns where it may not write.
    """
    data = np.frombuffer(body, kind)
    return data.astype(data.dtype.newbyteorder("="))


def _check_length(body: bytes | memoryview, length: int) -> None:
    """Raise FormatError for another length."""
    if len(body) != length:
        raise FormatError(f"{len(body)} bytes of values where the model needs {length}")
