"""The picture of a replayed trace: how long requests take, and where they are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.reporting import style

# Inches, for two axes above each other.
_HEIGHT = 5.6

# Points of a curve: each is the mean of the requests around it.
_POINTS = 100

Floats = NDArray[np.float64]


def draw(
    path: Path,
    title: str,
    at_s: Floats,
    latency_s: Mapping[str, Floats],
    cloud: NDArray[np.bool_],
) -> None:
    """Draw the latencies of several ways of choosing, and one's places, into a PNG file.

    at_s: arrivals (N,). latency_s: (N,) by name. cloud: (N,), whether the first one asked
    the centre. Raises RecordError when the file cannot be written.
    """
    parts = [
        part for part in np.array_split(np.arange(len(at_s)), _POINTS) if len(part)
    ]
    times = _means(at_s, parts)
    with style.canvas(path, title, _HEIGHT, rows=2, sharex=True) as (_, axes):
        for position, (name, values) in enumerate(latency_s.items()):
            milliseconds = 1000 * _means(values, parts)
            look = style.line_style(position, len(parts))
            axes[0].plot(times, milliseconds, label=name, **look)
        _latency_axis(axes[0])
        axes[1].fill_between(times, _means(cloud.astype(float), parts), step="mid")
        axes[1].set_ylim(0, 1)
        style.percent_axis(axes[1], "at the centre")
        axes[1].set_xlabel("seconds")


def _means(values: Floats, parts: Sequence[NDArray[np.intp]]) -> Floats:
    return np.array([values[part].mean() for part in parts])


def _latency_axis(axes: Any) -> None:
    """Label the vertical axis, whose values span magnitudes where a queue grows."""
    axes.set_yscale("log")
    axes.set_ylabel("latency, ms")
    style.legend_beside(axes)
