"""Exact sums: the same bits in any order, equal to sums of fractions."""

from fractions import Fraction

import numpy as np
import pytest

from fedlearn.arrays import State
from fedlearn.errors import PayloadError
from fedlearn.strategies.aggregate import UNIT, ExactSum, MedianOfMeans

RANDOM = np.random.default_rng(0)


def update(values, integers=()) -> State:
    return State(np.array(values, np.float32), np.array(integers, np.int64))


def test_the_weighted_mean_by_hand():
    total = ExactSum(2, 1, max_updates=2)
    total.add(update([1, -2], [10]), 1)
    total.add(update([5, 2], [2]), 3)
    floats, integers = total.mean()
    assert floats.tolist() == [4, 1]
    assert integers.tolist() == [4]


def test_any_order_gives_the_same_bits_and_they_are_those_of_exact_fractions():
    updates = [
        (
            update(RANDOM.normal(size=50) * 10.0 ** RANDOM.integers(-6, 3)),
            int(RANDOM.integers(1, 600)),
        )
        for _ in range(40)
    ]
    results = []
    for _ in range(5):
        total = ExactSum(50, 0, max_updates=40)
        for i in RANDOM.permutation(40):
            total.add(*updates[i])
        results.append(total.mean()[0].tobytes())
    assert len(set(results)) == 1
    weight = sum(w for _, w in updates)
    exact = [
        float(sum(Fraction(float(u.floats[k])) * w for u, w in updates) / weight)
        for k in range(50)
    ]
    assert np.abs(total.mean()[0] - exact).max() <= 40 * UNIT / 2 / weight + 1e-16


def test_more_values_than_a_block():
    values = RANDOM.normal(size=100_001).astype(np.float32)
    total = ExactSum(values.size, 0, max_updates=1)
    total.add(update(values), 7)
    assert np.abs(total.mean()[0] - values).max() < UNIT


@pytest.mark.parametrize(
    "bad",
    [
        update([1e9, 0]),
        update([-1e30, 0]),
        update([np.nan, 0]),
        update([0, 0], [2**62]),
    ],
)
def test_what_would_not_be_exact_is_refused_and_adds_nothing(bad):
    total = ExactSum(2, bad.integers.size, max_updates=10)
    with pytest.raises(PayloadError, match="beyond the exact sum's range"):
        total.add(bad, 600)
    assert not total.total.any() and total.count == total.weight == 0


def test_the_largest_allowed_updates_do_not_overflow():
    updates = 10
    total = ExactSum(1, 0, updates)
    value = np.nextafter(np.float32(total.limit / 600), np.float32(0))
    for _ in range(updates):
        total.add(update([value]), 600)
    assert total.mean()[0][0] == pytest.approx(value)


def test_one_outlier_spoils_one_group_only():
    total = MedianOfMeans(1, 1, max_updates=6, groups=3)
    for place, value in enumerate(
        [1, 2, 1e4, 3, 2, 5]
    ):  # groups: (1, 3), (2, 2), (1e4, 5)
        total.add(update([value], [place]), 1, place)
    floats, integers = total.mean()
    assert floats.tolist() == [2]
    assert integers.tolist() == [2]
    assert total.count == 6
