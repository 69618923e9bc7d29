"""What is known of a place from what was measured there: means that follow, and their spread.

The estimators are those of TCP's retransmission timer: Jacobson, "Congestion Avoidance and
Control", SIGCOMM 1988. What differs: the newest value counts for 0.3 in place of 1/8, as
requests are fewer than segments, and a place has to be left within some of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Share of the newest value in a mean, and in the mean deviation from it.
NEWEST = 0.3


@dataclass
class Smoothed:
    """A mean that follows its values, and their mean absolute deviation from it.

    newest: share of a new value. count: values so far; 0: the mean says nothing.
    """

    newest: float = NEWEST
    mean: float = 0.0
    deviation: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Take a value; the first one is the mean."""
        if self.count == 0:
            self.mean = value
            # Nothing is known of the spread, so half of the value: RFC 6298, section 2.2.
            self.deviation = value / 2
        else:
            error = value - self.mean
            self.deviation += self.newest * (abs(error) - self.deviation)
            self.mean += self.newest * error
        self.count += 1

    def beyond(self, spreads: float) -> float:
        """Return the mean and so many deviations."""
        return self.mean + spreads * self.deviation


@dataclass
class Link:
    """What a way to another machine costs: seconds of one turn, and seconds a byte.

    newest: as in `Smoothed`.
    """

    newest: float = NEWEST
    turn: Smoothed = field(init=False)
    byte: Smoothed = field(init=False)

    def __post_init__(self) -> None:
        """Begin without a measurement."""
        self.reset()

    def reset(self) -> None:
        """Forget all: after a failure the way may be another one."""
        self.turn = Smoothed(self.newest)
        self.byte = Smoothed(self.newest)

    def probed(self, duration_s: float) -> None:
        """Take how long a question and an answer of nearly no bytes took."""
        self.turn.add(duration_s)

    def carried(self, size_bytes: int, duration_s: float) -> None:
        """Take how long a request's bytes took there and back, without what was computed.

        Without a probe before it, all of it counts as bytes.
        """
        remainder_s = duration_s - self.turn.mean
        # Faster than a turn: the turn has become shorter.
        if remainder_s < 0:
            self.turn.add(duration_s)
            remainder_s = 0.0
        self.byte.add(remainder_s / max(1, size_bytes))

    def transfer_s(self, size_bytes: int) -> float:
        """Return the seconds that a request's bytes are expected to take there and back."""
        return self.turn.mean + size_bytes * self.byte.mean
