"""The best places in hindsight: what a trace would have cost whoever knew it before.

Two of them. `hindsight_s` knows what chance will make of every single request, which no rule
can: it is a bound. `planned_s` knows what can be known: how long each place takes around
each moment, when the link is dead, and when requests come. It is dynamic programming both
times: Bellman, "Dynamic Programming", Princeton University Press 1957.

Legend: N requests, G lengths of the device's queue.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedlearn.clients.placement.traces import Floats, Trace

# Seconds in which the bound of the best choice tells queues apart.
_GRAIN_S = 1e-5
# The longest queue that it tells apart, in grains: a tenth of a second.
_GRAINS = 10_000

# The plan needs no bound, so its lengths of the queue are fewer: up to two tenths of a second.
_PLAN_GRAIN_S = 1e-4
_PLAN_GRAINS = 2_000

# Seconds around a request whose mean is what a place usually takes then.
AROUND_S = 1.0


def hindsight_s(trace: Trace) -> float:
    """Return a total of seconds that no choice can be below, whatever it knows.

    By dynamic programming over the device's queue at each arrival. Queues are rounded down
    to a grain, which makes the total too small by that at most, and never too large.
    """
    whole_s = trace.whole_cloud_s
    gaps_s = np.diff(trace.at_s, prepend=trace.at_s[0])
    wait_s = _GRAIN_S * np.arange(_GRAINS)
    total_s = np.full(_GRAINS, np.inf)
    total_s[0] = 0.0
    for number in range(len(trace)):
        total_s = _shorter(total_s, float(gaps_s[number]))
        service_s = float(trace.edge_s[number])
        here_s = _longer(total_s + wait_s + service_s, service_s)
        total_s = np.minimum(here_s, total_s + whole_s[number])
    return float(total_s.min())


def _shorter(total_s: Floats, passed_s: float) -> Floats:
    """Return the totals by queue after some time, which every queue is shorter by."""
    # Rounded up: the queue is rounded down.
    grains = math.ceil(passed_s / _GRAIN_S)
    if grains == 0:
        return total_s
    later_s = np.full(_GRAINS, np.inf)
    later_s[0] = total_s[: grains + 1].min()
    if grains + 1 < _GRAINS:
        later_s[1 : _GRAINS - grains] = total_s[grains + 1 :]
    return later_s


def _longer(total_s: Floats, added_s: float) -> Floats:
    """Return the totals by queue after one more request has come into it."""
    grains = min(math.floor(added_s / _GRAIN_S), _GRAINS - 1)
    later_s = np.full(_GRAINS, np.inf)
    later_s[grains:] = total_s[: _GRAINS - grains]
    # What is longer than all that is told apart counts as the longest: never too much.
    later_s[-1] = min(later_s[-1], total_s[_GRAINS - grains - 1 :].min())
    return later_s


def planned_s(trace: Trace, around_s: float = AROUND_S) -> float:
    """Return the total of seconds of the places that are best for the usual times.

    around_s: what a place usually takes is the mean of the requests within half of it,
    before and after. Whether the link is dead is known, request by request.
    """
    edge_s = usual_s(trace.at_s, trace.edge_s, around_s)
    cloud_s = usual_s(trace.at_s, trace.whole_cloud_s, around_s)
    is_here = _plan(trace.at_s, edge_s, cloud_s)
    whole_s = trace.whole_cloud_s
    free_at_s = 0.0
    total_s = 0.0
    for number, at_s in enumerate(trace.at_s.tolist()):
        wait_s = max(0.0, free_at_s - at_s)
        grain = min(round(wait_s / _PLAN_GRAIN_S), _PLAN_GRAINS - 1)
        if is_here[number, grain]:
            free_at_s = at_s + wait_s + float(trace.edge_s[number])
            total_s += free_at_s - at_s
        else:
            total_s += float(whole_s[number])
    return total_s


def usual_s(at_s: Floats, values_s: Floats, around_s: float) -> Floats:
    """Return each request's mean (N,) of the values around it; infinite ones stay so."""
    is_finite = np.isfinite(values_s)
    sums = np.concatenate([[0.0], np.cumsum(np.where(is_finite, values_s, 0.0))])
    counts = np.concatenate([[0], np.cumsum(is_finite)])
    begins = np.searchsorted(at_s, at_s - around_s / 2, side="left")
    ends = np.searchsorted(at_s, at_s + around_s / 2, side="right")
    # A request is among those around it, so a finite one counts at least itself.
    count = np.maximum(1, counts[ends] - counts[begins])
    mean_s = (sums[ends] - sums[begins]) / count
    return np.where(is_finite, mean_s, np.inf)


def _plan(at_s: Floats, edge_s: Floats, cloud_s: Floats) -> NDArray[np.bool_]:
    """Return whether the device is the better place, (N, G), by request and queue."""
    gaps_s = np.append(np.diff(at_s), np.inf)
    wait_s = _PLAN_GRAIN_S * np.arange(_PLAN_GRAINS)
    is_here = np.empty((len(at_s), _PLAN_GRAINS), bool)
    # What all later requests cost, by the queue that the next one meets.
    later_s = np.zeros(_PLAN_GRAINS)
    for number in range(len(at_s) - 1, -1, -1):
        busy_s = wait_s + edge_s[number]
        here_s = busy_s + later_s[_grains(busy_s - gaps_s[number])]
        there_s = cloud_s[number] + later_s[_grains(wait_s - gaps_s[number])]
        is_here[number] = here_s <= there_s
        later_s = np.minimum(here_s, there_s)
    return is_here


def _grains(wait_s: Floats) -> NDArray[np.intp]:
    """Return the nearest lengths of the queue, as numbers."""
    bounded_s = np.clip(wait_s, 0.0, _PLAN_GRAIN_S * (_PLAN_GRAINS - 1))
    return np.rint(bounded_s / _PLAN_GRAIN_S).astype(np.intp)
