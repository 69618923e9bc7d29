"""Bytes per client, as they are now and as the last two checkpoints have them.

They are on disk, and only of clients that were asked. A checkpoint holds one number, the
moment that it is of, so neither memory nor a checkpoint grows with the number of clients.
A run that is killed at any moment finds what its last whole checkpoint knew.

The file is an SQLite database. Only the coordinating process may use it; it is opened at
its first use, after the workers are forked.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import ConfigError, RecordError, UnwrittenError
from fedlearn.system import files

# Most of what is held in memory until the next checkpoint; beyond it all goes to the
# database at once.
HELD_BYTES = 16 << 20

# What the Python objects of one remembered row take besides its content, about.
_ROW_BYTES = 200

# Bytes of a path that SQLite takes: its own 512 (SQLITE_MAX_PATHNAME), but for the ending
# of its journal.
_MOST_PATH_BYTES = 512 - len("-journal")

Row = tuple[int, bytes]
"""The moment at which something was remembered, and what."""

_TABLE = (
    "CREATE TABLE IF NOT EXISTS versions "
    "(client INTEGER, moment INTEGER, content BLOB, PRIMARY KEY (client, moment))"
)
_INSERT = "INSERT INTO versions VALUES (?, ?, ?)"
_SELECT = "SELECT moment, content FROM versions WHERE client = ? ORDER BY moment"
_DELETE = "DELETE FROM versions WHERE client = ? AND (moment > ? OR moment < ?)"


class Versions:
    """Bytes per client, in versions. Every method raises RecordError when the file fails."""

    def __init__(self, path: Path) -> None:
        """Take the file; its stem names the versions in checkpoints.

        What the file holds counts only after `recall`. Raises ConfigError for a path that
        SQLite does not take.
        """
        check_length(path)
        self.path = path
        # The moment that new rows belong to; it goes on at each checkpoint.
        self.moment = 1
        # The last moments of the last two checkpoints.
        self._cuts = (0, 0)
        # Rows of the clients that were looked at since the last flush.
        self._rows: dict[int, list[Row]] = {}
        self._rows_bytes = 0
        self._changed: set[int] = set()
        self._database: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the file; what no `sync` brought to disk is lost."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def rows(self, client: int) -> Sequence[Row]:
        """Return a client's rows, oldest first: of the last two checkpoints, and of now."""
        rows = self._rows.get(client)
        if rows is None:
            rows = []
            if not self._empty:
                rows = self._do(_SELECT, client)
            self._hold(client, rows)
        return rows

    def newest(self, client: int) -> Row | None:
        """Return what is remembered of a client now; None: nothing."""
        rows = self.rows(client)
        if not rows:
            return None
        return rows[-1]

    def put(self, client: int, content: bytes) -> None:
        """Remember something of a client in the place of what was; checkpoints keep theirs."""
        # A row of this moment is overwritten: no checkpoint has seen it.
        before = [row for row in self.rows(client) if row[0] < self.moment]
        # What neither checkpoint nor now needs is not written again.
        needed = {_newest_moment(before, cut) for cut in self._cuts}
        rows = [row for row in before if row[0] in needed]
        self.restore(client, [*rows, (self.moment, content)])

    def restore(self, client: int, rows: Sequence[Row]) -> None:
        """Put back what `rows` gave since the last checkpoint."""
        self._hold(client, list(rows))
        self._changed.add(client)

    def turn(self) -> int:
        """Begin another moment and return the one that is over."""
        over = self.moment
        self.moment += 1
        return over

    def sync(self) -> dict[str, NDArray[Any]]:
        """Bring all to disk and return what a checkpoint has to hold of it."""
        # No file for runs whose clients keep nothing.
        if self._empty and not self._changed:
            return {self._name: np.zeros(2, np.int64)}
        self._flush()
        # In the same transaction: the file says up to which moment it is whole.
        self._do(f"PRAGMA user_version = {self.moment}")
        self._do("COMMIT")
        # At once, so that everything between two checkpoints is one transaction.
        self._do("BEGIN")
        return {self._name: np.array([self._cuts[1], self.moment])}

    def checkpointed(self) -> None:
        """Keep what is remembered now: the checkpoint that names this moment is on disk."""
        self._cuts = (self._cuts[1], self.turn())

    def recall(self, saved: Mapping[str, NDArray[Any]] | None) -> bool:
        """Go back to what a checkpoint knew; None: to nothing.

        Returns False for a checkpoint from before there were versions, which leaves
        nothing remembered. Raises RecordError when the file is not the checkpoint's.
        """
        named = saved is not None and self._name in saved
        self._cuts = (0, 0)
        if saved is not None and named:
            older, newer = saved[self._name]
            self._cuts = (int(older), int(newer))
        self.moment = self._cuts[1] + 1
        self._forget_rows()
        # A copy of an older file would give clients vectors that they no longer hold.
        if self._reached() < self._cuts[1]:
            raise RecordError(
                f"--resume: {self.path} is not what the checkpoint was made with "
                "(it was lost or replaced); start anew"
            )
        if not self._empty:
            # Rows of rounds that the checkpoint does not know: a killed run left them.
            self._do("DELETE FROM versions WHERE moment > ?", self._cuts[1])
        return named or saved is None

    def adopt(
        self, rows: Iterable[tuple[int, int, bytes]], cuts: tuple[int, int]
    ) -> None:
        """Take over what two checkpoints hold that are from before there were versions.

        rows: (client, moment, content). cuts: the moments of the two checkpoints.
        """
        for row in rows:
            self._do(_INSERT, *row)
        self._cuts = cuts
        self.moment = cuts[1] + 1

    @property
    def _empty(self) -> bool:
        """Return whether nothing was ever remembered: then there is no file."""
        return self._database is None and not self.path.exists()

    @property
    def _name(self) -> str:
        return f"{self.path.stem}.versions"

    def _reached(self) -> int:
        """Return the last moment that a `sync` brought to the file."""
        if self._empty:
            return 0
        rows = self._do("PRAGMA user_version")
        return int(rows[0][0])

    def _hold(self, client: int, rows: list[Row]) -> None:
        self._rows_bytes += sum(_ROW_BYTES + len(content) for _, content in rows)
        # Before this client is added, whose rows must stay in memory.
        if self._rows_bytes > HELD_BYTES:
            self._flush()
        self._rows[client] = rows

    def _flush(self) -> None:
        """Write what changed.

        What the last checkpoint has is on disk and stays. Only rows that are newer, or
        older than needed, are touched.
        """
        last = self._cuts[1]
        # Sorted: rows are written in the order of the table's key.
        for client in sorted(self._changed):
            rows = self._rows[client]
            oldest = min((moment for moment, _ in rows), default=0)
            self._do(_DELETE, client, last, oldest)
            for moment, content in rows:
                if moment > last:
                    self._do(_INSERT, client, moment, content)
        self._forget_rows()

    def _forget_rows(self) -> None:
        self._rows = {}
        self._changed = set()
        self._rows_bytes = 0

    def _do(self, statement: str, *values: Any) -> list[Any]:
        with self._failing():
            if self._database is None:
                self._database = self._open()
            return self._database.execute(statement, values).fetchall()

    def _open(self) -> sqlite3.Connection:
        files.make_folder(self.path.parent)
        # SQLite would make it as the umask says; its log gets the mode of the file.
        with open(self.path, "ab", opener=files.private):
            pass
        # Transactions are begun by hand: Python's own would end one at odd moments.
        database = sqlite3.connect(self.path, isolation_level=None)
        try:
            # Exclusive: no shared memory is needed, which a network's disk may not have.
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            # A log beside the file: a transaction is written in one piece.
            database.execute("PRAGMA journal_mode = WAL")
            # Each commit reaches the disk: the checkpoint relies on it.
            database.execute("PRAGMA synchronous = FULL")
            database.execute(_TABLE)
            database.execute("BEGIN")
        except sqlite3.Error:
            database.close()
            raise
        return database

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise UnwrittenError(
                f"cannot keep what is remembered of clients in {self.path}: {error}"
            ) from error


def _newest_moment(rows: Sequence[Row], cut: int) -> int:
    """Return the newest moment up to a checkpoint's; 0: there is none."""
    return max((moment for moment, _ in rows if moment <= cut), default=0)


def check_length(path: Path) -> None:
    """Raise ConfigError for a path that is too long for SQLite."""
    # Links are followed, and the path made a whole one, before SQLite counts.
    length = len(os.fsencode(path.resolve()))
    if length > _MOST_PATH_BYTES:
        raise ConfigError(
            f"--out: the path of {path.name} has {length} bytes, and SQLite takes "
            f"{_MOST_PATH_BYTES}; choose a folder with a shorter path"
        )
