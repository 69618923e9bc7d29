"""The page's section of simulated devices: hours and joules, and where inference should run."""

from __future__ import annotations

from collections.abc import Mapping
from math import fsum
from typing import Any

from fedlearn.records.reading import RunRecord, finite, section
from fedlearn.reporting.devices import PARTS, by_profile, target_of, totals
from fedlearn.reporting.html import Html, element, section_of, table
from fedlearn.reporting.results import exchanged_bytes
from fedlearn.reporting.units import (
    MISSING,
    bytes_text,
    count_text,
    joules_text,
    percent_text,
    short_time_text,
    time_text,
)

NOTE = (
    "Simulated: no clock ran. A round lasts as long as its slowest client, from the payload bytes "
    "of this run, the operations of the model, and the profiles' figures, some of which are "
    "assumptions (docs/devices.md). Joules are above what an idle device takes."
)


def devices(run: RunRecord) -> Html:
    """Return the page's section of simulated devices; nothing where there are none."""
    profiles = section(section(run.manifest, "devices"), "profiles")
    if not profiles:
        return Html("")
    return section_of(
        "Simulated devices",
        _costs(run),
        _times(run, profiles),
        _inference(run),
        note=NOTE,
    )


def _costs(run: RunRecord) -> Html:
    """Return the time, bytes and energy of the run, and of the rounds up to the target."""
    figures = totals(run.lines, target_of(run))
    # Rounds after the last evaluation cost too: these sums are not the curve's last values.
    run_bytes = fsum(exchanged_bytes(line) for line in run.lines)
    complete_row = [
        "the whole run",
        time_text(figures["seconds"]),
        bytes_text(run_bytes),
        joules_text(figures["joules"]),
    ]
    target_row = [
        f"to {percent_text(figures['target'])} accuracy",
        time_text(figures["seconds_to_target"]),
        bytes_text(figures["bytes_to_target"]),
        joules_text(figures["joules_to_target"]),
    ]
    heading = ["", "simulated time", "bytes", "energy"]
    return table(heading, [complete_row, target_row])


def _times(run: RunRecord, profiles: Mapping[str, Any]) -> Html:
    """Return what a client of each profile spent its rounds on, as means."""
    sums = by_profile(run.lines)
    heading = [
        "mean of a client's round",
        "clients",
        "asked",
        "late",
        *PARTS.values(),
        "energy, all",
    ]
    rows = [
        _times_row(name, section(profiles, name), sums.get(name, {}))
        for name in profiles
    ]
    return table(heading, rows)


def _times_row(
    name: str, profile: Mapping[str, Any], sums: Mapping[str, float]
) -> list[str]:
    rounds = sums.get("clients", 0)
    # A profile whose clients were never asked has no means.
    means = [MISSING] * len(PARTS)
    if rounds:
        means = [time_text(sums[part] / rounds) for part in PARTS]
    return [
        name,
        count_text(finite(profile, "clients")),
        count_text(rounds),
        count_text(sums.get("late", 0)),
        *means,
        joules_text(sums.get("joules", 0)),
    ]


def _inference(run: RunRecord) -> Html:
    """Return where each profile should run the model: the delay model of docs/devices.md."""
    devices_table = section(run.manifest, "devices")
    delays = section(devices_table, "inference")
    rows = [
        _inference_row(name, delay)
        for name, delay in delays.items()
        if isinstance(delay, Mapping)
    ]
    if not rows:
        return Html("")
    size = bytes_text(finite(devices_table, "input_bytes"))
    cloud = devices_table.get("cloud", "")
    note = (
        f"One answer from {size} of input: on the device, "
        f"or sent up and computed on '{cloud}'."
    )
    heading = [
        "run the model",
        "on the device",
        "send the input",
        "compute there",
        "both",
        "faster",
    ]
    delays_table = table(heading, rows, text_columns=(0, 5))
    return Html(element("p", note, class_="note") + delays_table)


def _inference_row(name: str, delay: Mapping[str, Any]) -> list[str]:
    send_s = finite(delay, "trans_s")
    cloud_s = finite(delay, "cloud_s")
    # The input has to arrive before the cloud can begin.
    away_s = None
    if send_s is not None and cloud_s is not None:
        away_s = send_s + cloud_s
    return [
        name,
        short_time_text(finite(delay, "edge_s")),
        short_time_text(send_s),
        short_time_text(cloud_s),
        short_time_text(away_s),
        str(delay.get("where", "")),
    ]
