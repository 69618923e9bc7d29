"""The page of a fleet: its rollout's waves as a picture, its devices, and what happened lately.

It is one file that needs nothing else, as a run's page; the picture is SVG inside of it. Values
are those of `fedlearn.release.fleet_status.status`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlearn.reporting.html import (
    Html,
    document,
    element,
    section_of,
    table,
    tile,
    write_document,
)
from fedlearn.reporting.units import count_text, percent_text
from fedlearn.text import printable

# Devices and events that the page has; --json has all.
MOST_DEVICES = 500
MOST_EVENTS = 50

# Of the picture, in units of its own: the width of a wave's bar, its height, and a row's.
_BAR = 640
_THICK = 22
_ROW = 34
_LABEL = 120

# Standing → its colour, one of the page's own.
_COLORS = {
    "committed": "var(--good)",
    "failed": "var(--bad)",
    "pending": "var(--line)",
}

_CHIPS = {"done": "good", "withdrawn": "bad", "aborted": "bad"}


def write_fleet_page(value: Mapping[str, Any], path: Path) -> Path:
    """Write the page of a fleet, and return its path. Raises RecordError."""
    return write_document(path, _title(value), *_body(value))


def fleet_page(value: Mapping[str, Any]) -> str:
    """Return the page of a fleet as text."""
    return document(_title(value), *_body(value))


def _title(value: Mapping[str, Any]) -> str:
    return f"{value['fleet']} – fedlearn"


def _body(value: Mapping[str, Any]) -> list[Html]:
    foot = f"Written by fedlearn, {_moment(time.time())} UTC."
    return [
        _header(value),
        _tiles(value),
        _rollout(value),
        _devices(value["devices"]),
        _events(value["events"]),
        _history(value["rollouts"]),
        _runs(value["runs"]),
        element("footer", foot),
    ]


def _header(value: Mapping[str, Any]) -> Html:
    chip = element("span", "not served", class_="chip bad")
    if value["running"]:
        chip = element("span", "served", class_="chip good")
    return element(
        "header",
        element("p", "fedlearn fleet", class_="kind"),
        element("h1", value["fleet"], " ", chip),
    )


def _tiles(value: Mapping[str, Any]) -> Html:
    devices = value["devices"]
    alarmed = sum(bool(device["alarms"]) for device in devices)
    served = sum(device["served"] for device in devices)
    newest = next(iter(value["releases"]), "no model")
    share = value["releases"].get(newest, 0)
    return element(
        "dl",
        tile("devices", count_text(len(devices)), f"{value['attending']} attend"),
        tile("requests", count_text(served), "since the fleet knows the devices"),
        tile("alarms", count_text(alarmed), "devices beyond a limit, or silent"),
        tile("releases", count_text(len(value["releases"])), f"{newest}: {share}"),
        class_="tiles",
    )


def _rollout(value: Mapping[str, Any]) -> Html:
    """Return the last rollout: its phase, why, and its waves as a picture."""
    if value["rollout"] is None:
        return section_of("Rollout", element("p", "None yet.", class_="note"))
    kind = _CHIPS.get(value["phase"], "wait")
    chip = element("span", value["phase"], class_=f"chip {kind}")
    line = element("p", f"{value['rollout']}: {value['release']} ", chip)
    reason = element("p", printable(value["reason"]), class_="note")
    return section_of("Rollout", line, reason, waves_picture(value))


def waves_picture(value: Mapping[str, Any]) -> Html:
    """Return the waves of a rollout as a picture: one bar a wave, by where its devices stand."""
    rows: list[Html] = []
    for position, wave in enumerate(value["waves"]):
        rows.append(_wave_row(position, wave, position < value["wave"]))
    height = _ROW * len(rows)
    legend = "Green: committed. Red: failed. Grey: not yet. A thin bar: not open."
    # In the page's own text: nothing is fetched, and no script runs.
    picture = element(
        "svg",
        *rows,
        viewBox=f"0 0 {_LABEL + _BAR + 60} {height}",
        role="img",
        aria_label=legend,
        style="width:100%;height:auto;max-width:820px",
    )
    return element("figure", picture, element("figcaption", legend))


def _wave_row(position: int, wave: Mapping[str, int], is_open: bool) -> Html:
    """Return a wave's name, its bar and how many devices it has."""
    total = sum(wave.values())
    top = position * _ROW + 6
    thick = _THICK if is_open else _THICK / 4
    parts = [_words(0, top + 16, f"wave {position + 1}")]
    start = float(_LABEL)
    for standing, color in _COLORS.items():
        width = _BAR * wave.get(standing, 0) / max(total, 1)
        if not width:
            continue
        about = element("title", f"{wave[standing]} {standing}")
        parts.append(
            element(
                "rect",
                about,
                x=f"{start:.1f}",
                y=f"{top + (_THICK - thick) / 2:.1f}",
                width=f"{width:.1f}",
                height=f"{thick:.1f}",
                style=f"fill:{color}",
            )
        )
        start += width
    parts.append(_words(_LABEL + _BAR + 8, top + 16, str(total)))
    return element("g", *parts)


