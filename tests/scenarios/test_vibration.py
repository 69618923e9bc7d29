"""Generated vibration: the conditions can be told apart, and wear moves the spectrum."""

import numpy as np

from fedlearn.scenarios.vibration import (
    BANDS,
    CLASSES,
    RATE_HZ,
    SAMPLES,
    Machines,
    bands,
    windows,
)


def test_a_tone_is_in_its_own_band():
    times = np.arange(SAMPLES) / RATE_HZ
    band_hz = RATE_HZ / 2 / BANDS
    tones = [
        np.sin(2 * np.pi * (band + 0.5) * band_hz * times) for band in range(BANDS)
    ]
    energies = bands(np.stack(tones))
    assert energies.shape == (BANDS, BANDS) and energies.dtype == np.float32
    assert energies.argmax(1).tolist() == list(range(BANDS))


def test_a_seed_draws_the_same_windows():
    draws = [windows(Machines(25.0), 20, np.random.default_rng(3)) for _ in range(2)]
    np.testing.assert_array_equal(draws[0][0], draws[1][0])
    np.testing.assert_array_equal(draws[0][1], draws[1][1])
    other, _ = windows(Machines(25.0), 20, np.random.default_rng(4))
    assert not np.array_equal(draws[0][0], other)


def test_a_damaged_bearing_rings_and_wear_lowers_it():
    peaks = []
    for machines in (Machines(25.0), Machines(25.0).worn(1.0)):
        x, y = windows(machines, 400, np.random.default_rng(0))
        means = [x[y == CLASSES.index(name)].mean(0) for name in ("normal", "bearing")]
        # Above the shaft's harmonics.
        peaks.append(4 + int((means[1] - means[0])[4:].argmax()))
    band_hz = RATE_HZ / 2 / BANDS
    assert peaks == [int(720 // band_hz), int(720 * 0.65 // band_hz)]


def test_no_class_keeps_its_place_when_the_names_are_sorted():
    assert all(a != b for a, b in zip(CLASSES, sorted(CLASSES), strict=True))
