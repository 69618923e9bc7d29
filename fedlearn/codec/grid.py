"""`grid`: positions in matrices whose rows and columns are not equally busy.

Updates are: an output unit that learns little has a quiet row, an input that is often 0 a
quiet column. The encoder counts the positions in every row and column and writes the
counts' powers of two. Both ends then foresee the density of each cell as row times column
over total, put cells of like density (within a factor of two) in one group, and the
positions within each group are written as Rice codes (see `gaps`) that suit it.

Ours; a rank-one density instead of the contexts of an adaptive coder, so that all of it
is numpy on k values.

Legend: k positions; a block is the cells of one tensor with one class of row and one
class of column. All blocks one after the other, by falling density, are the line.
"""

from __future__ import annotations

from collections.abc import Iterator
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

# A tensor with fewer rows or columns is one row: counting its columns would cost more
# than it tells.
_NARROW = 8

# The highest class, for counts up to 2**39; `_check_classes` keeps payloads below.
_MAX_CLASS = 40


@dataclass(frozen=True)
class _Tensor:
    """A tensor as rows and columns."""

    # The tensor's place among the P values.
    first: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Return the number of cells."""
        return self.rows * self.columns

    @property
    def sent_classes(self) -> int:
        """Return how many classes are written; of one row, that of the row alone."""
        if self.rows > 1:
            return self.rows + self.columns
        return 1


@dataclass(frozen=True)
class _Part:
    """The class of each row and column of a tensor.

    0 for no position, c for a count up to 2**(c - 1).
    """

    # The tensor's place among the P values.
    first: int
    rows: Classes
    columns: Classes

    @cached_property
    def total(self) -> int:
        """Return about how many positions there are, by the rows; for one row: cells."""
        if self.rows.size == 1:
            return self.columns.size
        # Class c stands for 2**(c - 1), class 0 for none.
        counts = 1 << self.rows.astype(np.int64) >> 1
        return int(counts.sum())

    @cached_property
    def row_order(self) -> Positions:
        """Return the rows, those of one class together."""
        return np.argsort(self.rows, kind="stable")

    @cached_property
    def column_order(self) -> Positions:
        """Return the columns, those of one class together."""
        return np.argsort(self.columns, kind="stable")

    def classes(self) -> bytes:
        """Return the classes that are written."""
        if self.rows.size == 1:
            return self.rows.tobytes()
        return self.rows.tobytes() + self.columns.tobytes()


@dataclass(frozen=True)
class _Blocks:
    """The blocks that can hold positions, by falling density; (n,) each, int64."""

    # Minus log2 of the density.
    density: Positions
    # The number of the tensor.
    part: Positions
    row_class: Positions
    column_class: Positions
    # Where the block's rows and columns begin, in the tensor's orders of these.
    row: Positions
    column: Positions
    height: Positions
    width: Positions

    @cached_property
    def ends(self) -> Positions:
        """Return where each block ends in the line."""
        sizes = self.height * self.width
        return np.cumsum(sizes)

    @cached_property
    def begins(self) -> Positions:
        """Return where each block begins in the line."""
        sizes = self.height * self.width
        return self.ends - sizes


def write_grid(positions: Positions, shapes: tuple[tuple[int, ...], ...]) -> bytes:
    """Return classes and groups of positions (k,) in tensors of these shapes.

    The positions are strictly increasing.
    """
    parts = []
    cells = []
    for tensor in _tensors(shapes):
        bounds = np.searchsorted(positions, [tensor.first, tensor.first + tensor.size])
        inside = positions[bounds[0] : bounds[1]] - tensor.first
        row = inside // tensor.columns
        column = inside % tensor.columns
        parts.append(_counted(tensor, row, column))
        cells.append((row, column))

    # The same blocks that the decoder makes of the classes.
    blocks = _blocks(parts)
    lines = [np.empty(0, np.int64)]
    for index, (row, column) in enumerate(cells):
        lines.append(_to_line(blocks, index, parts[index], row, column))
    line = np.sort(np.concatenate(lines))

    classes = deflate(b"".join(part.classes() for part in parts))
    chunks = [varint(len(classes)), classes]
    for begin, end in pairwise(_groups(blocks)):
        first, last = np.searchsorted(line, [begin, end])
        group = line[first:last] - begin
        chunks.append(varint(group.size))
        chunks.append(write_rice(group, end - begin))
    return b"".join(chunks)


def read_grid(
    source: Reader, count: int, shapes: tuple[tuple[int, ...], ...]
) -> Positions:
    """Return the ``count`` positions of `write_grid`; raises FormatError."""
    parts = list(_read_parts(source, _tensors(shapes)))
    blocks = _blocks(parts)
    lines = [np.empty(0, np.int64)]

    # Each group says how many positions it has; together they must be all.
    missing = count
    for begin, end in pairwise(_groups(blocks)):
        size = end - begin
        group_count = source.number(min(missing, size))
        lines.append(read_rice(source, group_count, size) + begin)
        missing -= group_count
    if missing:
        raise FormatError(f"{missing} of {count} positions are missing in the payload")
    return np.sort(_from_line(blocks, parts, np.concatenate(lines)))


def _tensors(shapes: tuple[tuple[int, ...], ...]) -> list[_Tensor]:
    """Return the tensors that have values."""
    tensors = []
    first = 0
    for shape in shapes:
        size = prod(shape)
        rows = 1
        if size and len(shape) > 1 and min(shape[0], size // shape[0]) >= _NARROW:
            rows = shape[0]
        if size:
            tensors.append(_Tensor(first, rows, size // rows))
        first += size
    return tensors


def _counted(tensor: _Tensor, row: Positions, column: Positions) -> _Part:
    """Return the classes of a tensor with positions at these rows and columns, (k,)."""
    row_counts = np.bincount(row, minlength=tensor.rows)
    column_classes = np.ones(tensor.columns, np.uint8)
    if tensor.rows > 1:
        column_counts = np.bincount(column, minlength=tensor.columns)
        column_classes = _classes(column_counts)
    return _Part(tensor.first, _classes(row_counts), column_classes)


def _read_parts(source: Reader, tensors: list[_Tensor]) -> Iterator[_Part]:
    """Yield the classes of each tensor; raises FormatError."""
    total = sum(tensor.sent_classes for tensor in tensors)
    # More bytes than deflate needs, whatever it is given.
    packed = source.take(source.number(2 * total + 64))
    data = np.frombuffer(inflate(packed, total, total), np.uint8)

    first = 0
    for tensor in tensors:
        classes = data[first : first + tensor.sent_classes]
        first += classes.size
        columns = np.ones(tensor.columns, np.uint8)
        if tensor.rows > 1:
            columns = classes[tensor.rows :]
        part = _Part(tensor.first, classes[: tensor.rows], columns)
        _check_classes(part)
        yield part


def _classes(counts: Positions) -> Classes:
    """Return 0 for none, 1 for one, 2 for two, 3 for up to four, and so on."""
    below = np.maximum(counts - 1, 0)
    # The exponent of a float64 is the number of bits of a whole number.
    _, exponents = np.frexp(below.astype(np.float64))
    classes = np.where(counts > 0, exponents + 1, 0)
    return classes.astype(np.uint8)


def _check_classes(part: _Part) -> None:
    """Refuse classes of more positions than a row or a column has cells.

    The work that follows depends on it. Raises FormatError.
    """
    highest_row = int(part.rows.max())
    highest_column = int(part.columns.max())
    if (
        highest_row > part.columns.size.bit_length() + 1
        or highest_column > part.rows.size.bit_length() + 1
    ):
        raise FormatError(
            "a row or a column in the payload has more positions than cells"
        )


def _blocks(parts: list[_Part]) -> _Blocks:
    """Return the blocks of these tensors, sorted."""
    # A loop costs little: at most 40 x 40 pairs of classes a tensor.
    rows = []
    for index, part in enumerate(parts):
        heights = np.bincount(part.rows)
        widths = np.bincount(part.columns)
        row_begins = np.cumsum(heights) - heights
        column_begins = np.cumsum(widths) - widths
        # Class 0 has no positions, hence no blocks.
        for row_class in (np.flatnonzero(heights[1:]) + 1).tolist():
            for column_class in (np.flatnonzero(widths[1:]) + 1).tolist():
                density = part.total.bit_length() - row_class - column_class
                block = (
                    max(density, -2),
                    index,
                    row_class,
                    column_class,
                    int(row_begins[row_class]),
                    int(column_begins[column_class]),
                    int(heights[row_class]),
                    int(widths[column_class]),
                )
                rows.append(block)
    # By density first, then in an order that both ends share.
    table = np.array(sorted(rows), np.int64).reshape(-1, 8)
    return _Blocks(*table.T)


def _groups(blocks: _Blocks) -> list[int]:
    """Return where groups of blocks of like density begin, and the end of the last."""
    if not blocks.ends.size:
        return [0]
    is_last = np.diff(blocks.density) > 0
    inner_edges = blocks.ends[:-1][is_last]
    return [0, *inner_edges.tolist(), int(blocks.ends[-1])]


def _to_line(
    blocks: _Blocks, index: int, part: _Part, row: Positions, column: Positions
) -> Positions:
    """Return where positions of tensor ``index`` stand in the line, (k,)."""
    part_blocks = np.flatnonzero(blocks.part == index)
    # The block of each pair of classes; pairs without one are never looked up.
    table = np.zeros((_MAX_CLASS + 1, _MAX_CLASS + 1), np.int64)
    row_classes = blocks.row_class[part_blocks]
    column_classes = blocks.column_class[part_blocks]
    table[row_classes, column_classes] = part_blocks
    block = table[part.rows[row], part.columns[column]]

    # Where a cell's row and column stand among those of their class.
    row_places = _inverse(part.row_order)
    column_places = _inverse(part.column_order)
    down = row_places[row] - blocks.row[block]
    across = column_places[column] - blocks.column[block]
    within = down * blocks.width[block] + across
    return np.asarray(blocks.begins[block] + within)


def _from_line(blocks: _Blocks, parts: list[_Part], line: Positions) -> Positions:
    """Return the positions among the P values of places in the line, (k,)."""
    block = np.searchsorted(blocks.ends, line, side="right")
    down, across = _cells(blocks, block, line)
    positions = np.empty(line.size, np.int64)
    tensor = blocks.part[block]
    for index, part in enumerate(parts):
        members = np.flatnonzero(tensor == index)
        row = part.row_order[down[members]]
        column = part.column_order[across[members]]
        positions[members] = part.first + row * part.columns.size + column
    return positions


def _cells(
    blocks: _Blocks, block: Positions, line: Positions
) -> tuple[Positions, Positions]:
    """Return the row and the column of places in the line, in the tensors' orders."""
    within = line - blocks.begins[block]
    width = blocks.width[block]
    down = within // width
    across = within % width
    return blocks.row[block] + down, blocks.column[block] + across


def _inverse(order: Positions) -> Positions:
    """Return the inverse of a permutation."""
    inverse = np.empty(order.size, np.int64)
    inverse[order] = np.arange(order.size)
    return inverse