def _words(left: float, base: float, text: str) -> Html:
    style = "fill:var(--soft);font-size:14px"
    return element("text", text, x=f"{left:g}", y=f"{base:g}", style=style)


def _devices(devices: Sequence[Mapping[str, Any]]) -> Html:
    heading = [
        *("device", "attends", "runs", "remarks", "agent"),
        *("requests", "errors", "p99 ms", "unsure", "drift"),
    ]
    rows = [_device_row(device) for device in devices[:MOST_DEVICES]]
    note = ""
    if len(devices) > MOST_DEVICES:
        note = f"The first {MOST_DEVICES} of {len(devices)}; --json has all."
    return section_of("Devices", table(heading, rows, (0, 1, 2, 3, 4)), note=note)


def _device_row(device: Mapping[str, Any]) -> list[object]:
    state = "since" if device["attending"] else "away since"
    remarks = list(device["alarms"])
    if device["trial"]:
        remarks.append(f"{device['trial']} on trial")
    if device["failed"]:
        remarks.append(f"{device['failed']} failed: {device['reason']}")
    if device["waiting"]:
        remarks.append(f"waits: {device['waiting']}")
    return [
        device["device"],
        f"{state} {_moment(device['since'])}" if device["since"] else "never",
        device["committed"] or "no model",
        printable("; ".join(remarks)),
        printable(device["software"]),
        count_text(device["served"]),
        percent_text(device["errors"]),
        f"{device['p99_ms']:.1f}",
        percent_text(device["unsure"]),
        f"{device['drift']:.2f}",
    ]


def _events(events: Sequence[Mapping[str, Any]]) -> Html:
    """Return what happened lately, the newest first."""
    if not events:
        return Html("")
    rows = []
    for event in reversed(events[-MOST_EVENTS:]):
        client = event.get("client")
        rows.append(
            [
                # An ISO time to the second.
                str(event.get("time", ""))[:19].replace("T", " "),
                "" if client is None else f"device {client}",
                event["event"],
                printable(str(event.get("text", ""))),
            ]
        )
    heading = ["time, UTC", "", "event", ""]
    return section_of("Events", table(heading, rows, (0, 1, 2, 3)))


def _history(rollouts: Sequence[Mapping[str, Any]]) -> Html:
    if not rollouts:
        return Html("")
    rows = []
    for rollout in rollouts:
        text = printable(rollout["reason"])
        rows.append([rollout["number"], rollout["release"], rollout["phase"], text])
    heading = ["rollout", "release", "phase", "reason"]
    return section_of("Rollouts", table(heading, rows, (0, 1, 2, 3)))


def _runs(runs: Sequence[Mapping[str, Any]]) -> Html:
    if not runs:
        return Html("")
    rows = []
    for run in runs:
        text = printable(run["reason"])
        rows.append([run["number"], run["folder"], run["phase"], text])
    heading = ["run", "folder", "phase", "reason"]
    return section_of("Runs", table(heading, rows, (0, 1, 2, 3)))


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
