"""The IDX format of MNIST and its family: a big-endian header, then the bytes of one array.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits" (1998).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import DataError

# Largest array, 2 GiB. No known IDX set comes near it, so a header or a gzip stream that
# claims more is damaged or hostile.
LIMIT_BYTES = 1 << 31

# The first bytes of a gzip stream.
GZIP = b"\x1f\x8b"

# The header's code for unsigned bytes, the type of all sets of this family.
UNSIGNED_BYTES = 8


def parse_idx(data: bytes, where: str) -> NDArray[np.uint8]:
    """Return the uint8 array of any shape that IDX bytes hold.

    Raises DataError naming ``where`` and the defect.
    """
    if len(data) < 4 or data[:2] != b"\0\0":
        raise DataError(
            f"{where} is not an IDX file: it does not start with two zero bytes"
        )
    kind = data[2]
    dimensions = data[3]
    if kind != UNSIGNED_BYTES:
        raise DataError(
            f"{where} holds IDX type 0x{kind:02x}; only unsigned bytes (0x08) are read"
        )
    # Four bytes of header, then one 32-bit size for each dimension.
    start = 4 + 4 * dimensions
    if dimensions == 0 or len(data) < start:
        raise DataError(f"{where} is cut off within its header")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    # math.prod does not overflow, as numpy's product of hostile sizes would.
    size = math.prod(shape)
    if size != len(data) - start:
        raise DataError(
            f"{where} says shape {shape} = {size:,} bytes, "
            f"but {len(data) - start:,} follow"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array of an IDX file, plain or gzipped, whatever its name says.

    Raises DataError naming the file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(GZIP))
        # Files are renamed, and some browsers unpack what they fetch.
        if head == GZIP:
            with gzip.open(path, "rb") as file:
                return parse_idx(_bounded(file, path), str(path))  # type: ignore[arg-type]
        with path.open("rb") as file:
            return parse_idx(_bounded(file, path), str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read ({error}); fetch or copy it again"
        ) from error


def _bounded(file: BinaryIO, path: Path) -> bytes:
    """Return a file's bytes; raises DataError where there are more than `LIMIT_BYTES`."""
    data = file.read(LIMIT_BYTES + 1)
    if len(data) > LIMIT_BYTES:
        raise DataError(
            f"{path} holds more than {LIMIT_BYTES:,} bytes; "
            "it is no data set of this kind"
        )
    return data
