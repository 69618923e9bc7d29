"""How a fleet is doing, read from its folder: devices, versions, rollouts, waves and reasons.

Reading disturbs nobody, and needs no coordinator. Values are plain, fit for JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlearn.errors import RecordError
from fedlearn.records.names import JOURNAL_FOLDER
from fedlearn.records.writing import owned
from fedlearn.release import rollouts
from fedlearn.release.run_store import RunStore
from fedlearn.server.device_store import DeviceEntry, DeviceStore
from fedlearn.server.observe import read
from fedlearn.server.rollout_store import STORE_FILE

# Events about devices and rollouts, of all that a fleet's log has.
EVENTS = (
    *("drift", "errors", "unsure", "silent", "back"),
    *("drift ended", "errors ended", "unsure ended"),
    *("not kept", "on trial", "committed", "revoked", "turned away", "note"),
)

# Events, rollouts and runs that are told; there may be more.
EVENTS_TOLD = 50
ROLLOUTS_TOLD = 20
RUNS_TOLD = 20


def is_fleet(folder: Path) -> bool:
    """Tell whether a folder is a fleet's."""
    return (folder / STORE_FILE).is_file()


def is_served(folder: Path) -> bool:
    """Tell whether a coordinator serves a fleet now."""
    return owned(folder / JOURNAL_FOLDER)


def entries_of(folder: Path) -> dict[int, DeviceEntry]:
    """Return what is known of a fleet's devices. Raises UserError, RecordError."""
    rollouts.opened(folder).close()
    store = DeviceStore(folder)
    try:
        return store.entries()
    finally:
        store.close()


def status(folder: Path) -> dict[str, Any]:
    """Return how a fleet is doing. Raises UserError for another folder, RecordError.

    Besides the keys of `rollouts.status`: fleet, running, attending, releases (name → devices
    that run it), rollouts and runs (the last ones, newest first) and events (the last ones, oldest
    first).
    """
    value = rollouts.status(folder)
    entries = entries_of(folder)
    is_running = is_served(folder)
    devices = _devices(value["devices"], entries, is_running)
    counts = Counter(device["committed"] or "no model" for device in devices)
    events = [event for event in _events(folder) if event["event"] in EVENTS]
    return {
        **value,
        "fleet": str(folder),
        "running": is_running,
        "attending": sum(device["attending"] for device in devices),
        "devices": devices,
        "releases": dict(counts.most_common()),
        "rollouts": _rollouts(folder),
        "runs": _runs(folder),
        "events": events[-EVENTS_TOLD:],
    }


def _devices(
    reported: list[dict[str, Any]],
    entries: Mapping[int, DeviceEntry],
    is_running: bool,
) -> list[dict[str, Any]]:
    """Return all devices that have reported or attended, by their ids."""
    by_device = {row["device"]: row for row in reported}
    devices = []
    for device in sorted({*by_device, *entries}):
        entry = entries.get(device, DeviceEntry())
        row = by_device.get(device, {"device": device, **_NOTHING})
        figures = entry.figures
        devices.append(
            {
                **row,
                # Nobody attends a coordinator that is not there.
                "attending": entry.attending and is_running,
                "since": entry.since_s,
                "software": entry.software,
                "served": entry.served,
                "requests": figures.requests,
                "errors": figures.errors,
                "p99_ms": figures.p99_ms,
                "unsure": figures.unsure,
                "drift": figures.drift,
                "alarms": list(entry.alarms),
            }
        )
    return devices


# Of a device that installs nothing.
_NOTHING: Mapping[str, Any] = {
    "committed": None,
    "trial": None,
    "failed": None,
    "reason": "",
    "waiting": "",
}


def _rollouts(folder: Path) -> list[dict[str, Any]]:
    store = rollouts.opened(folder)
    try:
        plans = store.rollouts()
    finally:
        store.close()
    rows = []
    for plan, progress in reversed(plans[-ROLLOUTS_TOLD:]):
        row = {
            "number": plan.number,
            "release": str(plan.release),
            "phase": progress.phase.name.lower(),
            "reason": progress.reason,
        }
        rows.append(row)
    return rows


def _runs(folder: Path) -> list[dict[str, Any]]:
    store = RunStore(folder)
    try:
        runs = store.runs()
    finally:
        store.close()
    rows = []
    for run in reversed(runs[-RUNS_TOLD:]):
        row = {
            "number": run.number,
            "folder": str(run.folder),
            "phase": run.phase.name.lower(),
            "reason": run.reason,
        }
        rows.append(row)
    return rows


def _events(folder: Path) -> list[dict[str, Any]]:
    try:
        return read(folder)
    # Events are for people: a log that cannot be read hides nothing else.
    except (OSError, RecordError):
        return []
