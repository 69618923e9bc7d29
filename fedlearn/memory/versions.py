"""What a run remembers of each client, as it is now and as the last two checkpoints have it: on disk, and only of those who were asked.

A checkpoint holds one number, the moment that it is of. So neither memory nor a checkpoint grows with the number of clients, and a
round costs what its cohort costs. A run that is killed at any moment finds, for every client, what its last whole checkpoint knew.

It is an SQLite database. Only the coordinating process may use it; it is opened at its first use, after the workers are forked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import RecordError

HELD_BYTES = 16 << 20
"""Most of what is held in memory until the next checkpoint; beyond it all goes to the database before."""

_ROW_BYTES = 200  # of a remembered row's Python objects, about

Row = tuple[int, bytes]
"""The moment at which something was remembered, and what."""


class Versions:
    """Bytes per client, in versions. Every method raises RecordError when the file cannot be read or written."""

    def __init__(self, path: Path) -> None:
        """Take the file; its name names the versions in checkpoints. What it holds counts after `recall`."""
        self.path = path
        self.moment = 1  # of what is remembered now; it goes on at each checkpoint
        self._cuts = (0, 0)  # the last moments of the last two checkpoints
        self._held: dict[
            int, list[Row]
        ] = {}  # of the clients that were looked at since the last checkpoint
        self._changed: set[int] = set()
        self._held_bytes = 0
        self._database: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the file; what no `sync` brought to disk is lost."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def rows(self, client: int) -> Sequence[Row]:
        """Return what is remembered of a client, oldest first: for each of the last two checkpoints, and now."""
        found = self._held.get(client)
        if found is None:
            found = (
                []
                if self._none
                else self._do(
                    "SELECT moment, content FROM versions WHERE client = ? ORDER BY moment",
                    client,
                )
            )
            self._hold(client, found)
        return found

    def newest(self, client: int) -> Row | None:
        """Return what is remembered of a client now; None: nothing."""
        found = self.rows(client)
        return found[-1] if found else None

    def put(self, client: int, content: bytes) -> None:
        """Remember something of a client in the place of what was; the last two checkpoints keep theirs."""
        before = [row for row in self.rows(client) if row[0] < self.moment]
        needed = {
            max((moment for moment, _ in before if moment <= cut), default=0)
            for cut in self._cuts
        }
        self.restore(
            client,
            [*(row for row in before if row[0] in needed), (self.moment, content)],
        )

    def restore(self, client: int, rows: Sequence[Row]) -> None:
        """Put back what `rows` gave since the last checkpoint."""
        self._hold(client, list(rows))
        self._changed.add(client)

    def turn(self) -> int:
        """Begin another moment and return the one that is over."""
        self.moment += 1
        return self.moment - 1

    def sync(self) -> dict[str, NDArray[Any]]:
        """Bring all to disk and return what a checkpoint has to hold of it."""
        if self._none and not self._changed:
            return {self._name: np.zeros(2, np.int64)}
        self._flush()
        self._do(f"PRAGMA user_version = {self.moment}")
        self._do("COMMIT")
        self._do("BEGIN")
        return {self._name: np.array([self._cuts[1], self.moment])}

    def checkpointed(self) -> None:
        """Keep what is remembered now: the checkpoint that names this moment is on disk."""
        self._cuts = (self._cuts[1], self.turn())

    def recall(self, saved: Mapping[str, NDArray[Any]] | None) -> bool:
        """Go back to what a checkpoint knew; None: to nothing. False: the checkpoint is from before there were versions; nothing too.

        Raises RecordError when the file is not the one that the checkpoint was made with.
        """
        known = saved is not None and self._name in saved
        self._cuts = (
            (int(saved[self._name][0]), int(saved[self._name][1]))
            if saved is not None and known
            else (0, 0)
        )
        self.moment = self._cuts[1] + 1
        self._forget()
        ((reached,),) = [(0,)] if self._none else self._do("PRAGMA user_version")
        if reached < self._cuts[1]:
            raise RecordError(
                f"--resume: {self.path} is not what the checkpoint was made with (it was lost or replaced); start anew"
            )
        if not self._none:
            self._do("DELETE FROM versions WHERE moment > ?", self._cuts[1])
        return known or saved is None

    def adopt(
        self, rows: Iterable[tuple[int, int, bytes]], cuts: tuple[int, int]
    ) -> None:
        """Remember (client, moment, content) as two checkpoints have them that are from before there were versions; ``cuts`` are theirs."""
        for row in rows:
            self._do("INSERT INTO versions VALUES (?, ?, ?)", *row)
        self._cuts, self.moment = cuts, cuts[1] + 1

    @property
    def _none(self) -> bool:
        """Tell whether nothing was ever remembered: then there is no file."""
        return self._database is None and not self.path.exists()

    @property
    def _name(self) -> str:
        return f"{self.path.stem}.versions"

    def _hold(self, client: int, rows: list[Row]) -> None:
        self._held_bytes += sum(_ROW_BYTES + len(content) for _, content in rows)
        if self._held_bytes > HELD_BYTES:
            self._flush()
        self._held[client] = rows

    def _flush(self) -> None:
        """Write what changed. What the last checkpoint has is written and stays; only what is newer, or older than needed, is touched."""
        last = self._cuts[1]
        for client in sorted(self._changed):
            rows = self._held[client]
            oldest = min((moment for moment, _ in rows), default=0)
            self._do(
                "DELETE FROM versions WHERE client = ? AND (moment > ? OR moment < ?)",
                client,
                last,
                oldest,
            )
            for moment, content in rows:
                if moment > last:
                    self._do(
                        "INSERT INTO versions VALUES (?, ?, ?)", client, moment, content
                    )
        self._forget()

    def _forget(self) -> None:
        self._held, self._changed, self._held_bytes = {}, set(), 0

    def _do(self, statement: str, *values: Any) -> list[Any]:
        with self._failing():
            if self._database is None:
                self._database = self._open()
            return self._database.execute(statement, values).fetchall()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        made = sqlite3.connect(self.path, isolation_level=None)
        try:
            made.execute(
                "PRAGMA locking_mode = EXCLUSIVE"
            )  # no shared memory, which a network's disk may not have
            made.execute("PRAGMA journal_mode = WAL")
            made.execute("PRAGMA synchronous = FULL")
            made.execute(
                "CREATE TABLE IF NOT EXISTS versions (client INTEGER, moment INTEGER, content BLOB, PRIMARY KEY (client, moment))"
            )
            made.execute("BEGIN")
        except sqlite3.Error:
            made.close()
            raise
        return made

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RecordError(
                f"cannot keep what is remembered of clients in {self.path}: {error}; --resume goes on from the last checkpoint"
            ) from error
