"""Which clients a round asks, by what is known of their devices.

It works with every strategy, because a strategy chooses among the clients that it is offered.
Both functions depend on their arguments alone, so that a resumed run asks the same clients.

Legend: N clients.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedlearn.seeds import generator

# A product such as 0.3 · 10 may lie this far above a whole number; ceil must not see it.
ROUNDING = 1e-9


def available(
    away_s: NDArray[np.float64], size: int, seed: int, round_number: int, attempt: int
) -> list[int]:
    """Return ``size`` clients, uniformly of those that may be asked now.

    Where they are too few, the clients that may be asked soonest follow.
    away_s: (N,) seconds until each may be asked.

    Source: as production systems choose, Bonawitz et al., "Towards Federated Learning at Scale"
    (MLSys 2019), section 3.
    """
    # The stream keeps its first name: another name would draw other cohorts.
    rng = generator(seed, "devices-present", round_number, attempt)
    shuffled = rng.permutation(len(away_s))
    # A stable sort leaves the clients that are equally far in shuffled order.
    by_away = np.argsort(away_s[shuffled], kind="stable")
    soonest = shuffled[by_away]
    return sorted(soonest[:size].tolist())


def fastest(
    expected_s: NDArray[np.float64],
    size: int,
    deadline_s: float,
    fairness: float,
    seed: int,
    round_number: int,
    attempt: int,
) -> list[int]:
    """Return ``size`` clients: the fastest, and a share of the places drawn among all others.

    expected_s: (N,) seconds that each is expected to need. 0: nothing is known, so the client is
    asked, and known from then on. Infinity: the client is away and is not asked; then there may
    be fewer than ``size``.
    deadline_s: 0 = none. fairness: the share of the places, rounded up, that speed does not
    decide. They are drawn uniformly among the clients that fit the deadline and are not among
    the fastest; then among those that do not fit it.

    Source: FedCS of Nishio and Yonetani (ICC 2019) takes as many fast clients as fit a deadline.
    It never asks slow ones, and their data is not learned; the drawn places are our addition.
    """
    fair_places = math.ceil(fairness * size - ROUNDING)
    fast_places = size - fair_places
    order = np.argsort(expected_s, kind="stable")
    # Clients that are away are never asked.
    is_there = np.isfinite(expected_s[order])
    order = order[is_there]
    fast = order[:fast_places]
    rng = generator(seed, "devices-fair", round_number, attempt)
    candidates = rng.permutation(order[fast_places:])
    # False sorts before True: clients that fit the deadline come first.
    too_slow = expected_s[candidates] > (deadline_s or math.inf)
    candidates = candidates[np.argsort(too_slow, kind="stable")]
    fair = candidates[:fair_places]
    return sorted([*fast.tolist(), *fair.tolist()])
