"""Pictures of vehicles on roads, drawn: what the cameras of the scenario ``traffic`` see.

Legend: N pictures, S = 28 pixels a side. A picture is (S, S) uint8, a vehicle from its side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# In the order of their labels.
CLASSES = ("bicycle", "bus", "car", "lorry")

SIDE = 28

# Each owner's cameras: training pictures, and shares of the classes. A cycle path knows few
# lorries and a motorway no bicycles, so nobody alone could learn all four.
OWNERS = {
    "motorway": (620, (0.00, 0.08, 0.52, 0.40)),
    "ring road": (420, (0.04, 0.16, 0.55, 0.25)),
    "high street": (330, (0.30, 0.22, 0.43, 0.05)),
    "bus station": (240, (0.10, 0.70, 0.15, 0.05)),
    "harbour": (210, (0.02, 0.03, 0.25, 0.70)),
    "school": (180, (0.45, 0.15, 0.38, 0.02)),
    "cycle path": (140, (0.90, 0.00, 0.08, 0.02)),
    "village": (90, (0.20, 0.10, 0.60, 0.10)),
}

# Held-out pictures, the same number of each class.
_TESTS = 400

Picture = NDArray[np.uint8]
_Canvas = NDArray[np.float64]


def load(seed: int) -> tuple[Any, Any, Any, Any, Any]:
    """Return the owners' pictures, as a data set of `fedlearn.data.own` has them.

    x: (N, 1, S, S) uint8. y: (N,) int64. The last part has the owners' names (N,).
    """
    # Each part of a scenario draws from a stream of its own: none changes another.
    generator = np.random.default_rng([seed, 0])
    labels: list[int] = []
    names: list[str] = []
    for name, (count, shares) in OWNERS.items():
        labels += generator.choice(len(CLASSES), count, p=shares).tolist()
        names += [name] * count
    tests = np.arange(_TESTS) % len(CLASSES)
    pictures = drawn(np.array(labels), generator)
    held_out = drawn(tests, generator)
    return pictures, np.array(labels), held_out, tests, np.array(names)


def drawn(labels: NDArray[np.int64], generator: np.random.Generator) -> Picture:
    """Return a picture for each label (N,): (N, 1, S, S)."""
    return np.stack([draw(int(label), generator) for label in labels])[:, None]


def draw(label: int, generator: np.random.Generator) -> Picture:
    """Return one picture (S, S) of a vehicle of a class, by day or by night."""
    canvas = _road(generator)
    paint = generator.uniform(0.35, 1.0)
    ground = int(generator.integers(19, 25))
    length, painter = _PAINTERS[label]
    # No two vehicles of a kind are equally long.
    length += int(generator.integers(-2, 3))
    left = int(generator.integers(0, SIDE - length + 1))
    painter(canvas, left, ground, length, paint)
    # Half of them drive the other way.
    if generator.random() < 0.5:
        canvas = canvas[:, ::-1]
    # A pole before the camera hides a part of every fourth vehicle.
    if generator.random() < 0.25:
        column = int(generator.integers(2, SIDE - 4))
        canvas[:, column : column + 2] = 0.5
    return _exposed(canvas, generator)


def _road(generator: np.random.Generator) -> _Canvas:
    """Return sky, hedge and road, without a vehicle."""
    canvas = np.full((SIDE, SIDE), generator.uniform(0.10, 0.30))
    horizon = int(generator.integers(4, 9))
    # Lighter above: clouds by day, lamps by night.
    canvas[:horizon] += generator.uniform(0.0, 0.35)
    # The kerb.
    canvas[-2:] += 0.15
    return canvas


def _exposed(canvas: _Canvas, generator: np.random.Generator) -> Picture:
    """Return a canvas as a cheap camera sees it: light, and noise."""
    light = generator.uniform(0.45, 1.0)
    noise = generator.normal(0.0, 0.07, canvas.shape)
    return (255 * np.clip(light * canvas + noise, 0, 1)).astype(np.uint8)


def _wheel(canvas: _Canvas, centre: int, ground: int, radius: float) -> None:
    """Paint a wheel that stands on the ground; what is outside the picture is left out."""
    rows, columns = np.indices(canvas.shape)
    distance = np.hypot(rows - (ground - radius), columns - centre)
    # A dark tyre, and a lighter rim in it.
    canvas[distance <= radius] = 0.02
    canvas[distance <= radius - 1.5] = 0.6


def _bicycle(
    canvas: _Canvas, left: int, ground: int, length: int, paint: float
) -> None:
    rows, columns = np.indices(canvas.shape)
    # Rings, where all other wheels are discs.
    for centre in (left + 3, left + length - 3):
        distance = np.hypot(rows - (ground - 3), columns - centre)
        canvas[(distance >= 2) & (distance <= 3.2)] = paint
    middle = left + length // 2
    canvas[ground - 7 : ground - 6, left + 3 : left + length - 3] = paint
    # Who rides it: a back and a head.
    canvas[ground - 12 : ground - 6, middle - 1 : middle + 1] = paint
    canvas[ground - 15 : ground - 12, middle - 1 : middle + 2] = paint


def _bus(canvas: _Canvas, left: int, ground: int, length: int, paint: float) -> None:
    canvas[ground - 12 : ground - 1, left : left + length] = paint
    # A row of windows, all along it.
    canvas[ground - 10 : ground - 6, left + 1 : left + length - 1] = 0.12
    # Posts between them.
    canvas[ground - 10 : ground - 6, left + 4 : left + length : 5] = paint
    for centre in (left + 4, left + length - 5):
        _wheel(canvas, centre, ground, 2)


def _car(canvas: _Canvas, left: int, ground: int, length: int, paint: float) -> None:
    canvas[ground - 6 : ground - 1, left : left + length] = paint
    # A roof that is shorter than the body, and its windows.
    canvas[ground - 10 : ground - 6, left + 4 : left + length - 3] = paint
    canvas[ground - 9 : ground - 6, left + 5 : left + length - 4] = 0.12
    for centre in (left + 3, left + length - 4):
        _wheel(canvas, centre, ground, 2)


def _lorry(canvas: _Canvas, left: int, ground: int, length: int, paint: float) -> None:
    canvas[ground - 13 : ground - 2, left : left + length - 6] = paint
    # The cab, lower and apart from the load.
    canvas[ground - 10 : ground - 2, left + length - 5 : left + length] = 0.8 * paint
    canvas[ground - 9 : ground - 6, left + length - 3 : left + length - 1] = 0.12
    for centre in (left + 3, left + 7, left + length - 3):
        _wheel(canvas, centre, ground, 2)


# Length in pixels, and what paints it, in the order of `CLASSES`.
_PAINTERS = ((13, _bicycle), (22, _bus), (15, _car), (23, _lorry))
