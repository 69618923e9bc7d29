"""What the values of a model's buffers can be, by the names and dtypes of its layout.

A buffer is a statistic, such as BatchNorm's variance or its count of batches. One client's
impossible value would end every client's training: a variance below zero has no root.

Legend: P floats, Q integers of the layout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Change, Entry, Layout, Sparse, State
from fedlearn.errors import PayloadError

# The most that an integer buffer changes in a round: it counts batches or samples.
MOST_COUNTED = 1 << 32

# Words of a buffer's name that make it a variance, which is never below zero.
_VARIANCES = frozenset({"var", "variance"})

# The logarithm of a variance has any sign.
_LOGARITHM = "log"

# torch's name for the number of batches that BatchNorm has seen.
_COUNTER = "num_batches_tracked"


class BufferBounds:
    """Checks the buffers of updates; see the module."""

    def __init__(self, layout: Layout) -> None:
        """Take the layout."""
        places = [np.empty(0, np.int64)]
        lowest = [np.empty(0, np.int64)]
        highest = [np.empty(0, np.int64)]
        for entry, start in layout.starts():
            if not entry.is_float:
                low, high = _range(entry)
                lowest.append(np.full(entry.size, low, np.int64))
                highest.append(np.full(entry.size, high, np.int64))
            elif _is_variance(entry):
                places.append(np.arange(start, start + entry.size))
        # Where the variances stand among the P floats.
        self.variances_at = np.concatenate(places)
        # (Q,) each: what an integer can be.
        self.lowest = np.concatenate(lowest)
        self.highest = np.concatenate(highest)

    def check(self, start: State, change: Change) -> None:
        """Raise PayloadError for a change that leads a buffer to an impossible value.

        start: the model that the change is added to.
        """
        if self.variances_at.size:
            self._check_variances(start.floats, change.floats)
        if self.lowest.size:
            self._check_integers(start.integers, change.integers)

    def _check_variances(
        self, start: NDArray[np.float32], change: NDArray[np.float32] | Sparse
    ) -> None:
        if isinstance(change, Sparse):
            change = change.dense()
        end = start[self.variances_at] + change[self.variances_at]
        lowest = float(end.min())
        if lowest < 0:
            raise PayloadError(
                f"it leads a variance (a buffer) to {lowest:.3g}, which is below zero"
            )

    def _check_integers(
        self, start: NDArray[np.int64], change: NDArray[np.int64]
    ) -> None:
        # Before the addition, which could overflow. Not abs(): that of -2**63 is negative.
        within = (-MOST_COUNTED <= change) & (change <= MOST_COUNTED)
        end = start + np.where(within, change, 0)
        possible = within & (self.lowest <= end) & (end <= self.highest)
        if not possible.all():
            wrong = int(change[~possible][0])
            raise PayloadError(
                f"it changes an integer buffer by {wrong}, to a value that it cannot have"
            )


def _is_variance(entry: Entry) -> bool:
    words = set(entry.name.rpartition(".")[2].split("_"))
    is_buffer = not entry.is_trained
    return is_buffer and bool(words & _VARIANCES) and _LOGARITHM not in words


def _range(entry: Entry) -> tuple[int, int]:
    """Return the lowest and the highest value of an integer buffer."""
    if entry.dtype == "bool":
        return 0, 1
    limits = np.iinfo(entry.dtype)
    lowest = int(limits.min)
    if entry.name.rpartition(".")[2] == _COUNTER:
        lowest = 0
    return lowest, int(limits.max)
