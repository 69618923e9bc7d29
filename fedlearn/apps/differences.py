"""A record's float arrays as the difference from another record's, through our codecs.

Both ends hold the base. The wire's payload carries the difference as float32; the arrays
come back in their own dtype. Statistics that torch keeps beside its weights travel as
values, which no codec may round: a variance must not fall below 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def alike(record: ArrayRecord, base: ArrayRecord) -> tuple[str, ...]:
    """Return the arrays of a record that may travel as differences from a base's.

    They are floats of one shape and dtype in both. There are none unless both records have
    the same names in one order.
    """
    # In one order, so that no names have to travel.
    if list(record) != list(base):
        return ()
    return tuple(
        name
        for name, array in record.items()
        if is_float(array) and _form(array) == _form(base[name])
    )


def _form(array: Array) -> tuple[str, tuple[int, ...], str]:
    return array.dtype, tuple(array.shape), array.stype


def is_float(array: Array) -> bool:
    """Return whether an array's values are floats that our codecs carry."""
    # One without bytes is an app's odd array, or one of `form_of`.
    return _has_floats(array) and bool(array.data)


def _has_floats(array: Array) -> bool:
    return array.stype == _NUMPY and array.dtype in _FLOATS


def form_of(record: ArrayRecord) -> tuple[ArrayRecord, tuple[str, ...]]:
    """Return a record with its floats taken out, and the names of these.

    Their names, dtypes and shapes stay, so that `zeros` can be made from it.
    """
    form = ArrayRecord()
    names: list[str] = []
    for name, array in record.items():
        if is_float(array):
            form[name] = Array(array.dtype, array.shape, array.stype, b"")
            names.append(name)
        else:
            form[name] = array
    return form, tuple(names)


def zeros(form: ArrayRecord) -> tuple[ArrayRecord, dict[str, Array]]:
    """Return a record of `form_of` with zeros for its floats, and its other arrays."""
    record = ArrayRecord()
    rest: dict[str, Array] = {}
    for name, array in form.items():
        if _has_floats(array) and not array.data:
            record[name] = Array(np.zeros(tuple(array.shape), array.dtype))
        else:
            record[name] = array
            rest[name] = array
    return record, rest


def layout_of(record: ArrayRecord, names: Sequence[str]) -> Layout:
    """Return the order of some of a record's arrays."""
    entries = []
    for name in names:
        # What is not trained travels as values, next to the codec's body.
        trained = name.rpartition(".")[2] not in _STATISTICS
        entries.append(Entry(name, tuple(record[name].shape), "float32", trained))
    return Layout(tuple(entries))


def encoded(
    record: ArrayRecord, base: ArrayRecord, names: Sequence[str], codec: str, seed: int
) -> bytes:
    """Return the payload of the difference of arrays that are `alike` in two records.

    Raises PayloadError for values that the codec cannot carry, such as NaN.
    """
    layout = layout_of(base, names)
    base_floats = _flat(base, names)
    floats = _flat(record, names)
    with np.errstate(over="ignore", invalid="ignore"):
        difference = (floats - base_floats).astype(np.float32)
    buffers = layout.buffers_at
    difference[buffers] = floats[buffers]
    # The digest tells a receiver that holds other arrays, before it adds to them.
    header = Header(UPDATE, 0, digest(_rounded(base_floats)), codec, seed)
    return encode(layout, header, State(difference, np.empty(0, np.int64)))


def decoded(
    data: bytes,
    base: ArrayRecord,
    rest: Mapping[str, Array],
    onto: ArrayRecord | None = None,
) -> ArrayRecord:
    """Return the record that a payload of `encoded` leads to from its base.

    rest: the arrays that travelled as they are. onto: the record that the difference is
    added to in the base's place, alike to it. Raises PayloadError for a payload of another
    record or from another base.
    """
    names = [name for name in base if name not in rest]
    layout = layout_of(base, names)
    header, change = decode(layout, data, (UPDATE,))
    base_floats = _flat(base, names)
    if header.digest != digest(_rounded(base_floats)):
        raise PayloadError("the difference is from other arrays than those held here")
    change_floats = change.dense().floats
    start_floats = base_floats if onto is None else _flat(onto, names)
    floats = start_floats + change_floats
    buffers = layout.buffers_at
    floats[buffers] = change_floats[buffers]
    return _record(base, floats, rest)


def _flat(record: ArrayRecord, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the floats (P,) of some of a record's arrays.

    float64: it holds each of the dtypes exactly.
    """
    parts = [np.empty(0)]
    for name in names:
        parts.append(record[name].numpy().reshape(-1).astype(np.float64))
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
        if name in rest:
            record[name] = rest[name]
            continue
        size = int(np.prod(array.shape, dtype=np.int64))
        values = floats[start : start + size].reshape(array.shape)
        start += size
        with np.errstate(over="ignore"):
            # An app's own dtype: torch would refuse to load another.
            record[name] = Array(values.astype(array.dtype))
    return record
