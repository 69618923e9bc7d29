"""Ranges say what a set of numbers says, whatever the order."""

import itertools
import random

import pytest

from fedlearn.clients.messages.ranges import Ranges


@pytest.mark.parametrize("seed", range(20))
def test_they_are_a_set(seed):
    chance = random.Random(seed)
    ranges = Ranges()
    twin: set[int] = set()
    for _ in range(60):
        first = chance.randrange(40)
        last = first + chance.choice([0, 0, 1, 5])
        ranges.add(first, last)
        twin.update(range(first, last + 1))
        assert [n for n in range(50) if n in ranges] == sorted(twin)
        assert len(ranges) == len(twin)
        begin = chance.randrange(50)
        end = begin + chance.randrange(10)
        assert ranges.missing(begin, end) == len({*range(begin, end + 1)} - twin)
    pairs = list(ranges)
    # Neither do they overlap nor meet.
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(pairs))
    assert list(Ranges(pairs)) == pairs


def test_numbers_without_a_gap_are_one_range():
    ranges = Ranges()
    for number in [1, 3, 2, 5, 4]:
        ranges.add(number)
    assert list(ranges) == [(1, 5)]
