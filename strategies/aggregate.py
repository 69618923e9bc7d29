"""Sums of updates that no order of arrival can change by a bit.

Each weighted update is rounded once to a multiple of 2**-32 and added as int64. Integer
addition is associative, so arrival order, number of workers, retries and restarts give
the same sum. Updates are added one by one: two models' worth of memory for any number of
clients. (Secure aggregation adds in the same ring.)

Legend: P floats and Q integers of a state.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Change, Sparse, State, magnitude
from fedlearn.errors import PayloadError

# The rounding step of a weighted update: far below float32's own for weights of ordinary
# size.
UNIT = 2.0**-32

# The largest weight of an update: sums of weights stay below 2**63 for any cohort.
MOST_WEIGHT = 1 << 32

# The smallest weight of an update: a product with a smaller one is hardly more than the
# rounding of `UNIT`.
LEAST_WEIGHT = 2.0**-16

# Values worked on at a time: 256 KB of float64, so that scratch arrays stay in the cache.
BLOCK = 1 << 15

# Added to a float64 below 2**51, this leaves the number, rounded half to even, in the low
# bits. That is faster than `rint` and a conversion, but each sum has the constant's own
# bits once more, which are taken away at the end.
_MAGIC = 1.5 * 2.0**52
_MAGIC_BITS = int(np.float64(_MAGIC).view(np.int64))
_MAGIC_BELOW = 2.0**51


def range_limit(max_updates: int) -> float:
    """Return the magnitude below which ``max_updates`` weighted updates can be summed exactly.

    Their sum stays below 2**62, and cannot overflow an int64.
    """
    # Half of an int64's range: the other half is for the rounding of each update.
    whole_range = 2.0**62 * UNIT
    return whole_range / max(1, max_updates)


def check_weight(weight: float) -> None:
    """Raise PayloadError for a weight that no sum can take; NaN is none either."""
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise PayloadError(
            f"an update of weight {weight:.9g} cannot be added: weights are "
            f"{LEAST_WEIGHT:.2g} to {MOST_WEIGHT}"
        )


def check_range(update: State | Change, weight: float, max_updates: int) -> float:
    """Return the magnitude of ``weight`` × update.

    max_updates: the largest number of updates that are summed. Raises PayloadError when that
    many of this magnitude could leave the range in which the sum is exact.
    """
    whole = magnitude(update.integers) * UNIT
    largest = weight * max(update.largest, whole)
    if weight % 1:
        # What a fraction adds of an integer is counted in `UNIT`, as floats are.
        largest = max(largest, whole / UNIT)
    # Not `>=`: NaN is refused too.
    if not largest < range_limit(max_updates):
        raise PayloadError(
            f"an update of magnitude {largest / weight:.3g} that counts {weight} times is "
            "beyond the exact sum's range: it diverged"
        )
    return largest


class ExactSum:
    """The running sum of weight × update over one round."""

    def __init__(self, floats: int, integers: int, max_updates: int) -> None:
        """Start at zero.

        floats, integers: P and Q. max_updates: the largest number of updates that will be added.
        """
        self.integer_total = np.zeros(integers, np.int64)
        # What fractions of weights add to the integers, in `UNIT`.
        self.integer_parts = np.zeros(integers, np.int64)
        self.weight: int | Fraction = 0
        self.count = 0
        self.max_updates = max_updates
        self.limit = range_limit(max_updates)
        self._sums = np.zeros(floats, np.int64)
        # How often `_MAGIC_BITS` are in each of the sums. Python's integers do not overflow.
        self._magics = 0
        self._scratch = np.empty(BLOCK, np.float64)

    def add(
        self,
        update: State | Change,
        weight: float,
        place: int = 0,
        summed: bool = False,
    ) -> None:
        """Add ``weight`` × update; a sparse update costs its own values only.

        weight: whole numbers and fractions add up exactly alike. place: of the client in
        the sorted cohort, which a plain sum does not need. summed: the update is a sum
        over clients, weighted already; or it is zero, because another client's update is
        that sum. Its ``weight`` counts for the mean only.

        Raises PayloadError, and adds nothing, when a value is too large to be exact.
        """
        # A subclass may weigh by what a client says.
        check_weight(weight)
        times = 1 if summed else weight
        largest = check_range(update, times, self.max_updates)
        factor = times / UNIT
        if isinstance(update.floats, Sparse):
            # Indices are distinct, so that no value of ``+=`` is lost.
            values = update.floats.values.astype(np.float64) * factor
            self._sums[update.floats.indices] += np.rint(values).astype(np.int64)
        else:
            self._add(update.floats, factor, largest / UNIT < _MAGIC_BELOW)
        whole = int(times)
        self.integer_total += whole * update.integers
        if times != whole:
            parts = update.integers * ((times - whole) / UNIT)
            self.integer_parts += np.rint(parts).astype(np.int64)
        # A float is a fraction of two whole numbers, which add up in any order.
        self.weight += weight if isinstance(weight, int) else Fraction(weight)
        self.count += 1

    def _add(self, floats: NDArray[np.float32], factor: float, small: bool) -> None:
        """Add floats (P,) × factor. small: every product is below 2**51."""
        self._magics += small
        for start in range(0, self._sums.size, BLOCK):
            sums = self._sums[start : start + BLOCK]
            values = floats[start : start + BLOCK]
            scaled = self._scratch[: sums.size]
            np.multiply(values, factor, out=scaled, dtype=np.float64)
            if small:
                # In this addition the processor rounds to a whole number of `UNIT`.
                scaled += _MAGIC
                sums += scaled.view(np.int64)
            else:
                sums += np.rint(scaled, out=scaled).astype(np.int64)

    @property
    def total(self) -> NDArray[np.int64]:
        """Return the sum (P,) in multiples of `UNIT`."""
        return self._sums - self._magic

    @property
    def _magic(self) -> np.int64:
        """Return what `_MAGIC_BITS` have added to each sum, modulo 2**64 as the sums."""
        total = self._magics * _MAGIC_BITS
        # Into the range of an int64, which begins at -2**63.
        return np.int64((total + 2**63) % 2**64 - 2**63)

    def mean(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the weighted mean.

        Floats (P,) float64, and integers (Q,) int64 rounded half to even.
        """
        floats = np.empty(self._sums.size, np.float64)
        scratch = self._scratch.view(np.int64)
        for start in range(0, floats.size, BLOCK):
            sums = self._sums[start : start + BLOCK]
            mean = floats[start : start + BLOCK]
            exact = np.subtract(sums, self._magic, out=scratch[: sums.size])
            np.multiply(exact, UNIT / self.weight, out=mean)
        total = self.integer_total + self.integer_parts * UNIT
        if isinstance(self.weight, int):
            total = self.integer_total
        integers = np.rint(total / float(self.weight))
        return floats, integers.astype(np.int64)


