"""Sums of updates that no order of arrival can change by a bit.

Each weighted update is rounded once to a multiple of 2**-32 and added as int64. Integer addition is associative,
so arrival order, number of workers, retries and restarts give the same sum, and updates are added one by one:
two models' worth of memory for any number of clients. (Secure aggregation adds in the same ring.)

Legend: P floats and Q integers of a state.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Change, Sparse, State, magnitude
from fedlearn.errors import PayloadError

UNIT = 2.0**-32
"""The rounding step of a weighted update: far below float32's own for weights of ordinary size."""

BLOCK = 1 << 15
"""Values worked on at a time: scratch arrays stay in the cache."""

_MAGIC = 1.5 * 2.0**52
"""Added to a float64 below 2**51 it leaves the number, rounded half to even, in the low bits: faster than rint and a conversion."""

_MAGIC_BITS = int(np.float64(_MAGIC).view(np.int64))


def range_limit(most: int) -> float:
    """Return the magnitude below which ``most`` weighted updates can be summed exactly.

    Their sum stays below 2**62, and cannot overflow an int64.
    """
    return 2.0**62 * UNIT / max(1, most)


def check_range(update: State | Change, weight: int, most: int) -> float:
    """Return the magnitude of ``weight`` × update.

    most: the updates that are summed at most. Raises PayloadError when that many of this
    magnitude could leave the range in which the sum is exact.
    """
    largest = weight * max(update.largest, magnitude(update.integers) * UNIT)
    if not largest < range_limit(most):
        raise PayloadError(
            f"an update of magnitude {largest / weight:.3g} is beyond the exact sum's "
            "range: it diverged"
        )
    return largest


class ExactSum:
    """The running sum of weight × update over one round."""

    def __init__(self, floats: int, integers: int, most: int) -> None:
        """Start at zero. floats, integers: P and Q; most: the largest number of updates that will be added."""
        self._sums = np.zeros(floats, np.int64)
        self._magics = 0  # how often each of them has `_MAGIC_BITS` in it
        self.integer_total = np.zeros(integers, np.int64)
        self.weight = 0
        self.count = 0
        self.most = most
        self.limit = range_limit(most)
        self._scratch = np.empty(BLOCK, np.float64)

    def add(
        self, update: State | Change, weight: int, place: int = 0, summed: bool = False
    ) -> None:
        """Add ``weight`` × update. Raises PayloadError, and adds nothing, when a value is too large to be exact.

        A sparse update costs its own values only. place: of the client in the sorted cohort; a plain sum does not need it.
        summed: the update is a sum in which each client's has its weight already, or nothing, because another's is that sum.
        """
        times = 1 if summed else weight
        largest, factor = self.check(update, times), times / UNIT
        if isinstance(update.floats, Sparse):
            self._sums[update.floats.indices] += np.rint(
                update.floats.values.astype(np.float64) * factor
            ).astype(np.int64)
        else:
            self._add(update.floats, factor, largest / UNIT < 2.0**51)
        self.integer_total += times * update.integers
        self.weight += weight
        self.count += 1

    def _add(self, floats: NDArray[np.float32], factor: float, small: bool) -> None:
        self._magics += small
        for start in range(0, self._sums.size, BLOCK):
            block = self._sums[start : start + BLOCK]
            scaled = self._scratch[: block.size]
            np.multiply(
                floats[start : start + BLOCK], factor, out=scaled, dtype=np.float64
            )
            if small:
                scaled += _MAGIC
                block += scaled.view(np.int64)
            else:
                block += np.rint(scaled, out=scaled).astype(np.int64)

    @property
    def total(self) -> NDArray[np.int64]:
        """Return the sum (P,) in multiples of `UNIT`."""
        return self._sums - self._magic

    @property
    def _magic(self) -> np.int64:
        """Return the `_MAGIC_BITS` in a sum, modulo 2**64 as the sum itself."""
        return np.int64((self._magics * _MAGIC_BITS + 2**63) % 2**64 - 2**63)

    def check(self, update: State | Change, weight: int) -> float:
        """Return the magnitude of ``weight`` × update. Raises PayloadError; see `check_range`."""
        return check_range(update, weight, self.most)

    def mean(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the weighted mean: floats (P,) float64, and integers (Q,) int64 rounded half to even."""
        floats = np.empty(self._sums.size, np.float64)
        for start in range(0, floats.size, BLOCK):
            exact = np.subtract(
                self._sums[start : start + BLOCK],
                self._magic,
                out=self._scratch.view(np.int64)[: floats.size - start],
            )
            np.multiply(exact, UNIT / self.weight, out=floats[start : start + BLOCK])
        return floats, np.rint(self.integer_total / self.weight).astype(np.int64)


class MedianOfMeans:
    """Group the updates, average each group exactly, and take the coordinate-wise median of the groups' means.

    One outlier spoils one group only. Source: median of means (Nemirovsky and Yudin, 1983); for gradients of
    distributed learning: Chen, Su and Xu, "Distributed Statistical Machine Learning in Adversarial Settings"
    (POMACS 2017). Needs two models' worth of memory per group.
    """

    def __init__(self, floats: int, integers: int, most: int, groups: int) -> None:
        """Start at zero with ``groups`` groups; see `ExactSum`."""
        self.groups = [ExactSum(floats, integers, most) for _ in range(groups)]

    def add(
        self, update: State | Change, weight: int, place: int = 0, summed: bool = False
    ) -> None:
        """Add ``weight`` × update to the group of the client's ``place`` in the sorted cohort; see `ExactSum.add`."""
        self.groups[place % len(self.groups)].add(update, weight, summed=summed)

    @property
    def count(self) -> int:
        """Return the number of updates added."""
        return sum(g.count for g in self.groups)

    def mean(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the median of the non-empty groups' means: floats (P,) float64, integers (Q,) int64."""
        means = [g.mean() for g in self.groups if g.weight]
        floats = np.median(np.stack([m[0] for m in means]), axis=0)
        return floats, np.rint(
            np.median(np.stack([m[1] for m in means]), axis=0)
        ).astype(np.int64)
