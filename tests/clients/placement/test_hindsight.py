"""What a trace would have cost whoever knew it before: beside every choice, tried one by one."""

import itertools

import numpy as np
import pytest

from fedlearn.clients.placement import traces
from fedlearn.clients.placement.hindsight import hindsight_s, planned_s, usual_s
from fedlearn.clients.placement.traces import TRACES, Trace


def small(seed: int, length: int = 9) -> Trace:
    """Return a trace short enough to try every choice."""
    generator = np.random.default_rng(seed)
    return Trace(
        at_s=np.cumsum(generator.exponential(0.01, length)),
        size_bytes=np.full(length, 1000),
        edge_s=generator.uniform(0.005, 0.02, length),
        turn_s=np.full(length, 0.004),
        byte_s=generator.uniform(1e-6, 2e-5, length),
        cloud_s=generator.uniform(0.001, 0.004, length),
    )


def tried_s(trace: Trace) -> float:
    """Return the least total over every choice of places: the twin of both bounds."""
    totals = []
    for places in itertools.product((True, False), repeat=len(trace)):
        free_at_s = 0.0
        total_s = 0.0
        for number, is_here in enumerate(places):
            if is_here:
                start_s = max(free_at_s, trace.at_s[number])
                free_at_s = start_s + trace.edge_s[number]
                total_s += free_at_s - trace.at_s[number]
            else:
                total_s += trace.whole_cloud_s[number]
        totals.append(total_s)
    return min(totals)


@pytest.mark.parametrize("seed", range(8))
def test_the_bound_is_below_the_best_of_all_choices_by_little(seed):
    trace = small(seed)
    best_s = tried_s(trace)
    assert 0.995 * best_s < hindsight_s(trace) <= best_s * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_a_plan_for_what_each_request_takes_is_the_best_of_all_choices(seed):
    # No other request is within a nanosecond: the usual time is the request's own.
    trace = small(seed)
    best_s = tried_s(trace)
    assert best_s * (1 - 1e-12) <= planned_s(trace, around_s=1e-9) < 1.01 * best_s


@pytest.mark.parametrize("name", TRACES)
def test_a_plan_without_the_chance_of_each_request_is_between_bound_and_one_place(name):
    trace = traces.load(name, 5)
    planned = planned_s(trace)
    assert hindsight_s(trace) <= planned < trace.whole_cloud_s.sum()


def test_a_usual_time_is_the_mean_of_what_is_around_as_computed_by_hand():
    at_s = np.array([0.0, 0.4, 1.0, 3.0])
    values_s = np.array([1.0, 2.0, 6.0, 5.0])
    assert usual_s(at_s, values_s, 1.0).tolist() == [1.5, 1.5, 6.0, 5.0]
    assert usual_s(at_s, values_s, 10.0).tolist() == [3.5] * 4
    # A dead link is known request by request, and is no part of the others' mean.
    values_s[1] = np.inf
    assert usual_s(at_s, values_s, 1.0).tolist() == [1.0, np.inf, 6.0, 5.0]
