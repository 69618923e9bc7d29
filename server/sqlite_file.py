"""One SQLite file that outlives its process: each call is one transaction, on disk when it returns.

Several processes may have it open: a coordinator, and the commands that look at its fleet.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fedlearn.errors import RecordError
from fedlearn.exchange.release_frames import WrongFrame

# Seconds that a call waits for another process's transaction.
_WAIT_S = 10.0


class SqliteFile:
    """See the module. Every method raises RecordError where the disk or the file fails."""

    def __init__(self, path: Path, schema: str, content: str) -> None:
        """Open a file, which is made if it is not there. content: what messages call it."""
        self.path = path
        self._content = content
        with self._named():
            self._connection = sqlite3.connect(
                path, timeout=_WAIT_S, check_same_thread=False
            )
            # FULL: a commit is on disk, also after a power cut.
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(schema)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _write(self, statement: str, row: tuple[object, ...]) -> int:
        """Do one change; returns how many rows it changed."""
        with self._named(), self._connection:
            return self._connection.execute(statement, row).rowcount

    def _write_all(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Do one change for each row, all of them or none."""
        with self._named(), self._connection:
            self._connection.executemany(statement, rows)

    def _read(self, statement: str, row: tuple[object, ...] = ()) -> list[Any]:
        with self._named():
            return self._connection.execute(statement, row).fetchall()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Raise RecordError for what goes wrong inside."""
        try:
            yield
        except (sqlite3.Error, WrongFrame, ValueError, KeyError, TypeError) as error:
            text = f"the {self._content} in '{self.path}' cannot be used: {error}"
            raise RecordError(text) from error
