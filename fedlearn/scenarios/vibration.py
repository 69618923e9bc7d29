"""Vibration of machines, generated: windows of a sensor, as energies of bands of the spectrum.

A window is a sum of what a rotating machine does: its shaft's harmonics, and for a damaged
bearing the ringing after each ball that rolls over the damage. Wear lowers the frequency at
which the housing rings, and raises the noise floor (Randall and Antoni, "Rolling element
bearing diagnostics: a tutorial", Mechanical Systems and Signal Processing, 2011).

Legend: N windows, T samples of a window, B bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# In the order of the model's scores. Sorted, no name is where it was.
CLASSES = ("normal", "bearing", "imbalance", "looseness")

# A quarter of a second.
RATE_HZ = 2048
SAMPLES = 512

BANDS = 16

# Balls that roll over a damage of the outer race in one turn of the shaft.
_BALLS = 3.58

# Decay of the housing's ringing, 1/s.
_DECAY = 180.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Machines:
    """How an owner's machines are.

    shaft_hz: turns a second, on average. ring_hz: at which the housing rings. noise: standard
    deviation of the sensor's noise, where a strong imbalance has an amplitude of 1.
    """

    shaft_hz: float
    ring_hz: float = 720.0
    noise: float = 0.10

    def worn(self, wear: float) -> Machines:
        """Return the same machines after some wear, 0 to 1."""
        ring_hz = self.ring_hz * (1 - 0.35 * wear)
        return Machines(self.shaft_hz, ring_hz, self.noise * (1 + 1.2 * wear))


def windows(
    machines: Machines, count: int, draw: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return ``count`` windows as bands (N, B) float32, and their classes (N,) int64."""
    classes = draw.integers(0, len(CLASSES), count)
    signals = np.stack([_signal(machines, CLASSES[label], draw) for label in classes])
    return bands(signals), classes


def bands(signals: Floats) -> NDArray[np.float32]:
    """Return the energies of signals (N, T) by bands of the spectrum, (N, B), in decades."""
    spectrum = np.abs(np.fft.rfft(signals * np.hanning(SAMPLES), axis=1)) ** 2 / SAMPLES
    # Without the last line, so that all bands have as many.
    lines = spectrum[:, : SAMPLES // 2].reshape(len(signals), BANDS, -1)
    # About 0 on average, from which a model learns fastest.
    decades: Floats = np.log10(lines.mean(-1) + 1e-6) + 2
    return decades.astype(np.float32)


def _signal(machines: Machines, label: str, draw: np.random.Generator) -> Floats:
    """Return one window (T,) of a machine in some condition."""
    times = np.arange(SAMPLES) / RATE_HZ
    # Load changes the speed of a machine from window to window.
    shaft_hz = machines.shaft_hz * draw.normal(1, 0.03)
    # Every machine runs a little out of balance.
    strengths = {1.0: draw.uniform(0.15, 0.35)}
    if label == "imbalance":
        strengths = {1.0: draw.uniform(0.6, 1.2), 2.0: draw.uniform(0.05, 0.15)}
    elif label == "looseness":
        multiples = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0)
        strengths = {multiple: draw.uniform(0.1, 0.4) for multiple in multiples}
    signal = draw.normal(0, machines.noise, SAMPLES)
    for multiple, strength in strengths.items():
        # A window begins anywhere in a turn.
        phase = draw.uniform(0, 2 * np.pi)
        signal += strength * np.sin(2 * np.pi * multiple * shaft_hz * times + phase)
    if label == "bearing":
        signal += _ringing(machines, shaft_hz, times, draw)
    return signal


def _ringing(
    machines: Machines, shaft_hz: float, times: Floats, draw: np.random.Generator
) -> Floats:
    """Return the ringing (T,) of a housing whose bearing is damaged."""
    period_s = 1 / (_BALLS * shaft_hz)
    # Since the last ball rolled over the damage.
    since_s = (times + draw.uniform(0, period_s)) % period_s
    strength = draw.uniform(0.25, 0.7)
    ring_hz = machines.ring_hz * draw.normal(1, 0.02)
    return strength * np.exp(-_DECAY * since_s) * np.sin(2 * np.pi * ring_hz * since_s)
