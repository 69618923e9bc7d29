"""What a fleet's coordinator knows of its devices, and what it is to ask them, in one SQLite file.

Releases and rollouts are in another one, `fedlearn.server.rollout_store`. This file may be
lost: agents tell all of it anew, but for what was counted and for how long one was away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedlearn.exchange.findings import DeviceFinding
from fedlearn.exchange.releases import WatchFigures
from fedlearn.server.sqlite_file import SqliteFile

DEVICES_STORE = "devices.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS device (device INTEGER PRIMARY KEY, entry TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS question (
    number INTEGER PRIMARY KEY AUTOINCREMENT, device INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS diagnosis (
    device INTEGER PRIMARY KEY, number INTEGER NOT NULL, time REAL NOT NULL,
    text TEXT NOT NULL);
"""


@dataclass(frozen=True)
class DeviceEntry:
    """What is known of one device.

    attending: it is connected. since_s: when that began, seconds since 1970. software: of its
    agent. served: requests that it has answered since the fleet knows it. figures: of the
    release that serves. alarms: which limits it is beyond, among "drift", "errors", "unsure"
    and "silent".
    """

    attending: bool = False
    since_s: float = 0.0
    software: str = ""
    served: int = 0
    figures: WatchFigures = field(default_factory=WatchFigures)
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeviceDiagnosis:
    """What a device said when it was asked.

    number: of the question. time_s: of the answer, seconds since 1970. reason: why there are
    no findings.
    """

    number: int
    time_s: float
    findings: tuple[DeviceFinding, ...] = ()
    reason: str = ""


class DeviceStore(SqliteFile):
    """See the module. Every method raises RecordError where the disk or the file fails."""

    def __init__(self, folder: Path) -> None:
        """Open the file in a fleet's folder, which is there."""
        super().__init__(folder / DEVICES_STORE, _SCHEMA, "devices")

    # Devices

    def keep(self, entries: Mapping[int, DeviceEntry]) -> None:
        """Write down what is known of some devices, all of them or none."""
        rows = []
        for device, entry in entries.items():
            rows.append((device, json.dumps(asdict(entry))))
        self._write_all("INSERT OR REPLACE INTO device VALUES (?, ?)", rows)

    def entries(self) -> dict[int, DeviceEntry]:
        """Return what is known of each device."""
        entries = {}
        with self._named():
            for device, text in self._read("SELECT device, entry FROM device"):
                entries[device] = _entry_of(text)
        return entries

    # Questions

    def ask(self, device: int) -> int:
        """Write down that a device is to look at itself; returns the question's number."""
        with self._named(), self._connection:
            statement = "INSERT INTO question (device) VALUES (?)"
            number = self._connection.execute(statement, (device,)).lastrowid
        return int(number or 0)

    def questions(self) -> dict[int, int]:
        """Return the newest question of each device that has one."""
        rows = self._read("SELECT device, MAX(number) FROM question GROUP BY device")
        return dict(rows)

    def answer(self, device: int, diagnosis: DeviceDiagnosis) -> None:
        """Write down a device's answer, which ends its questions up to that number."""
        value = {
            "findings": [asdict(finding) for finding in diagnosis.findings],
            "reason": diagnosis.reason,
        }
        row = (device, diagnosis.number, diagnosis.time_s, json.dumps(value))
        with self._named(), self._connection:
            statement = "INSERT OR REPLACE INTO diagnosis VALUES (?, ?, ?, ?)"
            self._connection.execute(statement, row)
            self._drop(device, diagnosis.number)

    def withdraw(self, device: int, number: int) -> None:
        """Forget a device's questions up to a number: nobody waits for them any more."""
        with self._named(), self._connection:
            self._drop(device, number)

    def diagnoses(self) -> dict[int, DeviceDiagnosis]:
        """Return the last answer of each device."""
        diagnoses = {}
        rows = self._read("SELECT device, number, time, text FROM diagnosis")
        with self._named():
            for device, number, time_s, text in rows:
                value = json.loads(text)
                findings = tuple(DeviceFinding(**part) for part in value["findings"])
                diagnoses[device] = DeviceDiagnosis(
                    number, time_s, findings, value["reason"]
                )
        return diagnoses

    def _drop(self, device: int, number: int) -> None:
        statement = "DELETE FROM question WHERE device = ? AND number <= ?"
        self._connection.execute(statement, (device, number))


def _entry_of(text: str) -> DeviceEntry:
    """Return the entry of a JSON text. Raises ValueError, KeyError or TypeError."""
    value = json.loads(text)
    value["figures"] = WatchFigures(**value["figures"])
    value["alarms"] = tuple(value["alarms"])
    return DeviceEntry(**value)
