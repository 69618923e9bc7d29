"""Binary weights as bits: a sign for each weight, and one scale for each output filter.

Needs numpy alone, so that a device unpacks them without torch. O output filters, n
weights in each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import FormatError

Tensors = Mapping[str, NDArray[np.generic]]

# What a packed tensor's parts are called in a file, after the tensor's own name.
BITS = ".bits"
SCALES = ".scales"
SHAPE = ".shape"


def pack(tensors: Tensors, names: list[str]) -> dict[str, NDArray[np.generic]]:
    """Return tensors in which those of some names are bits, scales and a shape.

    A tensor (O, …) becomes (O · n / 8, rounded up) uint8, (O,) float32 and its shape as
    int32; the first weight is the highest bit of the first byte. Raises FormatError for a
    tensor whose weights are not plus or minus one number in each filter.
    """
    packed: dict[str, NDArray[np.generic]] = {}
    for name, tensor in tensors.items():
        if name not in names:
            packed[name] = tensor
            continue
        rows = np.asarray(tensor, np.float32).reshape(len(tensor), -1)
        scales = np.abs(rows[:, 0])
        if not (np.abs(rows) == scales[:, None]).all():
            raise FormatError(
                f"tensor '{name}' is not binary: a filter has weights of several magnitudes"
            )
        packed[name + BITS] = np.packbits(rows >= 0)
        packed[name + SCALES] = scales
        packed[name + SHAPE] = np.array(tensor.shape, np.int32)
    return packed


def is_packed(tensors: Tensors) -> bool:
    """Tell whether some of the tensors of a file are bits."""
    return any(
        name.endswith(BITS) and name[: -len(BITS)] + SHAPE in tensors
        for name in tensors
    )


def unpack(tensors: Tensors) -> dict[str, NDArray[np.generic]]:
    """Return the tensors that were packed, float32, under their own names; others as they are.

    Raises FormatError for parts that do not belong together.
    """
    unpacked: dict[str, NDArray[np.generic]] = {}
    for name, tensor in tensors.items():
        if name.endswith(BITS):
            own_name = name.removesuffix(BITS)
            unpacked[own_name] = _unpacked(own_name, tensors)
        elif not name.endswith((SCALES, SHAPE)):
            unpacked[name] = tensor
    return unpacked


def _unpacked(name: str, tensors: Tensors) -> NDArray[np.float32]:
    bits: NDArray[Any] = np.asarray(tensors[name + BITS])
    scales = tensors.get(name + SCALES)
    shape = tensors.get(name + SHAPE)
    if scales is None or shape is None:
        raise FormatError(f"tensor '{name}' has bits, but no scales or no shape")
    sizes = tuple(int(size) for size in np.asarray(shape).reshape(-1))
    # Python's integers: a damaged shape must not overflow into one that fits.
    values = 1
    for size in sizes:
        values *= max(size, 0)
    filters = scales.size
    fits = sizes[:1] == (filters,) and bits.dtype == np.uint8 and values > 0
    if not fits or bits.size != -(-values // 8):
        raise FormatError(
            f"tensor '{name}' has {bits.size} bytes of bits and {filters} scales, "
            f"which do not fit its shape {list(sizes)}"
        )
    signs = np.unpackbits(bits.reshape(-1), count=values).reshape(filters, -1)
    column = np.asarray(scales, np.float32).reshape(-1, 1)
    return np.where(signs == 1, column, -column).reshape(sizes)
