"""Whole numbers as bits and bytes, in numpy; and a reader that refuses to pass the end."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import FormatError

# Values that codecs work on at a time: a quarter of a megabyte stays in a core's cache.
TOGETHER = 65_536

# zlib's window of 2**15 bytes; the minus asks for raw deflate, without head and checksum.
_RAW_WINDOW = -15

# zlib's highest: its blocks are longer, hence there are fewer Huffman tables.
_MEMORY_LEVEL = 9

# Bytes above which repetitions are rare, and looking hard for them is slow.
_LONG_STREAM = 2**16


def ceil_div(count: int, size: int) -> int:
    """Return ``count / size``, rounded up."""
    return -(-count // size)


class Reader:
    """The bytes of a payload, taken from the front; every refusal is a FormatError."""

    def __init__(self, data: bytes | memoryview) -> None:
        """Start at the first byte of bytes, or of a view of bytes."""
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes; raises FormatError where there are fewer."""
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise FormatError(
                f"the payload ends early: {len(part)} bytes where {count} are needed"
            )
        self._at += count
        return bytes(part)

    @property
    def at(self) -> int:
        """Return how many bytes were taken."""
        return self._at

    @property
    def left(self) -> int:
        """Return how many bytes are left."""
        return len(self._data) - self._at

    def skip(self, count: int) -> None:
        """Pass over the next ``count`` bytes; raises FormatError where there are fewer."""
        if count > self.left:
            raise FormatError(
                f"the payload ends early: {self.left} bytes where {count} are needed"
            )
        self._at += count

    def rest(self) -> bytes:
        """Return all the bytes that are left."""
        return self.take(self.left)

    def number(self, most: int) -> int:
        """Return a number that `fedlearn.system.varint` wrote.

        Raises FormatError above ``most``.
        """
        value = 0
        shift = 0
        # Byte by byte, because the number's own length is not known before its end.
        while True:
            if self._at >= len(self._data):
                raise FormatError("the payload ends early, within a number")
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            shift += 7
            if value > most:
                raise FormatError(
                    f"the payload says {value} where at most {most} is possible"
                )
            if byte < 128:
                return value
            # Zeros may follow one another without the value ever passing the limit.
            if shift > 63:
                raise FormatError("a number in the payload does not end")


def pack_bits(values: NDArray[np.int64], width: int) -> bytes:
    """Return numbers (n,) below 2**width, at most 32 bits each, as bytes.

    Their low bytes stand first, n of them for each whole byte of width; then what is left
    of the width, in ⌈n · bits / 8⌉ bytes.
    """
    parts = []
    # Whole bytes of each number need no shifting: one pass over the array each.
    while width > 8:
        parts.append((values & 255).astype(np.uint8).tobytes())
        values = values >> 8
        width -= 8
    if width:
        count = ceil_div(values.size, 8)
        rows = np.zeros((count, 8), np.uint64)
        rows.ravel()[: values.size] = values
        # Eight numbers are ``width`` bytes: one 64-bit word holds them.
        words = np.zeros(count, "<u8")
        for column in range(8):
            shift = np.uint64(column * width)
            words |= rows[:, column] << shift
        word_bytes = words.view(np.uint8).reshape(-1, 8)
        packed = word_bytes[:, :width].tobytes()
        # Without the bytes of the numbers that only fill the last word.
        length = ceil_div(values.size * width, 8)
        parts.append(packed[:length])
    return b"".join(parts)


def unpack_bits(source: Reader, count: int, width: int) -> NDArray[np.int64]:
    """Return the numbers (count,) that `pack_bits` wrote; raises FormatError."""
    values = np.zeros(count, np.int64)
    shift = 0
    while width > 8:
        low_bytes = np.frombuffer(source.take(count), np.uint8)
        values |= low_bytes.astype(np.int64) << shift
        shift += 8
        width -= 8
    if width:
        rows = _unpack_rows(source, count, width)
        values |= rows.ravel()[:count] << shift
    return values


def _unpack_rows(source: Reader, count: int, width: int) -> NDArray[np.int64]:
    """Return numbers of at most 8 bits, eight to a row."""
    length = ceil_div(count * width, 8)
    data = np.frombuffer(source.take(length), np.uint8)
    # Eight numbers are ``width`` bytes, which the low end of a 64-bit word holds.
    words = np.zeros((ceil_div(count, 8), 8), np.uint8)
    padded = np.zeros(len(words) * width, np.uint8)
    padded[: data.size] = data
    words[:, :width] = padded.reshape(-1, width)

    numbers = words.view("<u8")[:, 0]
    mask = np.uint64(2**width - 1)
    rows = np.empty((len(words), 8), np.int64)
    for column in range(8):
        shift = np.uint64(column * width)
        rows[:, column] = (numbers >> shift) & mask
    return rows


def deflate(data: bytes) -> bytes:
    """Return raw deflate: Huffman codes alone, or with repetitions, the smaller one."""
    # Both are tried: repetitions pay only where neighbouring values agree.
    level = 6 if len(data) <= _LONG_STREAM else 1
    huffman = _deflate(data, level, zlib.Z_HUFFMAN_ONLY)
    repeating = _deflate(data, level, zlib.Z_DEFAULT_STRATEGY)
    return min(huffman, repeating, key=len)


def inflate(data: bytes, least: int, most: int) -> bytes:
    """Return what `deflate` was given; never holds more than ``most`` bytes.

    Raises FormatError for a damaged stream, and outside ``least`` to ``most`` bytes.
    """
    stream = zlib.decompressobj(_RAW_WINDOW)
    try:
        # One byte more, so that a stream that is too long is seen to be.
        inflated = stream.decompress(data, most + 1)
    except zlib.error as error:
        raise FormatError(f"a deflated stream is damaged: {error}") from None
    if not stream.eof or stream.unused_data or not least <= len(inflated) <= most:
        raise FormatError(f"a deflated stream is not of {least} to {most} bytes")
    return inflated


def _deflate(data: bytes, level: int, strategy: int) -> bytes:
    stream = zlib.compressobj(
        level, zlib.DEFLATED, _RAW_WINDOW, _MEMORY_LEVEL, strategy
    )
    return stream.compress(data) + stream.flush()
