"""Order: which values share a block, chosen from what both ends know, so that values of like size stand together.

A block's code has one scale, so it is best spent on values that are alike. Values that moved far in training so far move
far again; in a matrix that is mostly a matter of the row (a unit) and of the column (an input). So each matrix of shape
(rows, everything else) gets the energy of a product: the movement of its row times that of its column. Its columns and
rows are sorted by movement, the matrix is cut into tiles of 8 x 8, and the tiles of all matrices are sorted by their
energy. Sorting tiles in place of single values changes the error by at most 3 % either way and takes a seventh of the
time: docs/codecs.md has the figures.

Matrices that would need many zeros to fill their tiles, and vectors, are sorted value by value.

Both ends must find the same order, to the bit: movements are first rounded to whole numbers so small that no sum of
them is ever rounded, and the rest are single IEEE operations, integers and stable sorts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, frexp, log2, prod

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.codec import Context
from fedlearn.codec.rotation import full_precision

RUN = 8
"""Values that stand side by side in a tile: the smallest piece that is moved about, 32 bytes."""

TILE = RUN * RUN
_WASTE = 1.13
"""A matrix that grows by more than this when it is filled up to whole tiles is sorted value by value."""

_TOGETHER = 131_072
"""Values worked on at a time: they stay in a core's cache."""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class _Matrix:
    """A matrix in the vector of values, and its columns by falling movement (width,)."""

    start: int
    rows: int
    width: int
    columns: Whole
    first: int  # the place of its first run in the buffer

    @property
    def filled(self) -> int:
        """Return the width with zeros up to whole runs."""
        return _up(self.width)

    def of(self, values: Floats) -> Floats:
        """Return the matrix (rows, width) as a view of the values."""
        return values[self.start : self.start + self.rows * self.width].reshape(
            self.rows, self.width
        )

    def within(self, buffer: Floats) -> Floats:
        """Return its place (rows, filled) in the buffer, columns sorted."""
        return buffer[
            self.first * RUN : self.first * RUN + self.rows * self.filled
        ].reshape(self.rows, self.filled)


@dataclass(frozen=True)
class Order:
    """A way to lay ``size`` values out as ``count`` blocks of ``block`` values, and back.

    On the way stands a buffer of runs: the first are empty, then come the matrices with their columns sorted, then the
    loose values, sorted. Where ``runs`` is None the values stay as they are, and the buffer is the blocks.
    """

    size: int
    block: int
    count: int
    matrices: tuple[_Matrix, ...] = ()
    loose: Whole = field(
        default_factory=lambda: np.empty(0, np.int64)
    )  # positions of the values outside the matrices
    empty: int = 0  # runs at the start of the buffer
    runs: Whole | None = (
        None  # (count, block / 8) the run that stands at each place of the blocks
    )

    def spread(self, values: Floats) -> Floats:
        """Return a buffer that holds the values (size,), to `take` blocks from."""
        buffer = self.buffer()
        if self.runs is None:
            buffer[: self.size] = values
            return buffer
        for m in self.matrices:
            if m.filled == m.width:
                np.take(
                    m.of(values), m.columns, axis=1, out=m.within(buffer), mode="clip"
                )
            else:
                m.within(buffer)[:, : m.width] = np.take(
                    m.of(values), m.columns, axis=1, mode="clip"
                )
        self._loose(buffer)[...] = values[self.loose]
        return buffer

    def take(self, buffer: Floats, members: Whole) -> Floats:
        """Return the blocks numbered ``members`` (n,) as (n, block), with zeros where there is no value."""
        if self.runs is None:
            return buffer.reshape(self.count, self.block)[members]
        return np.take(
            buffer.reshape(-1, RUN), self.runs[members], axis=0, mode="clip"
        ).reshape(-1, self.block)

    def buffer(self) -> Floats:
        """Return an empty buffer, to `put` blocks in."""
        if self.runs is None:
            return np.zeros(self.count * self.block, np.float32)
        return np.zeros(
            self.empty * RUN
            + sum(m.rows * m.filled for m in self.matrices)
            + _up(self.loose.size),
            np.float32,
        )

    def put(self, buffer: Floats, members: Whole, blocks: torch.Tensor) -> None:
        """Write the blocks numbered ``members`` (n,), with values (n, block), into the buffer."""
        if self.runs is None:
            buffer.reshape(self.count, self.block)[members] = blocks.numpy()
        else:
            torch.from_numpy(buffer).view(-1, RUN).index_copy_(
                0, torch.from_numpy(self.runs[members].ravel()), blocks.view(-1, RUN)
            )

    def collect(self, buffer: Floats) -> Floats:
        """Return the values (size,) of a buffer: the inverse of `spread`."""
        if self.runs is None:
            return buffer[: self.size]
        values = np.empty(self.size, np.float32)
        for m in self.matrices:
            back = np.empty(m.width, np.int64)
            back[m.columns] = np.arange(m.width)
            np.take(m.within(buffer), back, axis=1, out=m.of(values), mode="clip")
        values[self.loose] = self._loose(buffer)
        return values

    def _loose(self, buffer: Floats) -> Floats:
        end = buffer.size - _up(self.loose.size) + self.loose.size
        return buffer[end - self.loose.size : end]


def is_known(context: Context) -> bool:
    """Tell whether there is a movement to order by."""
    moved = context.moved
    return moved is not None and (
        bool(moved[:4096].any()) or bool(moved.any())
    )  # mostly the first look is enough


def block_size(size: int) -> int:
    """Return the values per block of a model of ``size``: 4,096, or fewer where a small model would have too few blocks."""
    return 4096 if size > 65_536 else 1024


