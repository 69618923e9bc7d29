"""Tensors as the Open Inference Protocol writes them: JSON lists, or raw little-endian bytes.

Legend: B batch; a shape's -1 is an axis of any length.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.clients.infer.refusal import Refusal, bad
from fedlearn.text import shortened

Array = NDArray[Any]

# The protocol's datatypes, as numpy has them. BYTES, which has no size, is not among them.
DTYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}

# Kinds of numbers that JSON's may be read as, by the kind that is wanted. A float with a
# fraction is no whole number, and a text is none at all.
_KINDS = {"b": "b", "u": "iu", "i": "iu", "f": "fiu"}

# Numpy's own bound is 64 axes. No model that serves here has as many as 8.
MOST_AXES = 8

Shape = tuple[int, ...]


def fits(expected: Sequence[int], shape: Sequence[int]) -> bool:
    """Tell whether a shape is the expected one, in which -1 is an axis of any length."""
    return len(shape) == len(expected) and all(
        wanted in (-1, length) for wanted, length in zip(expected, shape, strict=True)
    )


def dtype_of(datatype: object, name: str) -> np.dtype[Any]:
    """Return the dtype of a datatype; name: the tensor's, for the refusal."""
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise bad(
            f"input '{name}': the datatype {_shown(datatype)} is none of "
            f"{', '.join(DTYPES)}"
        )
    return DTYPES[datatype]


def shape_of(value: object, name: str) -> Shape:
    """Return a tensor's shape: a list of whole numbers from 0. Raises Refusal."""
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_AXES:
        raise bad(
            f"input '{name}': the shape {_shown(value)} is no list of 1 to {MOST_AXES} "
            "whole numbers"
        )
    for length in value:
        if type(length) is not int or not 0 <= length < 1 << 31:
            raise bad(f"input '{name}': the shape has an axis of {_shown(length)}")
    return tuple(value)


def from_values(
    values: Sequence[Any], dtype: np.dtype[Any], shape: Shape, name: str
) -> Array:
    """Return a tensor of JSON's numbers, in C order, flat or nested as the shape is.

    Raises Refusal for values that are no numbers of the dtype, or not as many.
    """
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError, RecursionError):
        raise bad(f"input '{name}': the data is no list of numbers") from None
    _check_size(array.size, shape, name)
    # An empty list has no numbers to have a kind.
    if array.size and array.dtype.kind not in _KINDS[dtype.kind]:
        raise bad(
            f"input '{name}': the data is not of {DATATYPES[dtype]}"
            f"{'' if array.dtype.kind == 'O' else f', but {array.dtype.name}'}"
        )
    # JSON's numbers may be larger than the dtype's.
    with np.errstate(over="ignore", invalid="ignore"):
        tensor = array.astype(dtype, copy=False).reshape(shape)
    if (
        dtype.kind in "iu"
        and array.size
        and not np.array_equal(tensor.ravel(), array.ravel())
    ):
        raise bad(f"input '{name}': a number is out of {DATATYPES[dtype]}'s range")
    return tensor


def from_bytes(
    data: bytes | memoryview, dtype: np.dtype[Any], shape: Shape, name: str
) -> Array:
    """Return a tensor of raw values, which are not copied. Raises Refusal."""
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise bad(
            f"input '{name}': {len(data)} bytes came, and the shape {list(shape)} of "
            f"{DATATYPES[dtype]} takes {expected}"
        )
    tensor = np.frombuffer(data, dtype).reshape(shape)
    # numpy takes any byte as a boolean, and computes with what it is.
    if dtype.kind == "b" and tensor.size and tensor.view("u1").max() > 1:
        raise bad(f"input '{name}': a BOOL is a byte of 0 or 1")
    return tensor


def to_bytes(tensor: Array) -> bytes:
    """Return a tensor's raw values in C order, little-endian."""
    return tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()


def raw(value: Array | list[list[str]]) -> tuple[bytes, str, list[int]]:
    """Return an output's raw bytes, its datatype and its shape.

    Rows of texts, all of one length, are BYTES: each text's length in four bytes before it.
    """
    if not isinstance(value, list):
        return to_bytes(value), DATATYPES[value.dtype], list(value.shape)
    texts = [text.encode() for row in value for text in row]
    shape = [len(value), len(texts) // (len(value) or 1)]
    blob = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return blob, "BYTES", shape


def to_values(tensor: Array, name: str) -> list[Any]:
    """Return a tensor's values as JSON can carry them, flat in C order.

    Raises Refusal for NaN and infinity, which JSON has no words for.
    """
    values: list[Any] = tensor.ravel().tolist()
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise Refusal(
            500,
            "model",
            f"output '{name}' has values that are no numbers (NaN or infinity), which "
            "JSON cannot carry: ask for binary data",
        )
    return values


def _check_size(size: int, shape: Shape, name: str) -> None:
    expected = math.prod(shape)
    if size != expected:
        raise bad(
            f"input '{name}': {size} values came, and the shape {list(shape)} takes "
            f"{expected}"
        )


def _shown(value: object) -> str:
    """Return a stranger's value, short."""
    # Only what is small by itself is printed: a list may have millions of values.
    if isinstance(value, list):
        return f"of {len(value)} axes" if len(value) > MOST_AXES else str(value)[:80]
    if isinstance(value, str | int | float | None):
        return repr(shortened(str(value)[:200], 60))
    return f"({type(value).__name__})"
