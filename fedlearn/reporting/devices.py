"""The figures of a run on simulated devices: its virtual hours, its joules, its profiles' times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Any

from fedlearn.records.line import Line
from fedlearn.records.reading import RunRecord, amount, finite, section
from fedlearn.reporting.results import crossing, exchanged_bytes

# What a profile's seconds went to: as a line has it → in words.
PARTS = {
    "down": "download",
    "compute": "training",
    "up": "upload",
    "wait": "waiting for others",
    "away": "not available",
}

# The accuracy (of 1) that the cost is told of, where the config names none.
DEFAULT_TARGET = 0.8


@dataclass
class CostCurve:
    """What each evaluated round had cost so far, and the accuracy that it reached."""

    # Virtual time: what the round would take on the devices.
    seconds: list[float] = field(default_factory=list)
    # Of both directions, as encoded.
    bytes: list[float] = field(default_factory=list)
    # Of all clients, above what their devices take when idle.
    joules: list[float] = field(default_factory=list)
    # A share of 1.
    accuracy: list[float] = field(default_factory=list)


def cost_curve(lines: Sequence[Line]) -> CostCurve:
    """Return the cost and the accuracy of the rounds that were evaluated, in order."""
    curve = CostCurve()
    seconds = 0.0
    bytes_total = 0.0
    joules = 0.0
    for line in lines:
        devices = section(line, "devices")
        seconds += amount(devices, "seconds")
        bytes_total += exchanged_bytes(line)
        joules += amount(devices, "joules")
        accuracy = finite(line, "accuracy")
        if accuracy is not None:
            curve.seconds.append(seconds)
            curve.bytes.append(bytes_total)
            curve.joules.append(joules)
            curve.accuracy.append(accuracy)
    return curve


def totals(lines: Sequence[Line], target: float) -> dict[str, Any]:
    """Return the figures of a run's devices, as the summary has them.

    ``seconds``, ``joules`` and ``late`` clients are of all rounds. ``*_to_target`` is the cost at
    which the best accuracy so far first reached the target, between two evaluations by linear
    interpolation (`crossing`); None when it never did.
    """
    curve = cost_curve(lines)
    devices = [section(line, "devices") for line in lines]
    # fsum rounds once: over thousands of rounds, a plain sum would gather errors.
    return {
        "seconds": fsum(amount(table, "seconds") for table in devices),
        "joules": fsum(amount(table, "joules") for table in devices),
        "late": int(fsum(amount(table, "late") for table in devices)),
        "target": target,
        "seconds_to_target": crossing(curve.seconds, curve.accuracy, target),
        "bytes_to_target": crossing(curve.bytes, curve.accuracy, target),
        "joules_to_target": crossing(curve.joules, curve.accuracy, target),
    }


def by_profile(lines: Sequence[Line]) -> dict[str, dict[str, float]]:
    """Return the sums of each profile over a run.

    These are ``clients`` asked, ``late`` ones, ``joules``, and the seconds of each of `PARTS`.
    """
    keys = ("clients", "late", "joules", *PARTS)
    sums: dict[str, dict[str, float]] = {}
    for line in lines:
        profiles = section(section(line, "devices"), "by_profile")
        for name in profiles:
            row = section(profiles, name)
            # A profile without a table is that of a damaged line.
            if not row:
                continue
            profile_sums = sums.setdefault(str(name), dict.fromkeys(keys, 0.0))
            for key in keys:
                profile_sums[key] += amount(row, key)
    return sums


def target_of(run: RunRecord) -> float:
    """Return the accuracy (of 1) that a run's costs are told of."""
    devices = section(run.config, "devices")
    return finite(devices, "target") or DEFAULT_TARGET
