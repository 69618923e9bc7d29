"""The pictures of scenarios: what a device ran, and how it did, over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.reporting import style
from fedlearn.scenarios.asking import DeviceAnswer, accuracy

# Inches, for three axes above each other.
_HEIGHT = 6.4
_LINK_HEIGHT = 4.2

# Seconds whose answers make a point of a curve.
_BIN_S = 2.0

# A bar of fewer seconds has no room for its version.
_LABELLED_S = 2.0

# Between two measurements: across a longer gap there is no line.
_GAP_S = 3.0

# Heights at which the texts of moments stand, in turns.
_MARK_ROWS = 4

Marks = Sequence[tuple[float, str]]


def draw_fleet(
    path: Path,
    title: str,
    answers: Sequence[DeviceAnswer],
    drifts: Sequence[tuple[float, int, float]],
    marks: Marks,
) -> None:
    """Draw versions, accuracy and drift of a fleet's devices into a PNG file.

    drifts: (at_s, device, index). marks: (at_s, text). Raises RecordError when the file
    cannot be written.
    """
    # From the first answer on: what came before is set-up.
    began_s = answers[0].at_s
    devices = sorted({answer.device for answer in answers})
    with style.canvas(path, title, _HEIGHT, rows=3, sharex=True) as (_, axes):
        for device in devices:
            own = [answer for answer in answers if answer.device == device]
            draw_versions(axes[0], device, own, began_s)
            _draw_accuracy(axes[1], device, own, began_s)
            _draw_drift(axes[2], device, drifts, began_s)
        _device_axis(axes[0], devices)
        style.percent_axis(axes[1])
        style.legend_beside(axes[1])
        # From here on drift is an event of the fleet (docs/fleet.md).
        axes[2].axhline(0.25, color=style.GREY, linewidth=1.0)
        axes[2].set_ylabel("drift")
        axes[2].set_xlabel("seconds")
        for axis in axes:
            draw_marks(axis, marks, began_s, is_named=axis is axes[1])


def draw_versions(
    axis: Any, row: int, answers: Sequence[DeviceAnswer], began_s: float
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
        if right - left >= _LABELLED_S:
            middle = ((left + right) / 2, row)
            axis.annotate(version, middle, ha="center", va="center", color="white")
        start = place


def draw_marks(axis: Any, marks: Marks, began_s: float, is_named: bool) -> None:
    """Draw a line at each moment; is_named: with its text beside it."""
    for row, (at_s, text) in enumerate(marks):
        left = at_s - began_s
        axis.axvline(left, color=style.GREY, linestyle=(0, (2, 2)), linewidth=1)
        if is_named:
            # In turns: moments may be close to each other.
            height = 0.04 + 0.12 * (row % _MARK_ROWS)
            place = axis.get_xaxis_transform()
            axis.text(
                left, height, f" {text}", transform=place, color=style.FAINT, size=9
            )


def _device_axis(axis: Any, devices: Sequence[int]) -> None:
    axis.set_yticks(devices, [f"device {device}" for device in devices])
    # Device 0 above, as in the text.
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.set_ylabel("release")


def _draw_accuracy(
    axis: Any, device: int, answers: Sequence[DeviceAnswer], began_s: float
) -> None:
    """Draw the share of right answers, of each two seconds."""
    bins = np.array([int((answer.at_s - began_s) / _BIN_S) for answer in answers])
    times = []
    shares = []
    for index in np.unique(bins):
        members = np.flatnonzero(bins == index)
        times.append((index + 0.5) * _BIN_S)
        shares.append(accuracy([answers[int(member)] for member in members]))
    look = style.line_style(device, len(times))
    axis.plot(times, shares, label=f"device {device}", **look)


def _draw_drift(
    axis: Any, device: int, drifts: Sequence[tuple[float, int, float]], began_s: float
) -> None:
    times: list[float] = []
    indices: list[float] = []
    for at_s, who, index in drifts:
        if who != device:
            continue
        # A new version has measured nothing yet.
        if times and at_s - began_s - times[-1] > _GAP_S:
            times.append(at_s - began_s)
            indices.append(float("nan"))
        times.append(at_s - began_s)
        indices.append(index)
    look = style.line_style(device, len(times))
    axis.plot(times, indices, label=f"device {device}", **look)


def draw_link(
    path: Path,
    title: str,
    came: Sequence[tuple[float, int]],
    answers: Sequence[DeviceAnswer],
    marks: Marks,
    begin_s: float,
) -> None:
    """Draw the bytes that came over a link, and what its device ran, into a PNG file.

    came: (at_s, bytes). marks: (at_s, text). begin_s: of the picture. Raises RecordError when
    the file cannot be written.
    """
    shown = [answer for answer in answers if answer.at_s >= begin_s]
    times = [0.0]
    total = 0
    kilobytes = [0.0]
    for at_s, size in came:
        if at_s >= begin_s:
            total += size
            times.append(at_s - begin_s)
            kilobytes.append(total / 1000)
    times.append(shown[-1].at_s - begin_s)
    kilobytes.append(total / 1000)
    with style.canvas(path, title, _LINK_HEIGHT, rows=2, sharex=True) as (_, axes):
        axes[0].plot(times, kilobytes, color=style.COLOURS[0], drawstyle="steps-post")
        axes[0].set_ylabel("kB to the device")
        draw_versions(axes[1], 0, shown, begin_s)
        axes[1].set_yticks([0], ["watch"])
        axes[1].set_ylabel("release")
        axes[1].set_xlabel("seconds")
        for axis in axes:
            draw_marks(axis, marks, begin_s, is_named=axis is axes[0])
