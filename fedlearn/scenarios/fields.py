"""Series of soil sensors, drawn: what the fields of the scenario ``soil`` measure.

A field is a bucket of water: heat empties it, rain fills it, and its soil decides how fast
(Manabe, "Climate and the Ocean Circulation", Monthly Weather Review 1969). What differs:
steps of an hour, and salt that stays behind when water leaves.

Legend: N samples, H = 48 hours, F = 4 channels: moisture as a share of what the soil can
hold, temperature in tens of °C, salinity in dS/m and rain in cm an hour. Each is less its
usual value, by its usual spread: so networks learn from all four alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# In the order of their labels; "flush": the salt has to be washed out.
CLASSES = ("leave", "irrigate", "flush")
CHANNELS = ("moisture", "temperature", "salinity", "rain")

# Usual values of the channels and their spreads, in the channels' units.
_USUAL = np.array([0.6, 1.7, 2.3, 0.0])
_SPREAD = np.array([0.2, 0.65, 1.9, 0.1])

HOURS = 48

# Each farm's training samples, and its soils: how fast they dry, and how salty they are.
FARMS = {
    "sandy hill": (420, 1.7, 0.7),
    "river meadow": (360, 0.7, 0.8),
    "clay valley": (300, 0.5, 1.1),
    "coast": (260, 1.1, 2.0),
    "greenhouse": (200, 1.5, 1.6),
    "orchard": (160, 0.9, 0.9),
    "polder": (120, 0.7, 2.2),
    "vineyard": (90, 1.4, 0.6),
}

_TESTS = 600

# Hours after a window that its label looks ahead.
_AHEAD = 24

# Below this moisture plants suffer; above this salinity, too.
_DRY = 0.4
_SALTY = 4.0

Floats = NDArray[np.float64]
Series = NDArray[np.float32]


def load(seed: int) -> tuple[Any, Any, Any, Any, Any]:
    """Return the farms' windows, as a data set of `fedlearn.data.own` has them.

    x: (N, H, F) float32. y: (N,) int64. The last part has the owners' names (N,).
    """
    generator = np.random.default_rng([seed, 1])
    parts = []
    names: list[str] = []
    for name, (count, drying, salt) in FARMS.items():
        parts.append(measured(count, drying, salt, generator))
        names += [name] * count
    x = np.concatenate([series for series, _ in parts])
    y = np.concatenate([labels for _, labels in parts])
    x_test, y_test = samples(_TESTS, generator)
    return x, y, x_test, y_test, np.array(names)


def samples(
    count: int, generator: np.random.Generator
) -> tuple[Series, NDArray[np.int64]]:
    """Return windows of all farms in turn, and their labels: (N, H, F) and (N,)."""
    farms = [FARMS[name] for name in FARMS]
    drying = np.array([farms[i % len(farms)][1] for i in range(count)])
    salt = np.array([farms[i % len(farms)][2] for i in range(count)])
    return measured(count, drying, salt, generator)


def measured(
    count: int,
    drying: float | Floats,
    salt: float | Floats,
    generator: np.random.Generator,
) -> tuple[Series, NDArray[np.int64]]:
    """Return windows and what the day after them asks for: (N, H, F) and (N,).

    drying, salt: of the soils, 1 is usual; a number, or one for each sample.
    """
    hours = HOURS + _AHEAD
    heat = _temperature(count, hours, generator)
    rain = _rain(count, hours, generator)
    # Water that an hour takes from a full bucket: plants drink while it is warm.
    takes = 0.004 * drying * generator.uniform(0.7, 1.3, count)
    # Where a window begins is chance: after rain, or in a drought.
    water = generator.uniform(0.35, 1.0, count)
    mass = salt * generator.uniform(0.5, 1.6, count)
    moisture = np.empty((count, hours))
    salinity = np.empty((count, hours))
    for hour in range(hours):
        water = water - takes * heat[:, hour] * np.sqrt(water) + 0.25 * rain[:, hour]
        # What runs off takes salt along.
        mass = mass * np.where(water > 1, 0.97, 1)
        # Dry soil still holds some water that no plant can drink.
        water = np.clip(water, 0.05, 1)
        moisture[:, hour] = water
        salinity[:, hour] = mass / water
    x = np.stack([moisture, heat, salinity, rain], axis=2)[:, :HOURS]
    # Of cheap sensors; rain is counted in drops, and has none.
    noise = generator.normal(0, [0.02, 0.05, 0.1, 0.0], x.shape)
    x = (x + noise - _USUAL) / _SPREAD
    return x.astype(np.float32), labels_of(moisture, salinity)


def labels_of(moisture: Floats, salinity: Floats) -> NDArray[np.int64]:
    """Return what the day after asks for, of (N, hours)."""
    # Washing out salt waters the field, too: it comes first.
    is_dry = moisture[:, HOURS:].min(axis=1) < _DRY
    is_salty = salinity[:, HOURS:].max(axis=1) > _SALTY
    return np.where(is_salty, 2, np.where(is_dry, 1, 0))


def _temperature(count: int, hours: int, generator: np.random.Generator) -> Floats:
    """Return days and nights in tens of °C (N, hours)."""
    # From a cool spring to a hot summer.
    mean = generator.uniform(0.8, 2.6, (count, 1))
    swing = generator.uniform(0.2, 0.8, (count, 1))
    phase = generator.uniform(0, 24, (count, 1))
    wave = np.sin(2 * np.pi * (np.arange(hours) + phase) / 24)
    return np.maximum(0, mean + swing * wave)


def _rain(count: int, hours: int, generator: np.random.Generator) -> Floats:
    """Return showers in cm an hour (N, hours); wet weather lasts for some hours."""
    wet = generator.random(count) < 0.1
    rain = np.zeros((count, hours))
    for hour in range(hours):
        ends = generator.random(count) < 0.3
        begins = generator.random(count) < 0.02
        wet = np.where(wet, ~ends, begins)
        rain[:, hour] = wet * generator.exponential(0.25, count)
    return rain
