"""Who is asked, by what is known of the devices; for every strategy, because it chooses among those offered to it.

Both functions depend on their arguments alone, so that a resumed run asks the same clients.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedlearn.seeds import generator


def available(
    away_s: NDArray[np.float64], size: int, seed: int, round: int, attempt: int
) -> list[int]:
    """Return ``size`` clients, uniformly of those that may be asked now; where they are too few, those that come next.

    away_s: (N,) seconds until each may be asked. As production systems choose: Bonawitz et al., "Towards Federated Learning
    at Scale" (MLSys 2019), section 3.
    """
    order = generator(seed, "devices-present", round, attempt).permutation(len(away_s))
    return sorted(
        int(i) for i in order[np.argsort(away_s[order], kind="stable")][:size]
    )


def fastest(
    expected_s: NDArray[np.float64],
    size: int,
    deadline_s: float,
    fairness: float,
    seed: int,
    round: int,
    attempt: int,
) -> list[int]:
    """Return ``size`` clients: the fastest that fit the deadline, and a share of the places drawn among all others.

    expected_s: (N,) seconds that each is expected to need; 0 for one that nothing is known of, so that it is asked and
    known from then on; infinity for one that is not there, and is not asked: then they may be fewer.
    deadline_s: 0 = none. fairness: the share of the places, rounded up, that speed does not decide. They are drawn
    uniformly of the clients that fit the deadline and are not among the fastest; of the others where those are too few.

    Source: FedCS of Nishio and Yonetani (ICC 2019) takes as many fast clients as fit a deadline. It never asks slow ones,
    and their data is not learned; the drawn places are our addition.
    """
    drawn = math.ceil(fairness * size - 1e-9)
    order = np.argsort(expected_s, kind="stable")
    order = order[np.isfinite(expected_s[order])]
    chosen, rest = order[: size - drawn], order[size - drawn :]
    rest = generator(seed, "devices-fair", round, attempt).permutation(rest)
    misfit = expected_s[rest] > (deadline_s or math.inf)
    rest = rest[np.argsort(misfit, kind="stable")]
    return sorted(int(i) for i in (*chosen, *rest[:drawn]))
