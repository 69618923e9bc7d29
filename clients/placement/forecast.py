"""How many requests the next period brings, from those before it.

Sources: Holt, "Forecasting Seasonals and Trends by Exponentially Weighted Moving Averages",
ONR memorandum 52, 1957, for a level with a trend; Brown, "Exponential Smoothing for
Predicting Demand", 1956, for a level alone. The last value is what both have to beat: the
forecast is a smoothed one only while that was nearer by a twentieth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

# Weights of the newest count in a level, and of the newest change in a trend.
_LEVEL = 0.3
_TREND = 0.1

# Weight of the newest error, and the share that a method has to be nearer by.
_ERROR = 0.05
_NEARER = 0.95

# Share of the shortest deadline that one batch may take, so that a request which just
# missed it is still in time with the next one.
_BATCH_SHARE = 0.5
# Share of the device's time from which on throughput matters more.
_LOADED = 0.8


class Forecaster(Protocol):
    """A method: what it expects, and what came."""

    def next(self) -> float:
        """Return the count that is expected."""

    def add(self, count: float) -> None:
        """Take the count that came."""


@dataclass
class LastValue:
    """Expects what came last."""

    value: float = 0.0

    def next(self) -> float:
        """Return the last count."""
        return self.value

    def add(self, count: float) -> None:
        """Take a count."""
        self.value = count


@dataclass
class Ewma:
    """Expects a mean that follows."""

    weight: float = _LEVEL
    level: float = math.nan

    def next(self) -> float:
        """Return the mean."""
        return 0.0 if math.isnan(self.level) else self.level

    def add(self, count: float) -> None:
        """Take a count; the first one is the mean."""
        if math.isnan(self.level):
            self.level = count
        else:
            self.level += self.weight * (count - self.level)


@dataclass
class Holt:
    """Expects a level that follows, and the trend that it has."""

    level_weight: float = _LEVEL
    trend_weight: float = _TREND
    level: float = math.nan
    trend: float = 0.0

    def next(self) -> float:
        """Return the level one period on, which is no count below 0."""
        return 0.0 if math.isnan(self.level) else max(0.0, self.level + self.trend)

    def add(self, count: float) -> None:
        """Take a count; the first one is the level."""
        if math.isnan(self.level):
            self.level = count
            return
        before = self.level
        expected = before + self.trend
        self.level = expected + self.level_weight * (count - expected)
        change = self.level - before
        self.trend += self.trend_weight * (change - self.trend)


def _methods() -> dict[str, Forecaster]:
    return {"last value": LastValue(), "ewma": Ewma(), "holt": Holt()}


@dataclass
class Forecast:
    """The nearest of the methods so far. errors: mean absolute ones, newer ones count more."""

    methods: dict[str, Forecaster] = field(default_factory=_methods)
    errors: dict[str, float] = field(default_factory=dict)
    count: int = 0

    @property
    def name(self) -> str:
        """Return the method that is used: the last value's, unless another is clearly nearer."""
        first = next(iter(self.methods))
        if not self.errors:
            return first
        nearest = min(self.errors, key=lambda name: self.errors[name])
        is_nearer = self.errors[nearest] < _NEARER * self.errors[first]
        return nearest if is_nearer else first

    def next(self) -> float:
        """Return the count that is expected of the next period."""
        return self.methods[self.name].next()

    def add(self, count: float) -> None:
        """Take the count of a period that has ended."""
        self.count += 1
        for name, method in self.methods.items():
            error = abs(method.next() - count)
            # Before the first count no method expects anything.
            if self.count > 1:
                before = self.errors.get(name, error)
                self.errors[name] = before + _ERROR * (error - before)
            method.add(count)


def batch_limit(rate: float, row_s: float, deadline_s: float, most: int) -> int:
    """Return how many samples a batch may have, 1 to ``most``.

    rate: samples a second that are expected. row_s: of one sample in a batch. deadline_s:
    the shortest of all classes; infinite: none has one. Small batches keep urgent requests
    in time; a device near its limit needs large ones.
    """
    is_loaded = rate * row_s > _LOADED
    if row_s <= 0 or is_loaded or math.isinf(deadline_s):
        return most
    return max(1, min(most, int(_BATCH_SHARE * deadline_s / row_s)))
