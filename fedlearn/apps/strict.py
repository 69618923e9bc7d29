"""Replies of agents, read as a stranger's: every size is checked before it is believed.

What `fedlearn.apps.messages.unpacked` reads is Flower's protobuf and our payloads. Both end
with the bytes that are there. Only numpy's own header inside of an array could ask for more
memory than it has bytes, so it is read here first.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from math import prod

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.lib import format as npy

from fedlearn.apps.messages import unpacked
from fedlearn.errors import FormatError, PayloadError, reason_of

# Records of one reply, and arrays of one record.
MOST_RECORDS = 10_000
MOST_ARRAYS = 100_000

_NUMPY = "numpy.ndarray"


def unpack(
    payload: bytes,
    bases: Mapping[str, ArrayRecord],
    originals: Mapping[str, ArrayRecord] | None = None,
) -> RecordDict:
    """Return the content of an agent's reply.

    bases: the records that the agent was sent. originals: see
    `fedlearn.apps.messages.unpacked`. Raises PayloadError for anything else than
    Flower's records, and for arrays that are not as long as they say.
    """
    try:
        # Never None, which would let a reply have first records: zeros of any shape.
        content = unpacked(payload, bases, originals or {})
    except PayloadError:
        raise
    # Whatever protobuf, Flower or a codec makes of bytes that nobody checked.
    except Exception as error:
        raise FormatError(f"these are no records: {reason_of(error)}") from error
    # Each takes far more memory than the two bytes that it has at least.
    if len(content) > MOST_RECORDS:
        raise FormatError(f"{len(content)} records; at most {MOST_RECORDS} are taken")
    for name, record in content.array_records.items():
        _check_record(name, record, bases)
    return content


def _check_record(
    name: str, record: ArrayRecord, bases: Mapping[str, ArrayRecord]
) -> None:
    if len(record) > MOST_ARRAYS:
        raise FormatError(
            f"the record '{name}' has {len(record)} arrays; at most {MOST_ARRAYS} are taken"
        )
    for key, array in record.items():
        # Other kinds, such as a model's own file, are bytes to us and the app's to read.
        if array.stype == _NUMPY:
            _check_array(f"the array '{key}' of '{name}'", array)


def _check_array(what: str, array: Array) -> None:
    """Raise FormatError unless an array has the form, and the bytes, that it says."""
    stream = BytesIO(array.data)
    try:
        shape, dtype = _header(stream)
    # Its reader evaluates literals, and raises what these raise.
    except Exception as error:
        raise FormatError(f"{what} is no array of numpy") from error
    # They would be unpickled, which runs code.
    if dtype.hasobject:
        raise FormatError(f"{what} holds Python's objects, which are not taken")
    # Python's own whole numbers: they do not overflow.
    size = prod(shape) * dtype.itemsize
    rest = len(array.data) - stream.tell()
    if size != rest:
        raise FormatError(f"{what} says {size} bytes and has {rest}")
    # A strategy looks at one of them, and Flower's numpy() at the other.
    if str(dtype) != array.dtype or list(shape) != list(array.shape):
        raise FormatError(
            f"{what} says {array.dtype} {tuple(array.shape)} and is {dtype} {shape}"
        )


def _header(stream: BytesIO) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of an array's file, whose values come next."""
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(stream)
    else:
        raise ValueError("a version that Flower does not write")
    # A negative length would take others' bytes into account.
    if any(length < 0 for length in shape):
        raise ValueError("a length below 0")
    return shape, dtype
