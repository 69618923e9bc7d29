"""Forecasts: by hand, beside the last value, and only used where they are nearer."""

import math

import numpy as np
import pytest

from fedlearn.clients.placement.forecast import (
    Ewma,
    Forecast,
    Forecaster,
    Holt,
    LastValue,
    batch_limit,
)

LENGTH = 600


def arrivals(kind: str, seed: int) -> list[float]:
    """Return counts of requests a second, as a fleet's day in ten minutes."""
    generator = np.random.default_rng([seed, len(kind)])
    time = np.arange(LENGTH)
    rates = {
        "steady": np.full(LENGTH, 40.0),
        "day": 60 + 40 * np.sin(2 * np.pi * time / LENGTH),
        "ramp": 10 + 0.5 * time,
        "steps": np.where((time // 100) % 2, 20.0, 90.0),
    }
    if kind == "walk":
        return (200 + np.cumsum(generator.normal(0, 10, LENGTH))).clip(0).tolist()
    return generator.poisson(rates[kind]).astype(float).tolist()


def errors(counts: list[float]) -> dict[str, float]:
    """Return each method's mean absolute error, and that of what is used."""
    forecast = Forecast()
    methods: dict[str, Forecaster] = {
        "last value": LastValue(),
        "ewma": Ewma(),
        "holt": Holt(),
        "used": forecast,
    }
    totals = dict.fromkeys(methods, 0.0)
    for count in counts:
        for name, method in methods.items():
            totals[name] += abs(method.next() - count)
            method.add(count)
    return {name: total / len(counts) for name, total in totals.items()}


def test_a_level_follows_as_computed_by_hand():
    ewma = Ewma(weight=0.5)
    assert ewma.next() == 0.0
    for count in (8.0, 4.0, 0.0):
        ewma.add(count)
    # 8, then 6, then 3.
    assert ewma.next() == 3.0


def test_a_trend_follows_as_computed_by_hand():
    holt = Holt(level_weight=0.5, trend_weight=0.5)
    holt.add(10.0)
    holt.add(14.0)
    # The level goes half of the way, to 12, and the trend half of that, to 1.
    assert (holt.level, holt.trend, holt.next()) == (12.0, 1.0, 13.0)
    holt.add(-40.0)
    assert holt.next() == 0.0


def test_a_trend_that_stays_is_forecast_exactly():
    holt = Holt()
    for number in range(400):
        holt.add(5.0 + 2.0 * number)
    assert holt.next() == pytest.approx(5.0 + 2.0 * 400)


@pytest.mark.parametrize("kind", ["steady", "day", "ramp", "steps", "walk"])
def test_what_is_used_is_never_much_worse_than_the_last_value(kind):
    for seed in range(3):
        figures = errors(arrivals(kind, seed))
        assert figures["used"] <= 1.02 * figures["last value"]
        # Noise that is smoothed away is nearer; a walk has no such noise.
        if kind in ("steady", "day", "ramp"):
            assert figures["used"] < 0.9 * figures["last value"]


def test_without_errors_the_last_value_is_used():
    forecast = Forecast()
    assert (forecast.name, forecast.next()) == ("last value", 0.0)
    forecast.add(7.0)
    assert (forecast.name, forecast.next()) == ("last value", 7.0)


@pytest.mark.parametrize(
    ("rate", "row_s", "deadline_s", "limit"),
    [
        # Half of 50 ms are ten samples of 2.5 ms.
        (10.0, 0.0025, 0.05, 10),
        (10.0, 0.0025, math.inf, 32),
        (10.0, 0.0, 0.05, 32),
        (10.0, 0.05, 0.05, 1),
        # Nine tenths of the device's time: throughput comes first.
        (360.0, 0.0025, 0.05, 32),
    ],
)
def test_a_batch_is_as_large_as_the_shortest_deadline_allows(
    rate, row_s, deadline_s, limit
):
    assert batch_limit(rate, row_s, deadline_s, 32) == limit


if __name__ == "__main__":
    for kind in ("steady", "day", "ramp", "steps", "walk"):
        tables = [errors(arrivals(kind, seed)) for seed in range(10)]
        means = {name: np.mean([table[name] for table in tables]) for name in tables[0]}
        print(kind, *(f"{name} {mean:.2f}" for name, mean in means.items()), sep="  ")
