"""Where a model is best cut: its head on the device, its tail at the centre.

Source: Kang et al., "Neurosurgeon: Collaborative Intelligence Between the Cloud and Mobile
Edge", ASPLOS 2017: T = T_head + T_transfer + T_tail, least over all cuts. What differs: the
times of head and tail are measured, where the paper predicts them by layer types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# The names of the two ends, which are no cuts.
ALL_HERE = "device"
ALL_THERE = "centre"


@dataclass(frozen=True)
class CutPoint:
    """A place where a model may be cut.

    head_s: of what the device computes, tail_s: of what the centre computes, each measured
    on its machine for one sample. crossing_bytes: of one sample; 0: nothing crosses.
    """

    name: str
    head_s: float
    tail_s: float
    crossing_bytes: int

    def total_s(self, turn_s: float, byte_s: float) -> float:
        """Return the seconds of one sample over a link. turn_s: its round trip."""
        if not self.crossing_bytes:
            return self.head_s
        transfer_s = turn_s + self.crossing_bytes * byte_s
        return self.head_s + transfer_s + self.tail_s


def best_cut(points: Sequence[CutPoint], turn_s: float, byte_s: float) -> CutPoint:
    """Return the point of the shortest time; of equal ones the first."""
    return min(points, key=lambda point: point.total_s(turn_s, byte_s))


def unbeaten(points: Sequence[CutPoint]) -> list[CutPoint]:
    """Return the points that are the best over some link, in their order.

    A point whose head and tail together, and whose bytes, are not less than another's is
    the best over no link. A device keeps these alone, and chooses as its link changes.
    """
    front = []
    for point in points:
        rivals = [other for other in points if other is not point]
        if not any(_beats(other, point) for other in rivals):
            front.append(point)
    return front


def _beats(other: CutPoint, point: CutPoint) -> bool:
    """Tell whether a point is at least as good over every link, and better over one."""
    computed_s = other.head_s + other.tail_s
    own_s = point.head_s + point.tail_s
    is_no_worse = computed_s <= own_s and other.crossing_bytes <= point.crossing_bytes
    is_better = computed_s < own_s or other.crossing_bytes < point.crossing_bytes
    return is_no_worse and is_better
