"""The folder of one stream: what it has answered, and what waits to go out.

stream.json     its name for brokers, and where its answers go, for `fedlearn doctor`
ledger          keys of files that are answered
position        how far a table is answered
counts          the window that is being counted
outbox/         answers on their way to a broker
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlearn.errors import RecordError, RunError
from fedlearn.system import files

FACTS = "stream.json"
OUTBOX = "outbox"
COUNTS = "counts"

# Where systemd keeps a service's state, see systemd.exec(5).
_SYSTEMD = "STATE_DIRECTORY"


def default_folder() -> Path:
    """Return where a stream's state lies: systemd's place for it, or the current folder."""
    folder = os.environ.get(_SYSTEMD, "").partition(":")[0]
    return Path(folder) if folder else Path("infer-state")


class StreamState:
    """A stream's folder, for one process at a time."""

    def __init__(self, folder: Path) -> None:
        """Open a folder, or make it.

        earlier: what `note` wrote in the run before. Raises RunError where another process
        has it, RecordError where it cannot be used.
        """
        self.folder = folder
        try:
            files.make_folder(folder)
            lock = files.private(folder / ".lock", os.O_WRONLY | os.O_CREAT)
        except OSError as error:
            raise RecordError(
                f"--state {folder}: {error.strerror}; name a folder of your own"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise RunError(
                f"another process streams with '{folder}'; give another --state"
            ) from None
        self._lock = lock
        self.earlier = facts_of(folder) or {}
        self.name = str(self.earlier.get("name") or secrets.token_hex(8))

    def note(self, facts: Mapping[str, Any]) -> None:
        """Note where answers go; raises OSError."""
        text = json.dumps({**facts, "name": self.name})
        files.replace(self.folder / FACTS, text.encode())

    def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._lock)


def facts_of(folder: Path) -> dict[str, Any] | None:
    """Return what is noted of a stream; None: there is none. Raises RecordError."""
    path = folder / FACTS
    try:
        facts = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise RecordError(f"'{path}' cannot be read ({error}); remove it") from None
    if not isinstance(facts, dict):
        raise RecordError(f"'{path}' is damaged; remove it")
    return facts
