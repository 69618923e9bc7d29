"""Whole numbers as bits and bytes, in numpy; and a reader that refuses to read past the end."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import FormatError


class Reader:
    """The bytes of a payload, taken from the front; every refusal is a FormatError."""

    def __init__(self, data: bytes | memoryview) -> None:
        """Start at the first byte of bytes, or of a view of bytes."""
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
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
        """Pass over the next ``count`` bytes."""
        if count > self.left:
            raise FormatError(
                f"the payload ends early: {self.left} bytes where {count} are needed"
            )
        self._at += count

    def rest(self) -> bytes:
        """Return all the bytes that are left."""
        return self.take(self.left)

    def number(self, most: int) -> int:
        """Return a number written by `fedlearn.system.varint`, at most ``most``."""
        value = shift = 0
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
            if shift > 63:
                raise FormatError("a number in the payload does not end")


def pack_bits(values: NDArray[np.int64], width: int) -> bytes:
    """Return (n,) numbers below 2**width, at most 32 bits each, as ceil(n width / 8) bytes for each byte of width."""
    parts = []
    while width > 8:
        parts.append((values & 255).astype(np.uint8).tobytes())
        values, width = values >> 8, width - 8
    if width:
        rows = np.zeros((-(-values.size // 8), 8), np.uint64)
        rows.ravel()[: values.size] = values
        words = np.zeros(len(rows), "<u8")  # eight numbers are ``width`` bytes
        for j in range(8):
            words |= rows[:, j] << np.uint64(j * width)
        parts.append(
            words.view(np.uint8)
            .reshape(-1, 8)[:, :width]
            .tobytes()[: -(-values.size * width // 8)]
        )
    return b"".join(parts)


def unpack_bits(source: Reader, count: int, width: int) -> NDArray[np.int64]:
    """Return the (count,) numbers that `pack_bits` wrote."""
    out = np.zeros(count, np.int64)
    shift = 0
    while width > 8:
        out |= np.frombuffer(source.take(count), np.uint8).astype(np.int64) << shift
        shift, width = shift + 8, width - 8
    if width:
        data = np.frombuffer(source.take(-(-count * width // 8)), np.uint8)
        words = np.zeros((-(-count // 8), 8), np.uint8)
        padded = np.zeros(len(words) * width, np.uint8)
        padded[: data.size] = data
        words[:, :width] = padded.reshape(-1, width)
        whole = words.view("<u8")
        rows = np.empty((len(words), 8), np.int64)
        for j in range(8):
            rows[:, j] = (whole[:, 0] >> np.uint64(j * width)) & np.uint64(2**width - 1)
        out |= rows.ravel()[:count] << shift
    return out


def deflate(data: bytes) -> bytes:
    """Return raw deflate: Huffman codes alone, or with repetitions, whichever is smaller."""
    level = (
        6 if len(data) <= 2**16 else 1
    )  # repetitions are rare in long streams, and looking for them is slow
    return min(
        (
            _deflate(data, level, strategy)
            for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY)
        ),
        key=len,
    )


def inflate(data: bytes, least: int, most: int) -> bytes:
    """Return what `deflate` was given, ``least`` to ``most`` bytes; never holds more than that."""
    stream = zlib.decompressobj(-15)
    try:
        out = stream.decompress(data, most + 1)
    except zlib.error as error:
        raise FormatError(f"a deflated stream is damaged: {error}") from None
    if not stream.eof or stream.unused_data or not least <= len(out) <= most:
        raise FormatError(f"a deflated stream is not of {least} to {most} bytes")
    return out


def _deflate(data: bytes, level: int, strategy: int) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    return stream.compress(data) + stream.flush()
