"""Three ways to write increasing positions as the gaps between them.

`rice`, `gapz` and `lzma` are pairs of functions: ``write(positions, size)`` with (k,)
int64, strictly increasing and below ``size``, and ``read(source, count, size)`` for the
same. Where more than half of the positions are taken, the free ones are written.

Legend: k positions, of which min(k, size - k) are written.
"""

from __future__ import annotations

import lzma as xz

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec.bits import (
    Reader,
    ceil_div,
    deflate,
    inflate,
    pack_bits,
    unpack_bits,
)
from fedlearn.errors import FormatError
from fedlearn.system.varint import varint

Positions = NDArray[np.int64]

# In gaps as bytes: another 255 are skipped.
_ESCAPE = 255

# What `unpack_bits` can read of a gap.
_MAX_WIDTH = 32

# Gaps as bytes are no text: without context bits (lc, lp, pb) each byte is coded by how
# often it occurred so far. `nice_len` and `mf` search for repetitions hardest.
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


def write_rice(positions: Positions, size: int) -> bytes:
    """Return Golomb-Rice codes (Golomb 1966; Rice 1979).

    Departure: the low bits and the unary parts are two streams, so that numpy can read
    them whole.
    """
    gaps = _gaps(positions, size)
    if not gaps.size:
        return b""
    width = _rice_width(gaps)

    # A gap's upper part u is u zeros and a one.
    ends = np.cumsum(gaps >> width) + np.arange(gaps.size)
    marks = np.zeros(int(ends[-1]) + 1, np.uint8)
    marks[ends] = 1
    unary = np.packbits(marks, bitorder="little").tobytes()

    low_bits = pack_bits(gaps & (2**width - 1), width)
    return b"".join([bytes([width]), varint(len(unary)), unary, low_bits])


def read_rice(source: Reader, count: int, size: int) -> Positions:
    """Return the positions of `write_rice`; raises FormatError for other bytes."""
    written = _written_count(count, size)
    if not written:
        return _positions(np.empty(0, np.int64), count, size)

    width = source.take(1)[0]
    if width > _MAX_WIDTH:
        raise FormatError(f"gaps of {width} bits in the payload")

    # A one for each gap, and as many zeros as the upper parts can add up to.
    longest = ceil_div((size >> width) + written, 8)
    unary = np.frombuffer(source.take(source.number(longest)), np.uint8)
    ends = np.flatnonzero(np.unpackbits(unary, bitorder="little").view(bool))
    if ends.size != written:
        raise FormatError(f"{ends.size} gaps in the payload where {written} are needed")

    # Position j is j written ones before it, plus the gaps so far: low and upper parts.
    numbers = np.arange(written)
    positions = numbers + np.cumsum(unpack_bits(source, written, width))
    positions += (ends - numbers) << width
    return _positions(positions, count, size)


def write_gapz(positions: Positions, size: int) -> bytes:
    """Return the gaps as bytes, deflated."""
    data = deflate(_gap_bytes(positions, size))
    return varint(len(data)) + data


def read_gapz(source: Reader, count: int, size: int) -> Positions:
    """Return the positions of `write_gapz`; raises FormatError for other bytes."""
    written = _written_count(count, size)
    data = source.take(source.number(_max_bytes(written, size)))
    gaps = inflate(data, written, written + size // _ESCAPE)
    return _from_gap_bytes(gaps, count, size)


def write_lzma(positions: Positions, size: int) -> bytes:
    """Return the gaps as bytes through raw LZMA1.

    Its adaptive binary range coder follows the local density.
    """
    gaps = _gap_bytes(positions, size)
    data = xz.compress(gaps, xz.FORMAT_RAW, filters=_FILTERS)
    return varint(len(data)) + data


def read_lzma(source: Reader, count: int, size: int) -> Positions:
    """Return the positions of `write_lzma`; raises FormatError for other bytes."""
    written = _written_count(count, size)
    data = source.take(source.number(_max_bytes(written, size)))
    stream = xz.LZMADecompressor(xz.FORMAT_RAW, filters=_FILTERS)
    limit = written + size // _ESCAPE

    try:
        # One byte more, so that a stream that is too long is seen to be.
        gaps = stream.decompress(data, limit + 1)
    except (xz.LZMAError, EOFError) as error:
        raise FormatError(f"a range-coded stream is damaged: {error}") from None
    if not stream.eof or stream.unused_data or len(gaps) > limit:
        raise FormatError(f"a range-coded stream is not of {written} to {limit} bytes")
    return _from_gap_bytes(gaps, count, size)


def _rice_width(gaps: Positions) -> int:
    """Return the low bits per gap that take fewest bytes, near those of the mean gap."""
    mean_gap = int(gaps.sum()) // gaps.size
    middle = max(mean_gap, 1).bit_length() - 1
    best_width = 0
    fewest_bits = None
    for width in range(max(middle - 1, 0), middle + 2):
        unary_bits = int((gaps >> width).sum())
        bits = unary_bits + gaps.size * width
        if fewest_bits is None or bits < fewest_bits:
            best_width = width
            fewest_bits = bits
    return best_width


def _max_bytes(written: int, size: int) -> int:
    """Return more bytes than any encoder needs for these gaps."""
    gap_bytes = written + size // _ESCAPE
    return 2 * gap_bytes + 64


def _written_count(count: int, size: int) -> int:
    """Return how many positions are written: the taken, or the free where fewer."""
    return min(count, size - count)


def _gaps(positions: Positions, size: int) -> Positions:
    """Return how many positions are skipped before each written one."""
    # The free positions are fewer: they are written in place of the taken ones.
    if 2 * positions.size > size:
        free = np.ones(size, bool)
        free[positions] = False
        positions = np.flatnonzero(free)
    return np.diff(positions, prepend=-1) - 1


def _positions(written: Positions, count: int, size: int) -> Positions:
    """Return the taken positions, given the written ones in increasing order."""
    if written.size and int(written[-1]) >= size:
        raise FormatError(f"position {written[-1]} in a payload of {size} values")
    if 2 * count <= size:
        return written
    is_taken = np.ones(size, bool)
    is_taken[written] = False
    return np.flatnonzero(is_taken)


def _gap_bytes(positions: Positions, size: int) -> bytes:
    """Return each gap as a byte below 255, after a 255 for every 255 skipped."""
    gaps = _gaps(positions, size)
    escapes = gaps // _ESCAPE
    length = gaps.size + int(escapes.sum())
    # All escapes; the other bytes are written over.
    data = np.full(length, _ESCAPE, np.uint8)
    # A gap's own byte follows all escapes up to it.
    ends = np.cumsum(escapes) + np.arange(gaps.size)
    data[ends] = gaps % _ESCAPE
    return data.tobytes()


def _from_gap_bytes(data: bytes, count: int, size: int) -> Positions:
    """Return the positions of `_gap_bytes`; raises FormatError."""
    gaps = np.frombuffer(data, np.uint8)
    # A byte below 255 ends a gap; escapes at the end of the data would end none.
    ends = np.flatnonzero(gaps != _ESCAPE)
    written = _written_count(count, size)
    if ends.size != written or (gaps.size and gaps[-1] == _ESCAPE):
        raise FormatError(f"{ends.size} gaps in the payload where {written} are needed")
    positions = np.cumsum(gaps, dtype=np.int64)[ends]
    positions += np.arange(ends.size)
    return _positions(positions, count, size)
