"""Arrays as a .npz file of one form: stored, in order, without dates, and without pickle.

``numpy.savez`` puts the time of day into its file, and ``numpy.load`` believes what a file
says of its size. Here the same arrays are the same bytes, and other bytes are refused. So a
hostile file costs no more memory than its own, and no two readers see two things in it. Any
program reads it as a zip file (APPNOTE 6.3, PKWARE).
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import PackageError

_MOST_ARRAYS = 32

# The head of numpy's format 1.0: its mark, the length of a text, and that text.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(<f4|<i8|<i2|\|u1)', 'fortran_order': False, "
    rb"'shape': \(([0-9, ]{0,100})\), \} {0,64}\n",
    re.DOTALL,
)

# The version of zip that reads stored files, 2.0; made on Unix, 3, by the same.
_VERSION = 20
_MADE_BY = 3 << 8 | _VERSION
# 1 January 1980, the first day that a zip file can name.
_DAY = 1 << 5 | 1
# A regular file that everyone may read, as Unix has it in the upper half.
_MODE = 0o100644 << 16

# What stands before an entry's name: marks, version, flags, method, time, day, CRC-32, the
# size twice, and the lengths of name and extra.
_ENTRY = struct.Struct("<4s5H3L2H")
_ENTRY_MARK = b"PK\x03\x04"
# The same in the list at the end, with comment, disk, attributes and where the entry begins.
_LISTED = struct.Struct("<4s6H3L5H2L")
_LISTED_MARK = b"PK\x01\x02"
# How many there are, and where their list begins.
_END = struct.Struct("<4s4H2LH")
_END_MARK = b"PK\x05\x06"

_SUFFIX = b".npy"


def dumps(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Return the file of some arrays, each in C order and little-endian."""
    out = bytearray()
    listed = bytearray()
    for name, array in arrays.items():
        part = _npy(array)
        path = name.encode() + _SUFFIX
        # The fields that both places have: all alike but for the CRC and the sizes.
        shared = (0, 0, 0, _DAY, zlib.crc32(part), len(part), len(part), len(path), 0)
        listed += _LISTED.pack(
            *(_LISTED_MARK, _MADE_BY, _VERSION, *shared, 0, 0, 0, _MODE, len(out))
        )
        listed += path
        out += _ENTRY.pack(_ENTRY_MARK, _VERSION, *shared)
        out += path + part
    count = len(arrays)
    end = _END.pack(_END_MARK, 0, 0, count, count, len(listed), len(out), 0)
    return bytes(out + listed + end)


def loads(data: bytes, file: str) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a file's bytes, by name.

    file: named in errors. Raises PackageError, "golden", for all bytes but those that `dumps`
    gives.
    """
    try:
        arrays = _entries(memoryview(data))
        is_whole = dumps(arrays) == data
    # Sizes that are not there, and heads that are cut short.
    except (ValueError, struct.error):
        is_whole = False
    if not is_whole:
        raise PackageError("golden", f"{file} is no file of arrays in its one form")
    return arrays


def _npy(array: NDArray[np.generic]) -> bytes:
    """Return an array as numpy's own format 1.0 has it."""
    stream = io.BytesIO()
    # Not ascontiguousarray, which makes an axis for an array that has none.
    plain = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    np.lib.format.write_array(stream, plain, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def _entries(data: memoryview) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of the entries one after another. Raises ValueError and others."""
    arrays: dict[str, NDArray[np.generic]] = {}
    start = 0
    while bytes(data[start : start + 4]) == _ENTRY_MARK:
        fields = _ENTRY.unpack_from(data, start)
        name_start = start + _ENTRY.size
        part_start = name_start + fields[9]
        start = part_start + fields[7]
        name = bytes(data[name_start:part_start]).removesuffix(_SUFFIX).decode()
        if name in arrays or len(arrays) == _MOST_ARRAYS or start > len(data):
            raise ValueError(name)
        arrays[name] = _array(bytes(data[part_start:start]))
    return arrays


def _array(part: bytes) -> NDArray[np.generic]:
    """Return one array, whose size is compared with its bytes before it is made."""
    # Not by numpy's own reader: it hands what it does not know to Python's parsers.
    match = _HEADER.match(part)
    if match is None:
        raise ValueError("another header")
    dtype = np.dtype(match[1].decode())
    shape = tuple(int(length) for length in match[2].split(b",") if length.strip())
    values = part[match.end() :]
    if prod(shape) * dtype.itemsize != len(values):
        raise ValueError("another size")
    array: NDArray[np.generic] = np.frombuffer(values, dtype).reshape(shape)
    return array
