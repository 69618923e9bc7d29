"""Cohorts: a function of seed and round, and of the number of clients no more than it must be."""

import tracemalloc

import pytest

from fedlearn.strategies.cohorts import uniform


@pytest.mark.parametrize("clients", [20, 100, 9_999, 10_001, 1_000_000])
def test_a_range_of_clients_gives_the_cohort_of_the_same_clients_in_a_list(clients):
    for round in range(3):
        assert uniform(range(clients), 20, 0, round, 0) == uniform(
            list(range(clients))[::-1], 20, 0, round, 0
        )


def test_cohorts_stay_what_they_are():
    assert uniform(range(100), 5, 0, 1, 0) == [7, 14, 44, 84, 97]
    assert uniform(range(1_000_000), 5, 0, 1, 0) == [
        73550,
        140024,
        463693,
        864784,
        882666,
    ]


def test_a_cohort_of_a_million_takes_no_memory():
    uniform(range(1_000_000), 20, 0, 0, 0)
    tracemalloc.start()
    uniform(range(1_000_000), 20, 0, 1, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000
