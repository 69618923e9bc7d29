"""Shoulder exercises by smartwatch (Burns et al., 2018): 7 classes, 10 people × 2 arms = 20 natural clients.

Legend: N windows, S steps of all series together, T steps of a window, F = 6 channels (acceleration, rotation).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import whole
from fedlearn.data.samples import Dataset, Samples
from fedlearn.data.stored import Arrays, bundled, fetched
from fedlearn.errors import ConfigError

KEYS = ("values", "lengths", "label", "subject", "arm", "rate", "scale")


def watch(rate: int = 25, window: int = 64, stride: int = 32) -> Dataset:
    """Return the full recordings (50 Hz, float32); rate in Hz divides 50, window and stride in steps at that rate."""
    return windows("watch", fetched("watch", KEYS), rate, window, stride)


def watch_mini(rate: int = 25, window: int = 64, stride: int = 32) -> Dataset:
    """Return the recordings at 25 Hz, quantised to 16 bits; rate in Hz divides 25, window and stride in steps."""
    return windows("watch-mini", bundled("watch-mini", KEYS), rate, window, stride)


def thin(
    values: NDArray[np.generic], lengths: NDArray[np.int64], every: int
) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    """Keep every n-th step of each series: (S, F) and lengths → fewer steps, lengths // n."""
    starts = np.cumsum(lengths) - lengths
    kept = [
        values[start : start + length - length % every : every]
        for start, length in zip(starts, lengths, strict=True)
    ]
    return np.concatenate(kept), lengths // every


def windows(name: str, arrays: Arrays, rate: int, window: int, stride: int) -> Dataset:
    """Cut series into windows, hold out the last fifth of every series in time, and normalise each channel.

    The cut lies between windows: no step is in both a training and a test window. Mean and standard deviation are
    those of the training windows.
    """
    recorded = int(arrays["rate"])
    if recorded % whole("[data] rate", rate, 1, recorded):
        raise ConfigError(
            f"[data] rate = {rate} Hz does not divide the {recorded} Hz that '{name}' is stored at"
        )
    window, stride = (
        whole("[data] window", window, 2, 10_000),
        whole("[data] stride", stride),
    )
    values, lengths = thin(
        arrays["values"], arrays["lengths"].astype(np.int64), recorded // rate
    )
    starts, series, held_out = cut(lengths, window, stride)
    if held_out.all() or not held_out.any():
        raise ConfigError(
            f"[data] window = {window} at {rate} Hz is longer than the series of '{name}'; make it shorter"
        )
    x = (values[starts[:, None] + np.arange(window)] * arrays["scale"]).astype(
        np.float32
    )
    train = np.flatnonzero(~held_out)
    mean, deviation = (
        x[train].mean((0, 1), dtype=np.float64),
        x[train].std((0, 1), dtype=np.float64),
    )
    samples = Samples(
        ((x - mean) / deviation).astype(np.float32),
        arrays["label"].astype(np.int64)[series],
    )
    subject = arrays["subject"].astype(np.int64)[series[train]]
    return Dataset(
        name=name,
        modality="series",
        classes=7,
        input_shape=(window, values.shape[1]),
        train=samples.take(train),
        test=samples.take(np.flatnonzero(held_out)),
        labels=samples.y[train].astype(np.int64),
        ids={
            "client": 2 * subject + arrays["arm"].astype(np.int64)[series[train]],
            "subject": subject,
        },
        licence="BSD-3-Clause",
        source="PyPI seglearn 1.2.5",
    )


def cut(
    lengths: NDArray[np.int64], window: int, stride: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the first step (N,), the series (N,) and "held out" (N,) of every window.

    The first 4/5 of a series' steps and the last fifth are cut separately. A last fifth shorter than one window
    takes the window that ends the series, and the training part ends before it.
    """
    found: list[tuple[int, int, bool]] = []
    begin = 0
    for series, length in enumerate(lengths.tolist()):
        edge = min(length * 4 // 5, length - window)
        found += [
            (begin + at, series, False) for at in range(0, edge - window + 1, stride)
        ]
        found += [
            (begin + at, series, True)
            for at in range(max(edge, 0), length - window + 1, stride)
        ]
        begin += length
    starts, owners, held_out = (
        (np.array(column) for column in zip(*found, strict=True))
        if found
        else (np.empty(0, int),) * 3
    )
    return starts.astype(np.int64), owners.astype(np.int64), held_out.astype(bool)
