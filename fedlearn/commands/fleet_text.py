"""How a fleet is doing, as lines for a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedlearn.reporting.units import percent_text
from fedlearn.text import printable

# Devices and events that are shown; there may be thousands.
SHOWN = 20
EVENTS_SHOWN = 10
RUNS_SHOWN = 3


def rollout_lines(value: Mapping[str, Any]) -> list[str]:
    """Return how far a rollout is, and what each device has."""
    lines = [*_rollout(value)]
    for device in value["devices"][:SHOWN]:
        lines.append(_device_line(device))
    more = len(value["devices"]) - SHOWN
    if more > 0:
        lines.append(f"and {more} more; --json has them all")
    return lines


def fleet_lines(value: Mapping[str, Any]) -> list[str]:
    """Return how a fleet is doing; value: of `fedlearn.release.fleet_status.status`."""
    devices = value["devices"]
    state = (
        "served" if value["running"] else "not served; fedlearn fleet goes on with it"
    )
    lines = [
        f"fleet {value['fleet']}: {state}",
        f"{value['attending']} of {len(devices)} devices attend",
    ]
    for release, count in value["releases"].items():
        lines.append(f"{count} run {release}")
    lines += _rollout(value)
    lines += [_run_line(run) for run in value["runs"][:RUNS_SHOWN]]
    # Those with something to say first: of thousands only some are shown.
    ranked = sorted(devices, key=_is_well)
    for device in ranked[:SHOWN]:
        lines.append(f"{_device_line(device)}{_health(device)}")
    more = len(devices) - SHOWN
    if more > 0:
        lines.append(f"and {more} more; --json has them all")
    if value["events"]:
        lines.append("lately")
    lines += [_event_line(event) for event in _newest(value["events"])]
    return lines


def away_text(since_s: float) -> str:
    """Return since when a device does not attend; since_s: in seconds since 1970."""
    if not since_s:
        return "never attended"
    moment = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(since_s))
    return f"away since {moment}"


def _rollout(value: Mapping[str, Any]) -> Iterator[str]:
    if value["rollout"] is None:
        yield "no rollout yet"
        return
    yield f"rollout {value['rollout']}: {value['release']}, {value['phase']}"
    if value["reason"]:
        yield f"  {printable(value['reason'])}"
    for number, wave in enumerate(value["waves"], 1):
        state = "open" if number <= value["wave"] else "not open"
        counts = ", ".join(f"{count} {name}" for name, count in wave.items())
        yield f"wave {number}, {state}: {counts}"
    if value["unsettled"]:
        yield f"not there yet: {len(value['unsettled'])} devices"


def _run_line(run: Mapping[str, Any]) -> str:
    text = f"run {run['number']}: {run['phase']}, {run['folder']}"
    if run["reason"]:
        text += f": {run['reason']}"
    return printable(text)


def _device_line(device: Mapping[str, Any]) -> str:
    text = f"device {device['device']}: {device['committed'] or 'no model'}"
    if device["trial"]:
        text += f", {device['trial']} on trial"
    if device["failed"]:
        text += f", {device['failed']} failed: {device['reason']}"
    if device["waiting"]:
        text += f", waits: {device['waiting']}"
    return printable(text)


def _health(device: Mapping[str, Any]) -> str:
    """Return what else is to be said of a device: its figures, and that it is away."""
    parts = []
    if device["requests"]:
        parts.append(f"{device['requests']} requests")
        parts.append(f"{percent_text(device['errors'])} fail")
        parts.append(f"p99 {device['p99_ms']:.0f} ms")
    for alarm in device["alarms"]:
        value = device.get(alarm)
        parts.append(alarm if value is None else f"{alarm} {value:.2f}")
    if not device["attending"]:
        parts.append(away_text(device["since"]))
    return "".join(f", {part}" for part in parts)


def _is_well(device: Mapping[str, Any]) -> bool:
    has_remark = device["alarms"] or device["failed"] or device["waiting"]
    return device["attending"] and not has_remark


def _newest(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list(reversed(events[-EVENTS_SHOWN:]))


def _event_line(event: Mapping[str, Any]) -> str:
    # An ISO time to the second.
    moment = str(event.get("time", ""))[:19].replace("T", " ")
    client = event.get("client")
    device = "" if client is None else f"device {client}"
    columns = f"  {moment}  {device:<12}{event['event']:<13}"
    return f"{columns}{printable(str(event.get('text', '')))}".rstrip()
