"""The runs that a fleet is to do, in one SQLite file: a wish that is written down is not lost.

A coordinator does them one after another. One that is killed goes on with the run that it had.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from fedlearn.server.sqlite_file import SqliteFile

RUNS_STORE = "runs.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
    number INTEGER PRIMARY KEY AUTOINCREMENT, config TEXT NOT NULL, folder TEXT NOT NULL,
    phase TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS stop (number INTEGER PRIMARY KEY);
"""


class RunPhase(Enum):
    """Where a run of a fleet stands."""

    WANTED = auto()
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()
    STOPPED = auto()


# A run stays as it is from there on; in its folder another one may go on.
OVER = {RunPhase.DONE, RunPhase.FAILED, RunPhase.STOPPED}


@dataclass(frozen=True)
class FleetRun:
    """A run of a fleet. config: TOML. folder: of the run. reason: why it ended."""

    number: int
    config: str
    folder: Path
    phase: RunPhase = RunPhase.WANTED
    reason: str = ""


class RunStore(SqliteFile):
    """See the module. Every method raises RecordError where the disk or the file fails."""

    def __init__(self, folder: Path) -> None:
        """Open the file in a fleet's folder, which is there."""
        super().__init__(folder / RUNS_STORE, _SCHEMA, "runs")

    def wish(self, config: str, folder: Path) -> int:
        """Write down a run that is to be done; returns its number."""
        statement = (
            "INSERT INTO run (config, folder, phase, reason) VALUES (?, ?, ?, '')"
        )
        row = (config, str(folder), RunPhase.WANTED.name)
        with self._named(), self._connection:
            number = self._connection.execute(statement, row).lastrowid
        return int(number or 0)

    def keep(self, number: int, phase: RunPhase, reason: str = "") -> None:
        """Write down where a run stands."""
        statement = "UPDATE run SET phase = ?, reason = ? WHERE number = ?"
        self._write(statement, (phase.name, reason, number))

    def want_stop(self, number: int) -> None:
        """Write down that a run is to be stopped; twice is as good as once."""
        self._write("INSERT OR IGNORE INTO stop VALUES (?)", (number,))

    def is_stop_wanted(self, number: int) -> bool:
        """Tell whether a run is to be stopped."""
        rows = self._read("SELECT number FROM stop WHERE number = ?", (number,))
        return bool(rows)

    def runs(self) -> list[FleetRun]:
        """Return all runs in their order."""
        rows = self._read(
            "SELECT number, config, folder, phase, reason FROM run ORDER BY number"
        )
        runs = []
        with self._named():
            for number, config, folder, phase, reason in rows:
                place = Path(folder)
                runs.append(FleetRun(number, config, place, RunPhase[phase], reason))
        return runs

    def next(self) -> FleetRun | None:
        """Return the run that is to be done now: the one that goes on, else the first wish."""
        waiting = [run for run in self.runs() if run.phase not in OVER]
        return min(
            waiting,
            key=lambda run: (run.phase is RunPhase.WANTED, run.number),
            default=None,
        )

    def newest_in(self, folder: Path) -> FleetRun | None:
        """Return the last run in a folder."""
        runs = [run for run in self.runs() if run.folder == folder]
        return runs[-1] if runs else None
