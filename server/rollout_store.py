"""A fleet's rollouts on disk, in one SQLite file: whatever kills the coordinator, all of it stays.

The command ``fedlearn rollout`` writes wishes here, and the coordinator takes them: so a wish
that comes while it is down is not lost. Each call is one transaction, on disk when it returns.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.release_frames import installed_frame, report_of
from fedlearn.exchange.releases import InstalledReport, ReleaseId, WatchLimits
from fedlearn.server.rollout_plan import RolloutPhase, RolloutPlan, RolloutProgress
from fedlearn.server.sqlite_file import SqliteFile

STORE_FILE = "rollouts.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rollout (
    number INTEGER PRIMARY KEY, plan TEXT NOT NULL, progress TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS report (device INTEGER PRIMARY KEY, frame BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS wish (
    id INTEGER PRIMARY KEY, number INTEGER NOT NULL, verb TEXT NOT NULL);
"""


@dataclass(frozen=True)
class RolloutWish:
    """What an operator wants of a rollout: "pause", "resume" or "abort"."""

    id: int
    number: int
    verb: str


class RolloutStore(SqliteFile):
    """See the module. Every method raises RecordError where the disk or the file fails."""

    def __init__(self, folder: Path) -> None:
        """Open the file in a folder, which is there; made if it is not."""
        super().__init__(folder / STORE_FILE, _SCHEMA, "rollouts")

    # Rollouts

    def begin(self, plan: RolloutPlan) -> None:
        """Write down a rollout that is to begin."""
        row = (plan.number, plan_text(plan), progress_text(RolloutProgress()))
        self._write("INSERT INTO rollout VALUES (?, ?, ?)", row)

    def keep_progress(self, number: int, progress: RolloutProgress) -> None:
        """Write down how far a rollout is."""
        row = (progress_text(progress), number)
        self._write("UPDATE rollout SET progress = ? WHERE number = ?", row)

    def rollouts(self) -> list[tuple[RolloutPlan, RolloutProgress]]:
        """Return all rollouts in their order; the last one says what devices are to have."""
        rows = self._read("SELECT plan, progress FROM rollout ORDER BY number")
        with self._named():
            return [(plan_of(plan), progress_of(text)) for plan, text in rows]

    def newest(self) -> tuple[RolloutPlan, RolloutProgress] | None:
        """Return the last rollout."""
        rows = self._read(
            "SELECT plan, progress FROM rollout ORDER BY number DESC LIMIT 1"
        )
        with self._named():
            for plan, text in rows:
                return plan_of(plan), progress_of(text)
        return None

    # Devices

    def keep_report(self, device: int, report: InstalledReport) -> None:
        """Write down what a device reported."""
        frame = installed_frame(report).installed.SerializeToString()
        self._write("INSERT OR REPLACE INTO report VALUES (?, ?)", (device, frame))

    def reports(self) -> dict[int, InstalledReport]:
        """Return what each device reported last."""
        reports = {}
        with self._named():
            for device, frame in self._read("SELECT device, frame FROM report"):
                reports[device] = report_of(pb.Installed.FromString(frame))
        return reports

    # Wishes

    def wish(self, number: int, verb: str) -> None:
        """Write down what an operator wants of a rollout."""
        row = (number, verb)
        self._write("INSERT INTO wish (number, verb) VALUES (?, ?)", row)

    def wishes(self) -> list[RolloutWish]:
        """Return the wishes that nobody has fulfilled."""
        rows = self._read("SELECT id, number, verb FROM wish ORDER BY id")
        return [RolloutWish(*row) for row in rows]

    def fulfilled(self, wish: RolloutWish) -> None:
        """Forget a wish. Fulfilled twice, after a crash, it changes nothing."""
        self._write("DELETE FROM wish WHERE id = ?", (wish.id,))


def plan_text(plan: RolloutPlan) -> str:
    """Return a plan as JSON."""
    value = asdict(plan)
    limits = value["limits"].items()
    value["limits"] = {name: _bound(number) for name, number in limits}
    return json.dumps(value)


def plan_of(text: str) -> RolloutPlan:
    """Return the plan of a JSON text. Raises ValueError, KeyError or TypeError."""
    value = json.loads(text)
    value["release"] = ReleaseId(**value["release"])
    if value["previous"] is not None:
        value["previous"] = ReleaseId(**value["previous"])
    value["waves"] = tuple(tuple(wave) for wave in value["waves"])
    bounds = value["limits"].items()
    limits: dict[str, Any] = {
        name: float("inf") if bound is None else bound for name, bound in bounds
    }
    value["limits"] = WatchLimits(**limits)
    return RolloutPlan(**value)


def progress_text(progress: RolloutProgress) -> str:
    """Return a rollout's progress as JSON."""
    return json.dumps({**asdict(progress), "phase": progress.phase.name})


def progress_of(text: str) -> RolloutProgress:
    """Return the progress of a JSON text. Raises ValueError, KeyError or TypeError."""
    value = json.loads(text)
    value["phase"] = RolloutPhase[value["phase"]]
    return RolloutProgress(**value)


def _bound(number: float) -> float | None:
    """Return a limit for JSON, which has no infinity."""
    return None if number == float("inf") else number
