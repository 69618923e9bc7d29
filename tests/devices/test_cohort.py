"""Who is asked, by devices."""

import numpy as np
import pytest

from fedlearn.devices.cohort import available, fastest

SECONDS = np.array([9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0, 10.0])


def test_without_fairness_the_fastest_are_asked():
    assert fastest(SECONDS, 4, 0.0, 0.0, 0, 1, 0) == [1, 3, 5, 7]


def test_a_share_of_the_places_is_drawn_among_the_others():
    asked = [fastest(SECONDS, 5, 0.0, 0.2, 0, round, 0) for round in range(1, 201)]
    assert all({1, 3, 5, 7} <= set(cohort) and len(cohort) == 5 for cohort in asked)
    others = np.bincount(
        [client for cohort in asked for client in cohort], minlength=10
    )[[0, 2, 4, 6, 8, 9]]
    assert others.min() > 15  # 200 places among six


def test_those_that_do_not_fit_the_deadline_come_last():
    for round in range(1, 30):
        assert set(fastest(SECONDS, 6, 6.5, 0.5, 0, round, 0)) == {1, 3, 5, 6, 7, 8}
    assert {1, 3} <= set(fastest(SECONDS, 4, 2.5, 0.5, 0, 1, 0))


@pytest.mark.parametrize("fairness", [0.0, 0.3, 1.0])
def test_a_cohort_is_as_large_as_asked_and_follows_from_its_arguments(fairness):
    made = [fastest(SECONDS, 7, 5.0, fairness, 3, 2, attempt) for attempt in (0, 0, 1)]
    assert made[0] == made[1]
    assert all(len(set(cohort)) == 7 for cohort in made)
    assert (made[0] != made[2]) == bool(fairness)


@pytest.mark.parametrize("fairness", [0.0, 0.5, 1.0])
def test_a_client_that_is_not_there_is_not_asked(fairness):
    seconds = np.array([np.inf, 1.0, 0.0, np.inf, 2.0])
    assert fastest(seconds, 3, 0.0, fairness, 0, 1, 0) == [1, 2, 4]
    assert fastest(seconds, 5, 1.5, fairness, 0, 1, 0) == [1, 2, 4]


def test_those_present_are_drawn_and_then_those_that_come_next():
    away = np.array([0.0, 50.0, 0.0, 20.0, 0.0, 90.0])
    cohorts = {tuple(available(away, 2, 0, round, 0)) for round in range(1, 40)}
    assert cohorts == {(0, 2), (0, 4), (2, 4)}
    assert available(away, 5, 0, 1, 0) == [0, 1, 2, 3, 4]
