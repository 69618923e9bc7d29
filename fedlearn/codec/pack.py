"""How the places of the values that are sent become bytes, and their quantised values smaller: `Pack`.

The bytes of a sparse vector: a mode (the way that the places are written, plus 16 where the values are deflated), the
number k of places, the places, the values.
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

RICE, GAPZ, LZMA, GRID = range(4)
_DEFLATED = 16
_RANGE_UP_TO = 10_000
"""Places up to which the range coder, 1 ms for 4,000 of them, is tried where no way is asked for: the grid beats it on large models."""


@dataclass(frozen=True)
class Pack:
    """The ways that may be taken; the encoder takes the one that gives the fewest bytes."""

    ways: tuple[int, ...]
    shrink: bool = True  # whether the values are deflated where that helps

    def write(self, at: Positions, body: bytes, context: Context) -> bytes:
        """Return the bytes of places (k,), strictly increasing, and of their encoded values."""
        ways = [
            w
            for w in self.ways
            if w != LZMA or len(self.ways) == 1 or at.size <= _RANGE_UP_TO
        ]
        way, places = min(
            ((w, _write(w, at, context)) for w in ways), key=lambda pair: len(pair[1])
        )
        small = deflate(body) if self.shrink else body
        mode = way + (_DEFLATED if len(small) < len(body) else 0)
        return b"".join(
            [
                bytes([mode]),
                varint(at.size),
                places,
                small if len(small) < len(body) else body,
            ]
        )

    def read(self, data: bytes, most: int, context: Context) -> tuple[Positions, Rest]:
        """Return the places, at most ``most``, and the bytes of their values; raises FormatError."""
        source = Reader(data)
        mode = source.take(1)[0]
        if (
            mode & 15 not in self.ways
            or mode > _DEFLATED + 15
            or (mode >= _DEFLATED and not self.shrink)
        ):
            raise FormatError(
                f"mode {mode} in the payload, which its codec does not use"
            )
        count = source.number(most)
        return _read(mode & 15, source, count, context), Rest(
            source.rest(), mode >= _DEFLATED
        )


@dataclass(frozen=True)
class Rest:
    """The bytes of the values."""

    data: bytes
    deflated: bool

    def body(self, length: int) -> bytes:
        """Return the ``length`` bytes that the quantiser wrote; it refuses another length itself."""
        return inflate(self.data, length, length) if self.deflated else self.data


AUTO = Pack((RICE, GAPZ, LZMA, GRID))


def rice() -> Pack:
    """Return Rice codes of the gaps, values as they are: the fastest."""
    return Pack((RICE,), shrink=False)


def gapz() -> Pack:
    """Return byte gaps, deflated."""
    return Pack((GAPZ,))


def grid() -> Pack:
    """Return Rice codes by the density of rows and columns: the smallest on most updates."""
    return Pack((GRID,))


def lzma_range() -> Pack:
    """Return byte gaps through LZMA's range coder."""
    return Pack((LZMA,))


def _write(way: int, at: Positions, context: Context) -> bytes:
    if way == GRID:
        return write_grid(at, context.shapes)
    return {RICE: write_rice, GAPZ: write_gapz, LZMA: write_lzma}[way](at, context.size)


def _read(way: int, source: Reader, count: int, context: Context) -> Positions:
    if way == GRID:
        at = read_grid(source, count, context.shapes)
    else:
        at = {RICE: read_rice, GAPZ: read_gapz, LZMA: read_lzma}[way](
            source, count, context.size
        )
    if at.size and (int(at[-1]) >= context.size or not (np.diff(at) > 0).all()):
        raise FormatError("the places in the payload do not increase within the model")
    return at
