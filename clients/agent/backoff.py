"""How long an agent waits before it connects again.

The wait is drawn at random below a bound that doubles with every try. Source: "full jitter" in
Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015). Here the bound pauses
on its way: a coordinator that was killed is mostly back within a few seconds.
"""

from __future__ import annotations

# The bound at the start, and at the end.
LEAST_WAIT_S = 0.1
MOST_WAIT_S = 30.0

# The bound for the first tries, about seven seconds of them.
SOON_WAIT_S = 0.7
SOON_TRIES = 20

# More doublings than these exceed every bound, and in the end the range of a float.
_MAX_DOUBLINGS = 20


def backoff_bound_s(tries: int) -> float:
    """Return the longest wait in seconds before the next try.

    tries: since the last welcome, counted from 1.
    """
    doublings = min(tries, _MAX_DOUBLINGS)
    # Counted from the end of the pause, so that the bound rises on from there.
    late_doublings = min(max(0, tries - SOON_TRIES), _MAX_DOUBLINGS)
    soon_s = SOON_WAIT_S * 2.0**late_doublings
    return min(LEAST_WAIT_S * 2.0**doublings, soon_s, MOST_WAIT_S)
