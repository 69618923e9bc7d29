"""A run on simulated devices: its hours and joules, where each profile's time went, and where inference should run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import Any

from fedlearn.records.line import Line
from fedlearn.records.reading import RunRecord, finite, section
from fedlearn.reporting import style
from fedlearn.reporting.html import Html, element, section_of, table
from fedlearn.reporting.results import crossing
from fedlearn.reporting.units import (
    bytes_text,
    count_text,
    percent_text,
    time_text,
    joules_text,
    short_time_text,
)

PARTS = {
    "down": "download",
    "compute": "training",
    "up": "upload",
    "wait": "waiting for others",
    "away": "not available",
}
"""What a profile's seconds went to: as a line has it → in words."""


def totals(lines: Sequence[Line], target: float) -> dict[str, Any]:
    """Return the figures of a run's devices: seconds, joules and late clients of all rounds, and what the target cost.

    ``*_to_target``: when the best accuracy so far first reached the target, between two evaluations by linear
    interpolation (`crossing`); None when it never did.
    """
    told = [section(line, "devices") for line in lines]
    axes, accuracy = _axes(lines)
    return {
        "seconds": fsum(finite(d, "seconds") or 0 for d in told),
        "joules": fsum(finite(d, "joules") or 0 for d in told),
        "late": int(fsum(finite(d, "late") or 0 for d in told)),
        "target": target,
        **{
            f"{what}_to_target": crossing(values, accuracy, target)
            for what, values in axes.items()
        },
    }


def _axes(lines: Sequence[Line]) -> tuple[dict[str, list[float]], list[float]]:
    """Return simulated seconds, bytes of both directions and joules so far, and the accuracy, of each evaluated round."""
    so_far = {"seconds": 0.0, "bytes": 0.0, "joules": 0.0}
    axes: dict[str, list[float]] = {what: [] for what in so_far}
    accuracies = []
    for line in lines:
        told = section(line, "devices")
        so_far["seconds"] += finite(told, "seconds") or 0
        so_far["bytes"] += (finite(line, "bytes_up") or 0) + (
            finite(line, "bytes_down") or 0
        )
        so_far["joules"] += finite(told, "joules") or 0
        accuracy = finite(line, "accuracy")
        if accuracy is not None:
            accuracies.append(accuracy)
            for what, value in so_far.items():
                axes[what].append(value)
    return axes, accuracies


def by_profile(lines: Sequence[Line]) -> dict[str, dict[str, float]]:
    """Return the sums of each profile over a run: clients asked, late ones, seconds of each part, joules."""
    sums: dict[str, dict[str, float]] = {}
    for line in lines:
        for name, row in section(section(line, "devices"), "by_profile").items():
            if isinstance(row, Mapping):
                into = sums.setdefault(
                    str(name), dict.fromkeys(("clients", "late", "joules", *PARTS), 0.0)
                )
                for key in into:
                    into[key] += finite(row, key) or 0
    return sums


def devices(run: RunRecord) -> Html:
    """Return the page's section of simulated devices; nothing where there are none."""
    profiles = section(section(run.manifest, "devices"), "profiles")
    if not profiles:
        return Html("")
    note = (
        "Simulated: no clock ran. A round lasts as long as its slowest client, from the payload bytes of this run, the operations of "
        "the model, and the profiles' figures, some of which are assumptions (docs/devices.md). Joules are above what an idle device takes."
    )
    return section_of(
        "Simulated devices",
        _summary(run),
        _times(run, profiles),
        _inference(run),
        note=note,
    )


def _target(run: RunRecord) -> float:
    return finite(section(run.config, "devices"), "target") or 0.8


def _summary(run: RunRecord) -> Html:
    told = totals(run.lines, _target(run))
    total = fsum(
        (finite(line, "bytes_up") or 0) + (finite(line, "bytes_down") or 0)
        for line in run.lines
    )
    rows = [
        [
            "the whole run",
            time_text(told["seconds"]),
            bytes_text(total),
            joules_text(told["joules"]),
        ],
        [
            f"to {percent_text(told['target'])} accuracy",
            time_text(told["seconds_to_target"]),
            bytes_text(told["bytes_to_target"]),
            joules_text(told["joules_to_target"]),
        ],
    ]
    return table(["", "simulated time", "bytes", "energy"], rows)


def _times(run: RunRecord, profiles: Mapping[str, Any]) -> Html:
    """Return what a client of each profile spent its rounds on, as means."""
    found = by_profile(run.lines)
    rows = []
    for name, profile in profiles.items():
        row = found.get(name, {})
        asked = row.get("clients", 0)
        each = [time_text(row[part] / asked) if asked else "-" for part in PARTS]
        have = finite(profile, "clients") if isinstance(profile, Mapping) else None
        rows.append(
            [
                name,
                count_text(have),
                count_text(asked),
                count_text(row.get("late", 0)),
                *each,
                joules_text(row.get("joules", 0)),
            ]
        )
    return table(
        [
            "mean of a client's round",
            "clients",
            "asked",
            "late",
            *PARTS.values(),
            "energy, all",
        ],
        rows,
    )


