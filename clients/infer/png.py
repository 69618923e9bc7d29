"""PNG pictures as arrays, by the standard library alone: a board needs no package for them.

Source: the PNG specification (W3C, third edition, 2025). What cameras' and training sets'
files do not have is refused: interlacing, and 16 bits a channel.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import DataError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Colour type → channels in the file: gray, colours, palette, gray and colours with alpha.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE = 3

# Values of a picture, after which it is no sample of a model on a board.
MOST_VALUES = 64 << 20

_FILTERS = 5


def read(data: bytes, name: str) -> NDArray[np.uint8]:
    """Return a picture's pixels, (H, W, C) uint8, C of 1 to 4. Raises DataError."""
    try:
        return _read(data, name)
    except (struct.error, zlib.error, IndexError, ValueError) as error:
        raise DataError(f"'{name}' is a damaged PNG picture: {error}") from None


def _read(data: bytes, name: str) -> NDArray[np.uint8]:
    if not data.startswith(_SIGNATURE):
        raise DataError(f"'{name}' is no PNG picture")
    chunks = _chunks(data)
    kind, head = next(chunks, (b"", b""))
    if kind != b"IHDR":
        raise ValueError("it does not begin with its size")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", head)
    channels = _CHANNELS.get(colour)
    if channels is None or depth not in (1, 2, 4, 8) or interlace:
        raise DataError(
            f"'{name}': a PNG picture of {depth} bits a channel"
            f"{', interlaced' if interlace else ''}; only 1 to 8 bits, not interlaced, "
            "can be read: convert it"
        )
    if not 0 < width * height * 4 <= MOST_VALUES:
        raise DataError(f"'{name}': {width} x {height} pixels are too many")
    palette = b""
    packed = []
    for kind, chunk in chunks:
        if kind == b"PLTE":
            palette = chunk
        elif kind == b"IDAT":
            packed.append(chunk)
    row_bytes = (width * channels * depth + 7) // 8
    lines = _inflated(b"".join(packed), height * (row_bytes + 1))
    rows = _unfiltered(
        lines.reshape(height, row_bytes + 1), max(1, channels * depth // 8)
    )
    return _pixels(
        rows, width, channels, depth, palette if colour == _PALETTE else None
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks' kinds and contents up to the end of the picture."""
    start = len(_SIGNATURE)
    while True:
        length, kind = struct.unpack_from(">I4s", data, start)
        content = data[start + 8 : start + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, start + 8 + length)
        if zlib.crc32(kind + content) != checksum:
            raise ValueError("a checksum is wrong")
        if kind == b"IEND":
            return
        yield kind, content
        start += 12 + length


def _inflated(packed: bytes, size: int) -> NDArray[np.uint8]:
    """Return so many bytes; no more are ever made, whatever a bomb holds."""
    data = zlib.decompressobj().decompress(packed, size)
    if len(data) != size:
        raise ValueError("it has too few pixels")
    return np.frombuffer(data, np.uint8)


def _unfiltered(lines: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return rows (H, bytes) from filtered lines (H, 1 + bytes).

    step: bytes between a byte and the one to its left in the specification's sense.
    """
    height = len(lines)
    rows = np.zeros((height, lines.shape[1] - 1), np.uint8)
    above = np.zeros(rows.shape[1], np.uint8)
    for index in range(height):
        kind = int(lines[index, 0])
        line = lines[index, 1:]
        if kind >= _FILTERS:
            raise ValueError("a line has an unknown filter")
        if kind == 0:
            rows[index] = line
        elif kind == 1:
            # Differences to the left: sums that wrap, for each byte of a pixel apart.
            for offset in range(step):
                rows[index, offset::step] = np.add.accumulate(
                    line[offset::step], dtype=np.uint8
                )
        elif kind == 2:
            rows[index] = line + above
        else:
            rows[index] = _predicted(line.tolist(), above.tolist(), step, kind == 4)
        above = rows[index]
    return rows


def _predicted(
    line: list[int], above: list[int], step: int, is_paeth: bool
) -> NDArray[np.uint8]:
    """Return a row whose bytes follow from their neighbours: Average, or Paeth (1991)."""
    row = bytearray(len(line))
    for index, value in enumerate(line):
        nearest = row[index - step] if index >= step else 0
        upper = above[index]
        if not is_paeth:
            row[index] = (value + (nearest + upper) // 2) & 255
            continue
        corner = above[index - step] if index >= step else 0
        row[index] = (value + _paeth(nearest, upper, corner)) & 255
    return np.frombuffer(bytes(row), np.uint8)


def _paeth(left: int, upper: int, corner: int) -> int:
    """Return the neighbour that is nearest to left + upper - corner."""
    estimate = left + upper - corner
    to_left = abs(estimate - left)
    to_upper = abs(estimate - upper)
    to_corner = abs(estimate - corner)
    if to_left <= to_upper and to_left <= to_corner:
        return left
    return upper if to_upper <= to_corner else corner


def _pixels(
    rows: NDArray[np.uint8],
    width: int,
    channels: int,
    depth: int,
    palette: bytes | None,
) -> NDArray[np.uint8]:
    """Return rows of bytes as pixels (H, W, C), spread over 0 to 255."""
    if depth < 8:
        bits = np.unpackbits(rows, axis=1)
        weights = 1 << np.arange(depth)[::-1]
        rows = (bits.reshape(len(rows), -1, depth) @ weights).astype(np.uint8)
        rows = rows[:, : width * channels]
        # Gray of fewer bits reaches white all the same; a palette's are numbers.
        if palette is None:
            rows = rows * np.uint8(255 // ((1 << depth) - 1))
    pixels = rows.reshape(len(rows), width, channels)
    if palette is None:
        return pixels
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    return colours[pixels[..., 0]]


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Return a key that puts "9.png" before "10.png", as people count."""
    key = []
    for is_number, group in itertools.groupby(name, str.isdecimal):
        text = "".join(group)
        key.append((0, int(text), "") if is_number else (1, 0, text))
    return key