def as_they_are(size: int) -> Order:
    """Return the order that leaves values where they are."""
    block = block_size(size)
    return Order(size, block, -(-size // block))


def by_movement(context: Context) -> Order:
    """Return the order by falling energy of ``context.moved``, which must be known."""
    assert context.moved is not None
    matrices: list[_Matrix] = []
    # Of each tile: its row of `starts`, where its 8 runs start, and how far to the right of there they are.
    starts, lines, columns, keys = (
        [np.empty((0, RUN), np.int64)],
        [np.empty(0, np.int64)],
        [np.empty(0, np.int64)],
        [np.empty(0)],
    )
    loose, loose_keys = [np.empty(0, np.int64)], [np.empty(0)]
    start, first, line = 0, _empty(context), 0
    for shape in context.shapes:
        size = prod(shape)
        if not size:
            continue
        part = context.moved[start : start + size].reshape(_rows(shape), -1)
        by_row, by_column, unit = _sums(part)
        worth = unit / max(by_row.sum(), 1.0)
        if _is_tiled(shape):
            matrix = _Matrix(
                start, *part.shape, np.argsort(-by_column, kind="stable"), first
            )
            height, width = _up(matrix.rows) // RUN, matrix.filled // RUN
            matrices.append(matrix)
            starts.append(_starts(first + width * np.argsort(-by_row, kind="stable")))
            lines.append(np.repeat(np.arange(line, line + height), width))
            columns.append(np.tile(np.arange(width), height))
            keys.append(
                np.outer(_folded(by_row), _folded(by_column)).ravel() * (worth / TILE)
            )
            first, line = first + matrix.rows * width, line + height
        else:
            loose.append(np.arange(start, start + size))
            loose_keys.append(np.outer(by_row, by_column).ravel() * worth)
        start += size
    single_keys = np.concatenate(loose_keys)
    falling = np.argsort(_coarse(single_keys), kind="stable")
    starts.append(_starts(first + np.arange(_up(falling.size) // RUN)))
    keys.append(
        single_keys[falling][::TILE]
    )  # the key of a tile of single values is its largest
    lines.append(np.arange(line, line + len(starts[-1])))
    columns.append(np.zeros(len(starts[-1]), np.int64))
    tiles = np.argsort(_coarse(np.concatenate(keys)), kind="stable")
    block = block_size(start)
    count = -(-tiles.size * TILE // block)
    runs = np.zeros((count * block // TILE, RUN), np.int64)
    np.add(
        np.concatenate(starts)[np.concatenate(lines)[tiles]],
        np.concatenate(columns)[tiles, None],
        out=runs[: tiles.size],
    )
    return Order(
        start,
        block,
        count,
        tuple(matrices),
        np.concatenate(loose)[falling],
        _empty(context),
        runs.reshape(count, -1),
    )


def _rows(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) > 1 else 1


def _is_tiled(shape: tuple[int, ...]) -> bool:
    rows, size = _rows(shape), prod(shape)
    return (
        len(shape) > 1 and size > 0 and _up(rows) * _up(size // rows) <= _WASTE * size
    )


def _empty(context: Context) -> int:
    """Return how many runs at the start of the buffer stay empty: a tile's row that is none starts at 0, and is as wide."""
    return max(
        [
            _up(prod(shape) // shape[0]) // RUN
            for shape in context.shapes
            if _is_tiled(shape)
        ],
        default=1,
    )


def _up(count: int) -> int:
    return -(-count // RUN) * RUN


def _sums(part: Floats) -> tuple[Doubles, Doubles, float]:
    """Return the sums of |movement| by row and by column, exact whole numbers, and what one of them is worth."""
    moved = torch.from_numpy(np.require(part, np.float32, ["C", "W"]))
    low, high = torch.aminmax(moved)
    room = 24 - ceil(
        log2(max(part.shape))
    )  # bits for each number, so that no sum passes 2**24: exact in float32
    power = min(room - frexp(max(-float(low), float(high)))[1], 126)
    by_row, by_column, ones = (
        moved.new_zeros(n) for n in (*part.shape, max(part.shape))
    )
    ones += 1
    step = max(1, _TOGETHER // part.shape[1])
    with full_precision():
        for at in range(0, part.shape[0], step):
            whole = (moved[at : at + step] * 2.0**power).round_().abs_()
            by_row[at : at + step] = whole @ ones[: part.shape[1]]
            by_column += ones[: len(whole)] @ whole
    return (
        by_row.numpy().astype(np.float64),
        by_column.numpy().astype(np.float64),
        2.0**-power,
    )


def _folded(sums: Doubles) -> Doubles:
    """Return the sums of each 8 of the numbers, largest first: exact, because they are whole."""
    falling = np.zeros(_up(sums.size))
    falling[: sums.size] = np.sort(sums)[::-1]
    out: Doubles = falling.reshape(-1, RUN).sum(axis=1)
    return out


def _starts(rows: Whole) -> Whole:
    """Return the starts of rows, 8 to a line; rows that fill the last line start at 0."""
    lines = np.zeros((_up(rows.size) // RUN, RUN), np.int64)
    lines.ravel()[: rows.size] = rows
    return lines


def _coarse(keys: Doubles) -> NDArray[np.uint16]:
    """Return keys (n,) >= 0 as 16 bits, largest first: steps of 3 %, sorted in a quarter of the time."""
    bits = (
        np.ascontiguousarray(keys).view(np.int64) >> 47
    )  # 11 bits of exponent and 5 of mantissa; the sign is 0
    return (0xFFFF - bits).astype(np.uint16)
