"""How blocks are cut out of a vector whose values are not in their place: `BlockOrder`.

Legend: n blocks of B values; a run is 8 values that stay side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedlearn.codec.bits import ceil_div
from fedlearn.codec.rotation import BATCH_VALUES

# Values that stand side by side in a tile: the smallest piece that is moved, 32 bytes.
RUN = 8

# A run as one number of numpy's: rows are copied by index twice as fast.
_RUN_BYTES = np.dtype((np.void, 4 * RUN))

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class SortedMatrix:
    """A matrix in the vector of values, whose columns the buffer holds sorted."""

    # Where its values start in the vector.
    start: int
    rows: int
    width: int
    # (width,) its columns by falling movement.
    columns: Whole
    # The place of its first run in the buffer.
    first_run: int

    @property
    def filled(self) -> int:
        """Return the width with zeros up to whole runs."""
        return up_to_runs(self.width)

    def of(self, values: Floats) -> Floats:
        """Return the matrix (rows, width) as a view of the values."""
        end = self.start + self.rows * self.width
        part = values[self.start : end]
        return part.reshape(self.rows, self.width)

    def within(self, buffer: Floats) -> Floats:
        """Return its place (rows, filled) in the buffer, columns sorted."""
        start = self.first_run * RUN
        end = start + self.rows * self.filled
        part = buffer[start:end]
        return part.reshape(self.rows, self.filled)


@dataclass(frozen=True)
class BlockOrder:
    """A way to lay ``size`` values out as ``count`` blocks of ``block`` values, and back.

    On the way stands a buffer of runs: the first are empty, then come the matrices with
    their columns sorted, then the loose values, sorted. Where ``runs`` is None the values
    stay as they are, and the buffer is the blocks.
    """

    size: int
    block: int
    count: int
    matrices: tuple[SortedMatrix, ...] = ()
    # Positions of the values outside the matrices, by falling movement.
    loose: Whole = field(default_factory=lambda: np.empty(0, np.int64))
    # Runs at the start of the buffer that hold no value.
    empty: int = 0
    # (count, block / 8) the run that stands at each place of the blocks.
    runs: Whole | None = None

    def spread(self, values: Floats) -> Floats:
        """Return a buffer that holds the values (size,), to `take` blocks from."""
        buffer = self.buffer()
        if self.runs is None:
            buffer[: self.size] = values
            return buffer
        for matrix in self.matrices:
            source = matrix.of(values)
            target = matrix.within(buffer)
            # mode="clip" spares numpy the buffer that it needs to raise an error.
            if matrix.filled == matrix.width:
                np.take(source, matrix.columns, axis=1, out=target, mode="clip")
            else:
                sorted_columns = np.take(source, matrix.columns, axis=1, mode="clip")
                target[:, : matrix.width] = sorted_columns
        self._loose_within(buffer)[...] = values[self.loose]
        return buffer

    def take(self, buffer: Floats, members: Whole) -> Floats:
        """Return the blocks numbered ``members`` (n,) as (n, block).

        Places where there is no value hold 0.
        """
        if self.runs is None:
            return buffer.reshape(self.count, self.block)[members]
        runs = buffer.reshape(-1, RUN)
        blocks = np.take(runs, self.runs[members], axis=0, mode="clip")
        return blocks.reshape(-1, self.block)

    def buffer(self) -> Floats:
        """Return a buffer of zeros, to `put` blocks in."""
        # Zeros, because what fills blocks and matrices must not be noise.
        if self.runs is None:
            return np.zeros(self.count * self.block, np.float32)
        size = self.empty * RUN
        for matrix in self.matrices:
            size += matrix.rows * matrix.filled
        size += up_to_runs(self.loose.size)
        return np.zeros(size, np.float32)

    def put(self, buffer: Floats, members: Whole, blocks: Floats) -> None:
        """Write the blocks numbered ``members`` (n,), (n, block) float32, in the buffer."""
        if self.runs is None:
            buffer.reshape(self.count, self.block)[members] = blocks
            return
        targets = self.runs[members].ravel()
        places = buffer.view(_RUN_BYTES)
        places[targets] = np.ascontiguousarray(blocks).ravel().view(_RUN_BYTES)

    def collect(self, buffer: Floats) -> Floats:
        """Return the values (size,) of a buffer: the inverse of `spread`."""
        if self.runs is None:
            return buffer[: self.size]
        values = np.empty(self.size, np.float32)
        for matrix in self.matrices:
            # The inverse permutation, so that values are written one after the other.
            inverse = np.empty(matrix.width, np.int64)
            inverse[matrix.columns] = np.arange(matrix.width)
            source = matrix.within(buffer)
            np.take(source, inverse, axis=1, out=matrix.of(values), mode="clip")
        values[self.loose] = self._loose_within(buffer)
        return values

    def _loose_within(self, buffer: Floats) -> Floats:
        """Return the place of the loose values: the last runs, but for what fills them."""
        start = buffer.size - up_to_runs(self.loose.size)
        return buffer[start : start + self.loose.size]


def batches(members: Whole, block: int) -> Iterator[Whole]:
    """Yield blocks' numbers, as many at a time as stay in a core's cache."""
    step = BATCH_VALUES // block
    for first in range(0, members.size, step):
        yield members[first : first + step]


def up_to_runs(count: int) -> int:
    """Return the next multiple of 8."""
    return ceil_div(count, RUN) * RUN