def _inference(run: RunRecord) -> Html:
    """Return where each profile should run the model: the delay model of docs/devices.md."""
    told = section(run.manifest, "devices")
    rows = []
    for name, found in section(told, "inference").items():
        if isinstance(found, Mapping):
            edge, trans, cloud = (
                finite(found, key) for key in ("edge_s", "trans_s", "cloud_s")
            )
            away = None if trans is None or cloud is None else trans + cloud
            rows.append(
                [
                    name,
                    short_time_text(edge),
                    short_time_text(trans),
                    short_time_text(cloud),
                    short_time_text(away),
                    str(found.get("where", "")),
                ]
            )
    if not rows:
        return Html("")
    size, cloud_name = finite(told, "input_bytes"), told.get("cloud", "")
    about = f"One answer from {bytes_text(size)} of input: on the device, or sent up and computed on '{cloud_name}'."
    heading = [
        "run the model",
        "on the device",
        "send the input",
        "compute there",
        "both",
        "faster",
    ]
    return Html(
        element("p", about, class_="note") + table(heading, rows, text_columns=(0, 5))
    )


def plot_time(run: RunRecord, path: Path) -> bool:
    """Draw accuracy over the simulated time."""
    units = {3600.0: "hours", 60.0: "minutes", 1.0: "seconds"}
    return _over(
        run,
        path,
        "seconds",
        {size: f"simulated {name}" for size, name in units.items()},
        time_text,
    )


def plot_joules(run: RunRecord, path: Path) -> bool:
    """Draw accuracy over the energy of the devices."""
    units = {1e6: "MJ", 1e3: "kJ", 1.0: "J"}
    return _over(
        run,
        path,
        "joules",
        {
            size: f"energy of all clients above idle, {name}"
            for size, name in units.items()
        },
        joules_text,
    )


def _over(
    run: RunRecord,
    path: Path,
    what: str,
    units: Mapping[float, str],
    text: Callable[[float | None], str],
) -> bool:
    """Draw accuracy over one axis, in the largest unit of which there are at least two."""
    found, accuracy = _axes(run.lines)
    values = found[what]
    if not values or values[-1] <= 0:
        return False
    unit = next((size for size in units if values[-1] >= 2 * size), 1.0)
    with style.canvas(
        path, f"Accuracy over {'simulated time' if what == 'seconds' else 'energy'}"
    ) as (_, axes):
        axes.plot(
            [value / unit for value in values],
            accuracy,
            **style.line_style(0, len(values)),
        )
        reached = crossing(values, accuracy, _target(run))
        if reached is not None:
            label = f"{percent_text(_target(run))} at {text(reached)}"
            axes.axvline(
                reached / unit,
                color="#9ca3af",
                linestyle="--",
                linewidth=1.5,
                label=label,
            )
            axes.legend(loc="lower right")
        axes.set_xlabel(units[unit])
        style.percent_axis(axes, "accuracy on held-out data")
    return True


def plot_profiles(run: RunRecord, path: Path) -> bool:
    """Draw what the rounds of each profile's clients went to, as shares of their time."""
    order = list(section(section(run.manifest, "devices"), "profiles"))
    sums = {
        name: row
        for name, row in by_profile(run.lines).items()
        if sum(row[part] for part in PARTS) > 0
    }
    found = {
        name: sums[name]
        for name in sorted(
            sums, key=lambda name: order.index(name) if name in order else len(order)
        )
    }
    if not found:
        return False
    colours = ("#56A3D9", "#374151", "#F0B73A", "#e5e7eb", "#B7DFCF")
    hatches = ("", "", "///", "", "...")
    names = list(found)[::-1]
    with style.canvas(
        path, "Where a client's round goes, by profile", height=1.6 + 0.42 * len(names)
    ) as (_, axes):
        left = [0.0] * len(names)
        for (part, label), colour, hatch in zip(
            PARTS.items(), colours, hatches, strict=True
        ):
            if not any(row[part] for row in found.values()):
                continue
            shares = [
                found[name][part] / sum(found[name][p] for p in PARTS) for name in names
            ]
            shown = [style.literal(name) for name in names]
            axes.barh(
                shown,
                shares,
                left=left,
                label=label,
                facecolor=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0,
            )
            left = [before + share for before, share in zip(left, shares, strict=True)]
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.grid(axis="y", visible=False)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return True
