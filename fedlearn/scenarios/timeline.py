"""The pictures of scenarios: what a device ran, and how it did, over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.reporting import style
from fedlearn.scenarios.asking import Answer, accuracy

# Inches, for three axes above each other.
_HEIGHT = 6.4

# Seconds whose answers make a point of a curve.
_BIN_S = 2.0

Marks = Sequence[tuple[float, str]]


def draw_fleet(
    path: Path,
    title: str,
    answers: Sequence[Answer],
    drifts: Sequence[tuple[float, int, float]],
    marks: Marks,
) -> None:
    """Draw versions, accuracy and drift of a fleet's devices into a PNG file.

    drifts: (at_s, device, index). marks: (at_s, text). Raises RecordError when the file
    cannot be written.
    """
    began_s = answers[0].at_s
    devices = sorted({answer.device for answer in answers})
    with style.canvas(path, title, _HEIGHT, rows=3, sharex=True) as (_, axes):
        for device in devices:
            own = [answer for answer in answers if answer.device == device]
            draw_versions(axes[0], device, own, began_s)
            _draw_accuracy(axes[1], device, own, began_s)
            times = [at_s - began_s for at_s, who, _ in drifts if who == device]
            indices = [index for _, who, index in drifts if who == device]
            look = style.line_style(device, len(times))
            axes[2].plot(times, indices, label=f"device {device}", **look)
        _device_axis(axes[0], devices)
        style.percent_axis(axes[1])
        style.legend_beside(axes[1])
        axes[2].axhline(0.25, color=style.GREY, linewidth=1.0)
        axes[2].set_ylabel("drift")
        axes[2].set_xlabel("seconds")
        for axis in axes:
            draw_marks(axis, marks, began_s, is_named=axis is axes[1])


def draw_versions(
    axis: Any, row: int, answers: Sequence[Answer], began_s: float
) -> None:
    """Draw a bar for each time in which one version answered."""
    start = 0
    for place in range(1, len(answers) + 1):
        is_end = place == len(answers)
        if not is_end and answers[place].version == answers[start].version:
            continue
        version = answers[start].version
        left = answers[start].at_s - began_s
        # Up to the first answer of the next version: no device is without one.
        right = answers[place - is_end].at_s - began_s
        colour = style.COLOURS[(int(version) - 1) % len(style.COLOURS)]
        axis.barh(row, right - left, left=left, height=0.6, color=colour)
        axis.annotate(
            version, ((left + right) / 2, row), ha="center", va="center", color="white"
        )
        start = place


def draw_marks(axis: Any, marks: Marks, began_s: float, is_named: bool) -> None:
    """Draw a line at each moment; is_named: with its text beside it."""
    for at_s, text in marks:
        axis.axvline(
            at_s - began_s, color=style.GREY, linestyle=(0, (2, 2)), linewidth=1
        )
        if is_named and text:
            place = (at_s - began_s, axis.get_ylim()[0])
            axis.annotate(f" {text}", place, color=style.FAINT, fontsize=9, va="bottom")


def _device_axis(axis: Any, devices: Sequence[int]) -> None:
    axis.set_yticks(devices, [f"device {device}" for device in devices])
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.set_ylabel("release")


def _draw_accuracy(
    axis: Any, device: int, answers: Sequence[Answer], began_s: float
) -> None:
    """Draw the share of right answers, of each two seconds."""
    bins = np.array([int((answer.at_s - began_s) / _BIN_S) for answer in answers])
    times = []
    shares = []
    for index in np.unique(bins):
        members = np.flatnonzero(bins == index)
        times.append((index + 0.5) * _BIN_S)
        shares.append(accuracy([answers[member] for member in members]))
    look = style.line_style(device, len(times))
    axis.plot(times, shares, label=f"device {device}", **look)
