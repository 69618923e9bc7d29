"""A record's float arrays as the difference from another record's, through our codecs.

Both ends hold the base. The wire's payload carries the difference as float32; the arrays
come back in their own dtype. Statistics that torch keeps beside its weights travel as
values, which no codec may round: a variance must not fall below 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedlearn.arrays import Entry, Layout, State
from fedlearn.errors import PayloadError
from fedlearn.wire import UPDATE, Header, decode, digest, encode

# How numpy arrays are named in Flower's records; other kinds are opaque bytes.
_NUMPY = "numpy.ndarray"

# The dtypes whose differences travel as float32.
_FLOATS = ("float32", "float16", "float64")

# The last part of the names of torch's statistics (BatchNorm and its like).
_STATISTICS = ("running_mean", "running_var")

Arrays = dict[str, NDArray[Any]]


def alike(record: ArrayRecord, base: ArrayRecord) -> bool:
    """Return whether two records have the same names, shapes and dtypes, in one order.

    And at least one array of floats, without which there is nothing to encode.
    """
    if list(record) != list(base):
        return False
    pairs = zip(record.values(), base.values(), strict=True)
    if any(_form(array) != _form(other) for array, other in pairs):
        return False
    return any(_is_float(array) for array in record.values())


def _form(array: Array) -> tuple[str, tuple[int, ...], str]:
    return array.dtype, tuple(array.shape), array.stype


def _is_float(array: Array) -> bool:
    return array.stype == _NUMPY and array.dtype in _FLOATS


def layout_of(record: ArrayRecord) -> Layout:
    """Return the order of a record's float arrays."""
    entries = []
    for name, array in record.items():
        if _is_float(array):
            trained = name.rpartition(".")[2] not in _STATISTICS
            entries.append(Entry(name, tuple(array.shape), "float32", trained))
    return Layout(tuple(entries))


def encoded(record: ArrayRecord, base: ArrayRecord, codec: str, seed: int) -> bytes:
    """Return the payload of the difference of the float arrays of two records `alike`.

    Raises PayloadError for values that the codec cannot carry, such as NaN.
    """
    layout = layout_of(base)
    base_floats = _flat(base)
    with np.errstate(over="ignore", invalid="ignore"):
        difference = (_flat(record) - base_floats).astype(np.float32)
    buffers = layout.buffers_at
    difference[buffers] = _flat(record)[buffers]
    header = Header(UPDATE, 0, digest(_rounded(base_floats)), codec, seed)
    return encode(layout, header, State(difference, np.empty(0, np.int64)))


def decoded(data: bytes, base: ArrayRecord, rest: Mapping[str, Array]) -> ArrayRecord:
    """Return the record that a payload of `encoded` leads to from its base.

    rest: the arrays that are no floats, as they were sent. Raises PayloadError for a
    payload of another record or from another base.
    """
    layout = layout_of(base)
    header, change = decode(layout, data, (UPDATE,))
    base_floats = _flat(base)
    if header.digest != digest(_rounded(base_floats)):
        raise PayloadError("the difference is from other arrays than those held here")
    change_floats = change.dense().floats
    floats = base_floats + change_floats
    buffers = layout.buffers_at
    floats[buffers] = change_floats[buffers]
    return _record(base, floats, rest)


def others(record: ArrayRecord) -> dict[str, Array]:
    """Return a record's arrays that are no floats: they travel as they are."""
    return {name: array for name, array in record.items() if not _is_float(array)}


def _flat(record: ArrayRecord) -> NDArray[np.float64]:
    """Return a record's floats (P,), in its order.

    float64: it holds each of the dtypes exactly.
    """
    parts = [np.empty(0)]
    for array in record.values():
        if _is_float(array):
            parts.append(array.numpy().reshape(-1).astype(np.float64))
    return np.concatenate(parts)


def _rounded(floats: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return floats.astype(np.float32)


def _record(
    base: ArrayRecord, floats: NDArray[np.float64], rest: Mapping[str, Array]
) -> ArrayRecord:
    record = ArrayRecord()
    start = 0
    for name, array in base.items():
        if not _is_float(array):
            record[name] = rest[name]
            continue
        size = int(np.prod(array.shape, dtype=np.int64))
        values = floats[start : start + size].reshape(array.shape)
        start += size
        with np.errstate(over="ignore"):
            record[name] = Array(values.astype(array.dtype))
    return record
