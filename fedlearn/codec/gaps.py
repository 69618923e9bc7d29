"""Three ways to write increasing positions as the gaps between them: `rice`, `gapz` and `lzma`.

Each is a pair of functions: ``write(at, size)`` with ``at`` (k,) int64, strictly increasing and below ``size``, and
``read(source, count, size)`` for the same. Where more than half of the positions are taken, the free ones are written.
"""

from __future__ import annotations

import lzma as xz

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec.bits import Reader, deflate, inflate, pack_bits, unpack_bits
from fedlearn.errors import FormatError
from fedlearn.system.varint import varint

Positions = NDArray[np.int64]

_ESCAPE = 255
_MOST_BITS = 32
_FILTERS = [
    {
        "id": xz.FILTER_LZMA1,
        "dict_size": 2**16,
        "lc": 0,
        "lp": 0,
        "pb": 0,
        "mode": xz.MODE_NORMAL,
        "nice_len": 273,
        "mf": xz.MF_BT4,
    }
]


def write_rice(at: Positions, size: int) -> bytes:
    """Return Golomb-Rice codes (Golomb 1966; Rice 1979) with the low bits and the unary parts in two streams.

    The parameter is the best of those around the mean gap's. Departure: two streams, so that numpy can read them whole.
    """
    gaps = _gaps(at, size)
    if not gaps.size:
        return b""
    middle = max(int(gaps.sum()) // gaps.size, 1).bit_length() - 1
    width = min(
        range(max(middle - 1, 0), middle + 2),
        key=lambda b: int((gaps >> b).sum()) + gaps.size * b,
    )
    ends = np.cumsum(gaps >> width) + np.arange(gaps.size)
    marks = np.zeros(int(ends[-1]) + 1, np.uint8)
    marks[ends] = 1
    unary = np.packbits(marks, bitorder="little").tobytes()
    return b"".join(
        [
            bytes([width]),
            varint(len(unary)),
            unary,
            pack_bits(gaps & (2**width - 1), width),
        ]
    )


def read_rice(source: Reader, count: int, size: int) -> Positions:
    """Return the positions of `write_rice`."""
    written = _written(count, size)
    if not written:
        return _positions(np.empty(0, np.int64), count, size)
    width = source.take(1)[0]
    if width > _MOST_BITS:
        raise FormatError(f"gaps of {width} bits in the payload")
    unary = source.take(source.number(((size >> width) + written + 7) // 8))
    ends = np.flatnonzero(
        np.unpackbits(np.frombuffer(unary, np.uint8), bitorder="little").view(bool)
    )
    if ends.size != written:
        raise FormatError(f"{ends.size} gaps in the payload where {written} are needed")
    at = np.arange(written)
    at += np.cumsum(unpack_bits(source, written, width))
    at += (ends - np.arange(written)) << width
    return _positions(at, count, size)


def write_gapz(at: Positions, size: int) -> bytes:
    """Return the gaps as bytes, deflated."""
    data = deflate(_gap_bytes(at, size))
    return varint(len(data)) + data


def read_gapz(source: Reader, count: int, size: int) -> Positions:
    """Return the positions of `write_gapz`."""
    written = _written(count, size)
    data = source.take(source.number(_longest(written, size)))
    return _from_bytes(inflate(data, written, written + size // _ESCAPE), count, size)


def write_lzma(at: Positions, size: int) -> bytes:
    """Return the gaps as bytes through raw LZMA1: its adaptive binary range coder follows the local density."""
    data = xz.compress(_gap_bytes(at, size), xz.FORMAT_RAW, filters=_FILTERS)
    return varint(len(data)) + data


def read_lzma(source: Reader, count: int, size: int) -> Positions:
    """Return the positions of `write_lzma`."""
    written = _written(count, size)
    data = source.take(source.number(_longest(written, size)))
    stream = xz.LZMADecompressor(xz.FORMAT_RAW, filters=_FILTERS)
    most = written + size // _ESCAPE
    try:
        out = stream.decompress(data, most + 1)
    except (xz.LZMAError, EOFError) as error:
        raise FormatError(f"a range-coded stream is damaged: {error}") from None
    if not stream.eof or stream.unused_data or len(out) > most:
        raise FormatError(f"a range-coded stream is not of {written} to {most} bytes")
    return _from_bytes(out, count, size)


def _longest(written: int, size: int) -> int:
    """Return more bytes than any encoder needs for these gaps."""
    return 2 * (written + size // _ESCAPE) + 64


def _written(count: int, size: int) -> int:
    """Return how many positions are written: the taken ones, or the free ones where these are fewer."""
    return min(count, size - count)


def _gaps(at: Positions, size: int) -> Positions:
    """Return how many positions are skipped before each written one."""
    if 2 * at.size > size:
        free = np.ones(size, bool)
        free[at] = False
        at = np.flatnonzero(free)
    return np.diff(at, prepend=-1) - 1


def _positions(at: Positions, count: int, size: int) -> Positions:
    """Return the taken positions, given the written ones in increasing order."""
    if at.size and int(at[-1]) >= size:
        raise FormatError(f"position {at[-1]} in a payload of {size} values")
    if 2 * count <= size:
        return at
    taken = np.ones(size, bool)
    taken[at] = False
    return np.flatnonzero(taken)


def _gap_bytes(at: Positions, size: int) -> bytes:
    """Return each gap as a byte below 255, after a 255 for every 255 skipped."""
    gaps = _gaps(at, size)
    escapes = gaps // _ESCAPE
    out = np.full(gaps.size + int(escapes.sum()), _ESCAPE, np.uint8)
    out[np.cumsum(escapes) + np.arange(gaps.size)] = gaps % _ESCAPE
    return out.tobytes()


def _from_bytes(data: bytes, count: int, size: int) -> Positions:
    gaps = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(gaps != _ESCAPE)
    if ends.size != _written(count, size) or (gaps.size and gaps[-1] == _ESCAPE):
        raise FormatError(
            f"{ends.size} gaps in the payload where {_written(count, size)} are needed"
        )
    return _positions(
        np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(ends.size), count, size
    )
