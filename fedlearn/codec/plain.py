"""Codecs that only choose a number format.

`Raw32` is exact; `Float16` and `BFloat16` round.
"""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
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
        # torch warns of memory that it may not write, hence "W".
        halves = _to_halves(np.require(values, np.float32, ["C", "W"]))
        return halves.astype("<f2", copy=False).tobytes()

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the values (P,) float32 of 2 P bytes; raises FormatError for others."""
        _check_length(body, self.length(context))
        # A copy: torch warns where it may not write.
        return _of_halves(np.frombuffer(body, "<f2").astype(np.float16))


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
        # In this form NaN is refused too: its bits could be rounded to a number's.
        if not largest <= _LARGEST_BRAIN:
            raise PayloadError(
                f"the value {largest:g} does not fit bf16 (up to 3.38e38); use raw32"
            )
        # torch warns of memory that it may not write, hence "W".
        upper = _to_upper(np.require(values, np.float32, ["C", "W"]))
        return upper.astype("<u2", copy=False).tobytes()

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the values (P,) float32 of 2 P bytes; raises FormatError for others."""
        _check_length(body, self.length(context))
        # Exact, NaN included: what is cut off was 0.
        upper = np.frombuffer(body, "<u2").astype(np.uint32)
        upper <<= 16
        return upper.view(np.float32)


def _to_halves(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return values rounded to nearest even, as half precision."""
    torch = _torch()
    if torch is None:
        return values.astype(np.float16)
    halves: NDArray[np.float16] = torch.from_numpy(values).to(torch.float16).numpy()
    return halves


def _of_halves(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return half-precision numbers of this machine's byte order as float32: exact."""
    torch = _torch()
    if torch is None:
        return halves.astype(np.float32)
    values: NDArray[np.float32] = torch.from_numpy(halves).to(torch.float32).numpy()
    return values


def _to_upper(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the upper halves of finite values, rounded to nearest even.

    As integers, because numpy has no bfloat16.
    """
    torch = _torch()
    if torch is not None:
        brains = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16)
        upper: NDArray[np.uint16] = brains.numpy().view(np.uint16)
        return upper
    patterns = values.view(np.uint32)
    # Half of what is cut off, or a little less where the upper half is even.
    rounded = patterns >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += patterns
    rounded >>= 16
    return rounded.astype(np.uint16)


def _torch() -> ModuleType | None:
    """Return torch where the process has loaded it anyway; None: numpy has to do.

    numpy gives the same bits. It takes 12 ms where torch takes 0.13 to round 1.66 million
    values to halves, and 3.5 ms where torch takes 0.17 for the way back: too long for every
    client of a simulation, and nothing for a board that fetches a model.
    """
    if "torch" not in sys.modules:
        return None
    # An import, because another thread may be at it still.
    import torch

    return torch


def _check_length(body: bytes | memoryview, length: int) -> None:
    """Raise FormatError for another length."""
    if len(body) != length:
        raise FormatError(f"{len(body)} bytes of values where the model needs {length}")
