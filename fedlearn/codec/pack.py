"""How the positions of sent values become bytes, and their quantised values smaller.

The bytes of a sparse vector: a mode (the way that the positions are written, plus 16
where the values are deflated), the number k of positions, the positions, the values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlearn.codec import Context
from fedlearn.codec.bits import Reader, deflate, inflate
from fedlearn.codec.gaps import (
    Positions,
    read_gapz,
    read_lzma,
    read_rice,
    write_gapz,
    write_lzma,
    write_rice,
)
from fedlearn.codec.grid import read_grid, write_grid
from fedlearn.errors import FormatError
from fedlearn.system.varint import varint

# The ways to write positions, as payloads number them.
RICE = 0
GAPZ = 1
LZMA = 2
GRID = 3

# In a mode: the way, and whether the values are deflated.
_WAY_BITS = 15
_DEFLATED = 16

# Positions up to which the range coder, 1 ms for 4,000 of them, is tried where no way is
# asked for: the grid beats it on large models.
_RANGE_UP_TO = 10_000


@dataclass(frozen=True)
class PackedValues:
    """The bytes of the values, as a payload has them."""

    data: bytes
    deflated: bool

    def body(self, length: int) -> bytes:
        """Return the ``length`` bytes that the quantiser wrote.

        Raises FormatError for a deflated stream of another length; a quantiser refuses
        one that is not deflated itself.
        """
        if self.deflated:
            return inflate(self.data, length, length)
        return self.data


@dataclass(frozen=True)
class Pack:
    """The ways that may be taken; the encoder takes the one that gives fewest bytes."""

    ways: tuple[int, ...]
    # Whether the values are deflated where that helps.
    shrink: bool = True

    def write(self, positions: Positions, body: bytes, context: Context) -> bytes:
        """Return the bytes of positions (k,) and of their encoded values.

        The positions are strictly increasing.
        """
        ways = self._ways_to_try(positions.size)
        written = {way: _write(way, positions, context) for way in ways}
        # The first of equals, in the order of `ways`.
        way = min(ways, key=lambda way: len(written[way]))

        mode = way
        if self.shrink:
            deflated = deflate(body)
            if len(deflated) < len(body):
                mode += _DEFLATED
                body = deflated
        return b"".join([bytes([mode]), varint(positions.size), written[way], body])

    def read(
        self, data: bytes, most: int, context: Context
    ) -> tuple[Positions, PackedValues]:
        """Return the positions, at most ``most``, and the bytes of their values.

        Raises FormatError for bytes that no encoder made for these tensors.
        """
        source = Reader(data)
        mode = source.take(1)[0]
        way = mode & _WAY_BITS
        is_deflated = mode >= _DEFLATED
        # Only what this codec's encoder may write: one payload has one meaning.
        if (
            way not in self.ways
            or mode > _DEFLATED + _WAY_BITS
            or (is_deflated and not self.shrink)
        ):
            raise FormatError(
                f"mode {mode} in the payload, which its codec does not use"
            )

        count = source.number(most)
        positions = _read(way, source, count, context)
        return positions, PackedValues(source.rest(), is_deflated)

    def _ways_to_try(self, count: int) -> list[int]:
        """Return the ways for this many positions; slow ones where they may pay."""
        if len(self.ways) == 1 or count <= _RANGE_UP_TO:
            return list(self.ways)
        return [way for way in self.ways if way != LZMA]


AUTO = Pack((RICE, GAPZ, LZMA, GRID))


def rice() -> Pack:
    """Return Rice codes of the gaps, values as they are: the fastest."""
    return Pack((RICE,), shrink=False)


def gapz() -> Pack:
    """Return byte gaps, deflated."""
    return Pack((GAPZ,))


def grid() -> Pack:
    """Return Rice codes by the density of rows and columns: mostly the smallest."""
    return Pack((GRID,))


def lzma_range() -> Pack:
    """Return byte gaps through LZMA's range coder."""
    return Pack((LZMA,))


def _write(way: int, positions: Positions, context: Context) -> bytes:
    """Return the bytes of positions (k,)."""
    if way == GRID:
        return write_grid(positions, context.shapes)
    write = {RICE: write_rice, GAPZ: write_gapz, LZMA: write_lzma}[way]
    return write(positions, context.size)


def _read(way: int, source: Reader, count: int, context: Context) -> Positions:
    """Return positions (count,); raises FormatError unless they increase."""
    if way == GRID:
        positions = read_grid(source, count, context.shapes)
    else:
        read = {RICE: read_rice, GAPZ: read_gapz, LZMA: read_lzma}[way]
        positions = read(source, count, context.size)
    if not positions.size:
        return positions
    # Checked here for every way: a hostile payload must not write outside the model.
    is_increasing = bool((np.diff(positions) > 0).all())
    if not is_increasing or int(positions[-1]) >= context.size:
        raise FormatError("the places in the payload do not increase within the model")
    return positions