class MedianOfMeans:
    """The coordinate-wise median of the exact means of groups of updates.

    One outlier spoils one group only. Source: median of means (Nemirovsky and Yudin,
    1983); for gradients of distributed learning: Chen, Su and Xu, "Distributed
    Statistical Machine Learning in Adversarial Settings" (POMACS 2017). Needs two models'
    worth of memory per group.
    """

    def __init__(
        self, floats: int, integers: int, max_updates: int, groups: int
    ) -> None:
        """Start at zero with ``groups`` groups; see `ExactSum`."""
        self.groups: list[ExactSum] = []
        for _ in range(groups):
            # Any group may get all updates: places need not be spread evenly.
            self.groups.append(ExactSum(floats, integers, max_updates))

    def add(
        self,
        update: State | Change,
        weight: float,
        place: int = 0,
        summed: bool = False,
    ) -> None:
        """Add ``weight`` × update to the group of its client; see `ExactSum.add`.

        Clients go to the groups in turn, by their ``place`` in the sorted cohort.
        Raises PayloadError, and adds nothing, when a value is too large to be exact.
        """
        group = self.groups[place % len(self.groups)]
        group.add(update, weight, summed=summed)

    @property
    def count(self) -> int:
        """Return the number of updates added."""
        return sum(group.count for group in self.groups)

    def mean(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the median of the non-empty groups' means.

        Floats (P,) float64, integers (Q,) int64.
        """
        # Clients may have failed, so that a group is empty: it has no mean.
        means = [group.mean() for group in self.groups if group.weight]
        all_floats = np.stack([floats for floats, _ in means])
        all_integers = np.stack([integers for _, integers in means])
        floats = np.median(all_floats, axis=0)
        integers = np.rint(np.median(all_integers, axis=0))
        return floats, integers.astype(np.int64)
