"""`grid`: positions in matrices whose rows and columns are not equally busy.

Updates are: an output unit that learns little has a quiet row, an input that is often 0 a quiet column. The encoder
counts the positions in every row and column and writes the counts' powers of two. Both ends then foresee the density of
each cell as row times column over total, put cells of like density (within a factor of two) in one group, and the
positions within each group are written as Rice codes (see `gaps`) that suit it. Ours; a rank-one density instead of the
contexts of an adaptive coder, so that all of it is numpy on k values.

Legend: k positions; a block is the cells of one tensor with one class of row and one class of column.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec.bits import Reader, deflate, inflate
from fedlearn.codec.gaps import Positions, read_rice, write_rice
from fedlearn.errors import FormatError
from fedlearn.system.varint import varint

Classes = NDArray[np.uint8]

_NARROW = 8
"""A tensor with fewer rows or columns is one row: counting its columns would cost more than it tells."""

_MOST_CLASS = 40


@dataclass(frozen=True)
class _Part:
    """One tensor as rows and columns, and the class of each: 0 for none, c for a count up to 2**(c - 1)."""

    first: int  # the tensor's place among the P values
    rows: Classes
    columns: Classes

    @cached_property
    def total(self) -> int:
        """Return about how many positions there are, by the rows; for one row: how many cells."""
        return (
            int((1 << self.rows.astype(np.int64) >> 1).sum())
            if self.rows.size > 1
            else self.columns.size
        )

    @cached_property
    def row_order(self) -> Positions:
        """Return the rows, those of one class together."""
        return np.argsort(self.rows, kind="stable")

    @cached_property
    def column_order(self) -> Positions:
        """Return the columns, those of one class together."""
        return np.argsort(self.columns, kind="stable")


@dataclass(frozen=True)
class _Blocks:
    """The blocks that can hold positions, in the order of their density; (n,) each, int64."""

    density: Positions  # minus log2
    part: Positions
    row_class: Positions
    column_class: Positions
    row: Positions  # where its rows begin in their order
    column: Positions
    height: Positions
    width: Positions

    @cached_property
    def ends(self) -> Positions:
        """Return where each block ends when all stand in a line."""
        return np.cumsum(self.height * self.width)


def write_grid(at: Positions, shapes: tuple[tuple[int, ...], ...]) -> bytes:
    """Return classes and groups of positions ``at`` (k,), strictly increasing, in tensors of these shapes."""
    parts, places = [], []
    for first, rows, columns in _tensors(shapes):
        inside = (
            at[np.searchsorted(at, first) : np.searchsorted(at, first + rows * columns)]
            - first
        )
        row, column = inside // columns, inside % columns
        counts = (
            np.bincount(row, minlength=rows),
            np.bincount(column, minlength=columns),
        )
        parts.append(
            _Part(
                first,
                _classes(counts[0]),
                _classes(counts[1]) if rows > 1 else np.ones(columns, np.uint8),
            )
        )
        places.append((row, column))
    classes = deflate(b"".join(_sent(part) for part in parts))
    blocks = _blocks(parts)
    lines = [
        _line(blocks, i, part, *place)
        for i, (part, place) in enumerate(zip(parts, places, strict=True))
    ]
    line = np.sort(np.concatenate([np.empty(0, np.int64), *lines]))
    out, cuts = [varint(len(classes)), classes], _groups(blocks)
    for begin, end in pairwise(cuts):
        group = line[np.searchsorted(line, begin) : np.searchsorted(line, end)] - begin
        out += [varint(group.size), write_rice(group, end - begin)]
    return b"".join(out)


def read_grid(
    source: Reader, count: int, shapes: tuple[tuple[int, ...], ...]
) -> Positions:
    """Return the positions of `write_grid`."""
    tensors = _tensors(shapes)
    sent = sum(rows + columns if rows > 1 else 1 for _, rows, columns in tensors)
    data = np.frombuffer(
        inflate(source.take(source.number(2 * sent + 64)), sent, sent), np.uint8
    )
    parts, used = [], 0
    for first, rows, columns in tensors:
        taken = data[used : used + (rows + columns if rows > 1 else 1)]
        parts.append(
            _Part(
                first,
                taken[:rows],
                taken[rows:] if rows > 1 else np.ones(columns, np.uint8),
            )
        )
        used += taken.size
        _check_classes(parts[-1])
    blocks = _blocks(parts)
    line, left, cuts = [np.empty(0, np.int64)], count, _groups(blocks)
    for begin, end in pairwise(cuts):
        here = source.number(min(left, end - begin))
        line.append(read_rice(source, here, end - begin) + begin)
        left -= here
    if left:
        raise FormatError(f"{left} of {count} positions are missing in the payload")
    return np.sort(_unline(blocks, parts, np.concatenate(line)))


def _tensors(shapes: tuple[tuple[int, ...], ...]) -> list[tuple[int, int, int]]:
    """Return the first place, the rows and the columns of each tensor that has values."""
    out, first = [], 0
    for shape in shapes:
        size = prod(shape)
        rows = (
            shape[0]
            if size and len(shape) > 1 and min(shape[0], size // shape[0]) >= _NARROW
            else 1
        )
        if size:
            out.append((first, rows, size // rows))
        first += size
    return out


def _classes(counts: Positions) -> Classes:
    """Return 0 for none, 1 for one, 2 for two, 3 for up to four, and so on."""
    return np.where(
        counts > 0, np.frexp(np.maximum(counts - 1, 0).astype(np.float64))[1] + 1, 0
    ).astype(np.uint8)


def _check_classes(part: _Part) -> None:
    """Refuse classes of more positions than a row or a column has cells; the work that follows depends on it."""
    for mine, other in ((part.rows, part.columns), (part.columns, part.rows)):
        if int(mine.max()) > other.size.bit_length() + 1:
            raise FormatError(
                "a row or a column in the payload has more positions than cells"
            )


def _sent(part: _Part) -> bytes:
    return part.rows.tobytes() + (part.columns.tobytes() if part.rows.size > 1 else b"")


def _blocks(parts: list[_Part]) -> _Blocks:
    found: list[tuple[int, ...]] = []
    for i, part in enumerate(parts):
        rows, columns = np.bincount(part.rows), np.bincount(part.columns)
        row_ends, column_ends = np.cumsum(rows), np.cumsum(columns)
        for a in np.flatnonzero(rows[1:]) + 1:
            for b in np.flatnonzero(columns[1:]) + 1:
                density = max(part.total.bit_length() - int(a) - int(b), -2)
                begin = row_ends[a] - rows[a], column_ends[b] - columns[b]
                found.append(
                    (
                        density,
                        i,
                        int(a),
                        int(b),
                        int(begin[0]),
                        int(begin[1]),
                        int(rows[a]),
                        int(columns[b]),
                    )
                )
    return _Blocks(*np.array(sorted(found), np.int64).reshape(-1, 8).T)


def _groups(blocks: _Blocks) -> list[int]:
    """Return where groups of blocks of like density begin, and the end of the last."""
    if not blocks.ends.size:
        return [0]
    return [
        0,
        *blocks.ends[:-1][np.diff(blocks.density) > 0].tolist(),
        int(blocks.ends[-1]),
    ]


def _line(
    blocks: _Blocks, index: int, part: _Part, row: Positions, column: Positions
) -> Positions:
    """Return where a tensor's positions stand in the line of blocks."""
    mine = np.flatnonzero(blocks.part == index)
    table = np.zeros((_MOST_CLASS + 1, _MOST_CLASS + 1), np.int64)
    table[blocks.row_class[mine], blocks.column_class[mine]] = mine
    block = table[part.rows[row], part.columns[column]]
    begins = blocks.ends - blocks.height * blocks.width
    down = _inverse(part.row_order)[row] - blocks.row[block]
    across = _inverse(part.column_order)[column] - blocks.column[block]
    return np.asarray(begins[block] + down * blocks.width[block] + across)


def _unline(blocks: _Blocks, parts: list[_Part], line: Positions) -> Positions:
    """Return the positions among the P values of places in the line of blocks."""
    block = np.searchsorted(blocks.ends, line, side="right")
    inside = line - (blocks.ends - blocks.height * blocks.width)[block]
    down, across = (
        blocks.row[block] + inside // blocks.width[block],
        blocks.column[block] + inside % blocks.width[block],
    )
    out = np.empty(line.size, np.int64)
    for i, part in enumerate(parts):
        mine = np.flatnonzero(blocks.part[block] == i)
        out[mine] = (
            part.first
            + part.row_order[down[mine]] * part.columns.size
            + part.column_order[across[mine]]
        )
    return out


def _inverse(order: Positions) -> Positions:
    out = np.empty(order.size, np.int64)
    out[order] = np.arange(order.size)
    return out
