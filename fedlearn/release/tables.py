"""The registry's database: its tables, its statements, and what a row means."""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass
from pathlib import Path

from fedlearn.errors import RecordError

# Of the tables; a newer fedlearn may have others. 2 has signings, which an older registry gets
# when it is opened.
FORMAT = 2

# Seconds that a writer waits for the one before, who may write gigabytes.
_PATIENCE_S = 120

_TABLES = (
    """CREATE TABLE IF NOT EXISTS versions (
        name TEXT NOT NULL, counter INTEGER NOT NULL, sha256 TEXT NOT NULL UNIQUE,
        weights_sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, run TEXT NOT NULL,
        model_sha256 TEXT NOT NULL, config_sha256 TEXT NOT NULL,
        who TEXT NOT NULL, time TEXT NOT NULL, PRIMARY KEY (name, counter))""",
    """CREATE TABLE IF NOT EXISTS files (
        package TEXT NOT NULL REFERENCES versions (sha256), path TEXT NOT NULL,
        sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (package, path))""",
    """CREATE TABLE IF NOT EXISTS aliases (
        name TEXT NOT NULL, alias TEXT NOT NULL, counter INTEGER NOT NULL,
        PRIMARY KEY (name, alias), FOREIGN KEY (name, counter) REFERENCES versions)""",
    """CREATE TABLE IF NOT EXISTS moves (
        number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, alias TEXT NOT NULL,
        before INTEGER, after INTEGER, action TEXT NOT NULL, who TEXT NOT NULL,
        time TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS signings (
        number INTEGER PRIMARY KEY AUTOINCREMENT, move INTEGER NOT NULL,
        name TEXT NOT NULL, counter INTEGER NOT NULL, path TEXT NOT NULL, before TEXT,
        after TEXT, who TEXT NOT NULL, time TEXT NOT NULL)""",
)

INSERT_VERSION = "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_FILE = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)"
INSERT_ALIAS = "INSERT OR REPLACE INTO aliases VALUES (?, ?, ?)"
DELETE_ALIAS = "DELETE FROM aliases WHERE name = ? AND alias = ?"
INSERT_MOVE = (
    "INSERT INTO moves (name, alias, before, after, action, who, time) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
DELETE_FILE = "DELETE FROM files WHERE package = ? AND path = ?"
INSERT_SIGNING = (
    "INSERT INTO signings (move, name, counter, path, before, after, who, time) "
    "SELECT COALESCE(MAX(number), 0), ?, ?, ?, ?, ?, ?, ? FROM moves"
)
SIGNINGS = "SELECT * FROM signings WHERE name = ? ORDER BY number"
VERSIONS = "SELECT * FROM versions WHERE name = ? ORDER BY counter DESC"
ALIASES = "SELECT alias, counter FROM aliases WHERE name = ? ORDER BY alias"
MOVES = "SELECT * FROM moves WHERE name = ? ORDER BY number"
FILE = "SELECT sha256 FROM files WHERE package = ? AND path = ?"
PATHS = "SELECT path FROM files WHERE package = ? ORDER BY path"


@dataclass(frozen=True)
class Version:
    """A version of a model.

    counter: the manifest's. sha256: the package's, which is its manifest's. bytes: of its
    files without differences. run: where the weights come from, as its releaser named it.
    time: in UTC, "YYYY-MM-DDThh:mm:ssZ".
    """

    name: str
    counter: int
    sha256: str
    weights_sha256: str
    bytes: int
    run: str
    model_sha256: str
    config_sha256: str
    who: str
    time: str

    @property
    def row(self) -> tuple[object, ...]:
        """Return it as the table has it."""
        return astuple(self)


@dataclass(frozen=True)
class Move:
    """An alias that went from one version to another; None: from or to none."""

    number: int
    name: str
    alias: str
    before: int | None
    after: int | None
    action: str
    who: str
    time: str


def connect(path: Path) -> sqlite3.Connection:
    """Return an open database with the tables.

    Raises RecordError for tables of a newer fedlearn, sqlite3.Error.
    """
    # Transactions are begun by hand: Python's own would begin one at the first change alone.
    database = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None)
    try:
        # Each commit reaches the disk before the command says that it is done.
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        # One number of the file: most openings have nothing to make.
        if _format_of(database) != FORMAT:
            _make_tables(database, path)
    except BaseException:
        database.close()
        raise
    return database


def _make_tables(database: sqlite3.Connection, path: Path) -> None:
    database.execute("BEGIN IMMEDIATE")
    # Another process may have made them while this one waited.
    number = _format_of(database)
    if number > FORMAT:
        raise RecordError(
            f"'{path}' has format {number}, and this fedlearn reads {FORMAT}: update fedlearn"
        )
    for statement in _TABLES:
        database.execute(statement)
    database.execute(f"PRAGMA user_version = {FORMAT}")
    database.execute("COMMIT")


def _format_of(database: sqlite3.Connection) -> int:
    number: int = database.execute("PRAGMA user_version").fetchone()[0]
    return number
