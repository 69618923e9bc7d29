"""Shoulder exercises by smartwatch: 7 classes, 10 people × 2 arms = 20 natural clients.

Source: Burns et al., "Shoulder physiotherapy exercise recognition" (2018).

Legend: N windows, S steps of all series together, T steps of a window, F = 6 channels
(acceleration, rotation).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import whole
from fedlearn.data.samples import Dataset, Samples
from fedlearn.data.stored import Arrays, bundled, fetched
from fedlearn.errors import ConfigError

# The arrays of a stored set, as `fedlearn.data.recipes.convert_watch` returns them.
KEYS = ("values", "lengths", "label", "subject", "arm", "rate", "scale")


class Windows(NamedTuple):
    """Where windows lie, and which are held out; each column is (N,)."""

    # The first step, counted over all series end to end.
    starts: NDArray[np.int64]
    # The number of the series.
    series: NDArray[np.int64]
    held_out: NDArray[np.bool_]


def watch(rate: int = 25, window: int = 64, stride: int = 32) -> Dataset:
    """Return the full recordings, float32, 50 Hz.

    rate: in Hz, divides 50; window and stride: in steps at that rate. Raises ConfigError for
    wrong ones, DataError when the set is not fetched.
    """
    arrays = fetched("watch", KEYS)
    return windows("watch", arrays, rate, window, stride)


def watch_mini(rate: int = 25, window: int = 64, stride: int = 32) -> Dataset:
    """Return the recordings at 25 Hz, quantised to 16 bits.

    rate: in Hz, divides 25; window and stride: in steps at that rate. Raises ConfigError for
    wrong ones.
    """
    arrays = bundled("watch-mini", KEYS)
    return windows("watch-mini", arrays, rate, window, stride)


def thin(
    values: NDArray[np.generic], lengths: NDArray[np.int64], every: int
) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    """Keep every n-th step of each series: (S, F) and lengths → fewer steps, lengths // n."""
    # Series lie end to end: each begins where the lengths before it add up to.
    starts = np.cumsum(lengths) - lengths
    parts = []
    for start, length in zip(starts, lengths, strict=True):
        # A last step without n − 1 steps behind it is dropped, so that lengths divide.
        end = start + length - length % every
        parts.append(values[start:end:every])
    return np.concatenate(parts), lengths // every


def windows(name: str, arrays: Arrays, rate: int, window: int, stride: int) -> Dataset:
    """Cut series into windows, hold out the last fifth of each series, normalise each channel.

    The cut lies between windows: no step is in both a training and a test window. Mean and
    standard deviation are those of the training windows, so that nothing of the held-out part
    is used. Raises ConfigError for a rate, window or stride that does not fit.
    """
    recorded_rate = int(arrays["rate"])
    if recorded_rate % whole("[data] rate", rate, 1, recorded_rate):
        raise ConfigError(
            f"[data] rate = {rate} Hz does not divide the {recorded_rate} Hz "
            f"that '{name}' is stored at"
        )
    window = whole("[data] window", window, 2, 10_000)
    stride = whole("[data] stride", stride)
    lengths = arrays["lengths"].astype(np.int64)
    values, lengths = thin(arrays["values"], lengths, recorded_rate // rate)
    starts, series, held_out = cut(lengths, window, stride)
    if held_out.all() or not held_out.any():
        raise ConfigError(
            f"[data] window = {window} at {rate} Hz is longer than the series of "
            f"'{name}'; make it shorter"
        )
    # Positions of the steps of every window, (N, T).
    steps = starts[:, None] + np.arange(window)
    # The mini set holds 16-bit steps; the scale turns them into the sensor's units.
    x = (values[steps] * arrays["scale"]).astype(np.float32)
    train = np.flatnonzero(~held_out)
    labels = arrays["label"].astype(np.int64)[series]
    samples = Samples(_normalised(x, train), labels)
    subject = arrays["subject"].astype(np.int64)[series[train]]
    arm = arrays["arm"].astype(np.int64)[series[train]]
    return Dataset(
        name=name,
        modality="series",
        classes=7,
        input_shape=(window, values.shape[1]),
        train=samples.take(train),
        test=samples.take(np.flatnonzero(held_out)),
        labels=samples.y[train].astype(np.int64),
        # Each arm is a client: people move their arms differently.
        ids={"client": 2 * subject + arm, "subject": subject},
        licence="BSD-3-Clause",
        source="PyPI seglearn 1.2.5",
    )


def _normalised(
    x: NDArray[np.float32], train: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return windows (N, T, F) with mean 0 and deviation 1 of each channel over ``train``."""
    # Sums of some 10^5 float32 values lose digits, so they are taken in float64.
    mean = x[train].mean((0, 1), dtype=np.float64)
    deviation = x[train].std((0, 1), dtype=np.float64)
    scaled = (x - mean) / deviation
    normalised: NDArray[np.float32] = scaled.astype(np.float32)
    return normalised


def cut(lengths: NDArray[np.int64], window: int, stride: int) -> Windows:
    """Return the windows of all series, the last fifth of each series held out.

    The first 4/5 of a series' steps and the last fifth are cut separately. A last fifth shorter
    than one window takes the window that ends the series, and the training part ends before it.
    """
    starts: list[int] = []
    series: list[int] = []
    held_out: list[bool] = []
    begin = 0
    for number, length in enumerate(lengths.tolist()):
        # A short series still gets one window to test on.
        edge = min(length * 4 // 5, length - window)
        training = range(0, edge - window + 1, stride)
        testing = range(max(edge, 0), length - window + 1, stride)
        starts += [begin + step for step in (*training, *testing)]
        series += [number] * (len(training) + len(testing))
        held_out += [False] * len(training) + [True] * len(testing)
        begin += length
    return Windows(
        np.array(starts, np.int64),
        np.array(series, np.int64),
        np.array(held_out, bool),
    )
