"""Several places share one load: the shorter expected wait of two that are drawn.

Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS
2001. What differs: a wait is a measured one, requests on their way times what one takes
there, so a slow machine gets fewer. To look at all places would send every device to the
same one, the moment that it looks the best.
"""

from __future__ import annotations

import random
from collections.abc import Sequence


def expected_wait_s(on_their_way: int, service_s: float) -> float:
    """Return how long one more request would take behind those on their way."""
    return (on_their_way + 1) * service_s


def of_two(waits_s: Sequence[float], generator: random.Random) -> int:
    """Return the place of the shorter wait of two that are drawn.

    waits_s: expected at each place, one at least; infinite: it is down. A place that is
    down is not drawn unless all are.
    """
    places = [place for place, wait_s in enumerate(waits_s) if wait_s < float("inf")]
    if not places:
        return generator.randrange(len(waits_s))
    first, second = (generator.choice(places), generator.choice(places))
    if len(places) > 1:
        first, second = generator.sample(places, 2)
    return first if waits_s[first] <= waits_s[second] else second


def shortest(waits_s: Sequence[float]) -> int:
    """Return the place of the shortest wait: what `of_two` comes near to, seeing two."""
    return min(range(len(waits_s)), key=lambda place: waits_s[place])
