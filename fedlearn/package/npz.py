"""Arrays as a .npz file of one form: stored, in order, without dates, and without pickle.

``numpy.savez`` puts the time of day into its file, and ``numpy.load`` believes what a file
says of its size. Here the same arrays are the same bytes, and a hostile file costs no more
memory than its bytes.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import PackageError

# The first day that a zip file can name.
_DAY = (1980, 1, 1, 0, 0, 0)

# A regular file that everyone may read, as Unix has it in a zip file.
_MODE = 0o100644 << 16
_UNIX = 3

_DTYPES = ("<f4", "<i8", "<i2", "|u1")
_MOST_ARRAYS = 32

# Of an array's own header, which Python's parser reads.
_MOST_HEADER_BYTES = 1000


def dumps(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Return the file of some arrays, each in C order and little-endian."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            little = array.dtype.newbyteorder("<")
            part = io.BytesIO()
            # Not ascontiguousarray, which makes an axis for an array that has none.
            plain = np.asarray(array, dtype=little, order="C")
            np.lib.format.write_array(part, plain, version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", _DAY)
            entry.create_system = _UNIX
            entry.external_attr = _MODE
            archive.writestr(entry, part.getvalue())
    return stream.getvalue()


def loads(data: bytes, file: str) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a file's bytes, by name.

    file: named in errors. Raises PackageError, "golden", for every file but one that `dumps`
    could have made.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_entries(entries, file)
            for entry in entries:
                part = archive.read(entry)
                arrays[entry.filename.removesuffix(".npy")] = _array(part, file)
    # What the zip reader and numpy's header raise for damaged bytes.
    except (
        *(zipfile.BadZipFile, NotImplementedError, struct.error, zlib.error),
        *(ValueError, OSError, EOFError, KeyError, RuntimeError, SyntaxError),
        *(TypeError, OverflowError, MemoryError, RecursionError),
    ):
        raise PackageError("golden", f"{file} cannot be read") from None
    return arrays


def _check_entries(entries: list[zipfile.ZipInfo], file: str) -> None:
    names = [entry.filename for entry in entries]
    if len(names) > _MOST_ARRAYS or len(set(names)) < len(names):
        raise PackageError("golden", f"{file} has other arrays than a package's")
    for entry in entries:
        # Stored: nothing that could grow while it is unpacked.
        is_stored = entry.compress_type == zipfile.ZIP_STORED
        is_plain = entry.file_size == entry.compress_size and not entry.flag_bits & 1
        if not is_stored or not is_plain or not entry.filename.endswith(".npy"):
            raise PackageError(
                "golden", f"{file} has an entry that is not stored plainly"
            )


def _array(part: bytes, file: str) -> NDArray[np.generic]:
    """Return one array, whose size is compared with its bytes before it is made."""
    stream = io.BytesIO(part)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise PackageError("golden", f"{file} has an array of another format")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(
        stream, max_header_size=_MOST_HEADER_BYTES
    )
    values = part[stream.tell() :]
    size = prod(shape) * dtype.itemsize
    if dtype.str not in _DTYPES or is_fortran or size != len(values):
        raise PackageError("golden", f"{file} has an array of another kind or size")
    array: NDArray[np.generic] = np.frombuffer(values, dtype).reshape(shape)
    return array
