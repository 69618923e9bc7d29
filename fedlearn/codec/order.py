"""Order: which values share a block, so that values of like size stand together.

A block's code has one scale, so it is best spent on values that are alike. Values that
moved far in training so far move far again; in a matrix that is mostly a matter of the
row (a unit) and of the column (an input). So each matrix of shape (rows, everything else)
gets the energy of a product: the movement of its row times that of its column. Its
columns and rows are sorted by movement, the matrix is cut into tiles of 8 x 8, and the
tiles of all matrices are sorted by their energy. Sorting tiles in place of single values
changes the error by at most 3 % either way and takes a seventh of the time:
docs/codecs.md has the figures.

Matrices that would need many zeros to fill their tiles, and vectors, are sorted value by
value.

Both ends must compute the same order, to the bit: movements are first rounded to whole
numbers so small that no sum of them is ever rounded, and all else is single IEEE
operations, integers and stable sorts.

Legend: n blocks of B values; a run is 8 values that stay side by side; a tile is 8 runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, frexp, log2, prod

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import magnitude
from fedlearn.codec import Context
from fedlearn.codec.bits import ceil_div
from fedlearn.codec.block_order import RUN, BlockOrder, SortedMatrix, up_to_runs
from fedlearn.codec.rotation import BATCH_VALUES

# Values of a tile.
TILE = RUN * RUN

# A matrix that grows by more than this when it is filled up to whole tiles is sorted
# value by value.
_MAX_GROWTH = 1.13

# A float32 holds every whole number up to 2**24.
_EXACT_BITS = 24

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class _Tiles:
    """Tiles that are to be sorted: where their runs lie in the buffer, and their keys."""

    # (lines, 8) the first runs of the 8 rows that the tiles of a line share.
    starts: Whole
    # (t,) the line of each tile, counted over all matrices.
    lines: Whole
    # (t,) how many runs a tile stands to the right of its line's starts.
    columns: Whole
    # (t,) the energy to expect, in arbitrary units.
    keys: Doubles


def is_known(context: Context) -> bool:
    """Tell whether there is a movement to order by."""
    moved = context.moved
    if moved is None:
        return False
    # Mostly the first look is enough, and spares a pass over the vector.
    return bool(moved[:4096].any()) or bool(moved.any())


def block_size(size: int) -> int:
    """Return the values per block of a model of ``size`` values.

    4,096, or fewer where a small model would have too few blocks.
    """
    if size > 65_536:
        return 4096
    return 1024


def as_they_are(size: int) -> BlockOrder:
    """Return the order that leaves values where they are."""
    block = block_size(size)
    return BlockOrder(size, block, ceil_div(size, block))


def by_movement(context: Context) -> BlockOrder:
    """Return the order by falling energy of ``context.moved``, which must be known."""
    assert context.moved is not None
    empty = _empty_runs(context)

    # Numbers of what came before: values, runs of the buffer, lines of tiles.
    start = 0
    first_run = empty
    line = 0
    matrices: list[SortedMatrix] = []
    tiles: list[_Tiles] = []
    loose = [np.empty(0, np.int64)]
    loose_keys = [np.empty(0)]
    for shape in context.shapes:
        size = prod(shape)
        if not size:
            continue
        part = context.moved[start : start + size].reshape(_rows(shape), -1)
        by_row, by_column, unit = _sums(part)

        # A product of two sums counts the tensor's whole movement once too often.
        worth = unit / max(by_row.sum(), 1.0)
        if _is_tiled(shape):
            columns = np.argsort(-by_column, kind="stable")
            matrix = SortedMatrix(start, *part.shape, columns, first_run)
            matrices.append(matrix)
            tiles.append(_matrix_tiles(matrix, by_row, by_column, worth, line))
            first_run += matrix.rows * (matrix.filled // RUN)
            line += len(tiles[-1].starts)
        else:
            loose.append(np.arange(start, start + size))
            loose_keys.append(np.outer(by_row, by_column).ravel() * worth)
        start += size

    # The values of all other tensors are sorted together, one by one.
    keys = np.concatenate(loose_keys)
    falling = np.argsort(_coarse(keys), kind="stable")
    tiles.append(_loose_tiles(keys[falling], first_run, line))
    loose_positions = np.concatenate(loose)[falling]

    runs = _sorted_runs(tiles, block_size(start))
    return BlockOrder(
        size=start,
        block=block_size(start),
        count=len(runs),
        matrices=tuple(matrices),
        loose=loose_positions,
        empty=empty,
        runs=runs,
    )


def _matrix_tiles(
    matrix: SortedMatrix, by_row: Doubles, by_column: Doubles, worth: float, line: int
) -> _Tiles:
    """Return the tiles of a matrix, rows by falling movement; ``line``: its first line."""
    height = up_to_runs(matrix.rows) // RUN
    width = matrix.filled // RUN
    falling_rows = np.argsort(-by_row, kind="stable")
    products = np.outer(_folded(by_row), _folded(by_column)).ravel()
    return _Tiles(
        starts=_starts(matrix.first_run + width * falling_rows),
        lines=np.repeat(np.arange(line, line + height), width),
        columns=np.tile(np.arange(width), height),
        keys=products * (worth / TILE),
    )


def _loose_tiles(keys: Doubles, first_run: int, line: int) -> _Tiles:
    """Return the tiles of single values, whose keys fall; each is a line of its own."""
    starts = _starts(first_run + np.arange(up_to_runs(keys.size) // RUN))
    return _Tiles(
        starts=starts,
        lines=np.arange(line, line + len(starts)),
        columns=np.zeros(len(starts), np.int64),
        # The key of such a tile is its largest.
        keys=keys[::TILE],
    )


def _sorted_runs(tiles: list[_Tiles], block: int) -> Whole:
    """Return the run at each place of the blocks (n, block / 8), tiles by falling key."""
    starts = np.concatenate([part.starts for part in tiles])
    lines = np.concatenate([part.lines for part in tiles])
    columns = np.concatenate([part.columns for part in tiles])
    keys = np.concatenate([part.keys for part in tiles])

    falling = np.argsort(_coarse(keys), kind="stable")
    count = ceil_div(falling.size * TILE, block)
    # Places after the last tile show run 0, which is empty.
    runs = np.zeros((count * block // TILE, RUN), np.int64)
    first_runs = starts[lines[falling]]
    shifts = columns[falling, None]
    np.add(first_runs, shifts, out=runs[: falling.size])
    return runs.reshape(count, -1)


def _rows(shape: tuple[int, ...]) -> int:
    """Return the rows of a tensor as a matrix; a vector is one row."""
    if len(shape) > 1:
        return shape[0]
    return 1


def _is_tiled(shape: tuple[int, ...]) -> bool:
    """Tell whether a tensor is a matrix that fills most of its tiles."""
    size = prod(shape)
    if len(shape) < 2 or not size:
        return False
    rows = shape[0]
    filled_size = up_to_runs(rows) * up_to_runs(size // rows)
    return filled_size <= _MAX_GROWTH * size


def _empty_runs(context: Context) -> int:
    """Return how many runs at the start of the buffer stay empty.

    A row that only fills a tile starts at run 0, and is as wide as its matrix.
    """
    widths = [1]
    for shape in context.shapes:
        if _is_tiled(shape):
            widths.append(up_to_runs(prod(shape) // shape[0]) // RUN)
    return max(widths)


def _sums(part: Floats) -> tuple[Doubles, Doubles, float]:
    """Return the sums of |movement| by row and by column, and the worth of one unit.

    The sums (rows,) and (columns,) are exact whole numbers.
    """
    rows, columns = part.shape
    largest = magnitude(part)

    # Bits for each number, so that no sum passes 2**24: exact in float32.
    room = _EXACT_BITS - ceil(log2(max(rows, columns)))
    # At most 126, so that tiny movements do not ask for a factor beyond float32.
    power = min(room - frexp(largest)[1], 126)

    by_row = np.zeros(rows, np.float32)
    by_column = np.zeros(columns, np.float32)
    step = max(1, BATCH_VALUES // columns)
    for first in range(0, rows, step):
        numbers = part[first : first + step] * np.float32(2.0**power)
        np.rint(numbers, out=numbers)
        np.abs(numbers, out=numbers)
        # Not a product with ones, for which OpenBLAS would start its threads.
        np.einsum("ij->i", numbers, out=by_row[first : first + step])
        by_column += numbers.sum(axis=0)
    return by_row.astype(np.float64), by_column.astype(np.float64), 2.0**-power


def _folded(sums: Doubles) -> Doubles:
    """Return the sums of each 8 of the numbers, largest first; exact for whole numbers."""
    falling = np.zeros(up_to_runs(sums.size))
    falling[: sums.size] = np.sort(sums)[::-1]
    eights = falling.reshape(-1, RUN)
    folded: Doubles = eights.sum(axis=1)
    return folded


def _starts(rows: Whole) -> Whole:
    """Return the starts of rows, 8 to a line; rows that fill the last line start at 0."""
    lines = np.zeros((up_to_runs(rows.size) // RUN, RUN), np.int64)
    lines.ravel()[: rows.size] = rows
    return lines


def _coarse(keys: Doubles) -> NDArray[np.uint16]:
    """Return keys (n,) >= 0 as 16 bits, largest first.

    Their steps are of 3 %, and they are sorted in a quarter of the time.
    """
    # 11 bits of exponent and 5 of mantissa are left; the sign is 0.
    patterns = np.ascontiguousarray(keys).view(np.int64)
    bits = patterns >> 47
    return (0xFFFF - bits).astype(np.uint16)
