"""The folder of a certificate authority: its lock, and how its files are read and replaced.

Several processes may work on the folder at once: whoever changes it holds its lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedlearn.errors import RecordError, UserError
from fedlearn.system import files

# What to do about a damaged folder.
RESTORE = (
    "restore the folder from a copy, then revoke again since the day of that copy: "
    "fedlearn revoke ID --anyway, for each client that was revoked after it was made"
)


@contextlib.contextmanager
def locked(pki: Path) -> Iterator[None]:
    """Hold the authority's lock, waiting for it.

    A system's error inside becomes RecordError. Raises UserError for no authority.
    """
    with writing(pki):
        is_authority = (pki / "ca.pem").exists()
    if not is_authority:
        raise UserError(
            f"there is no authority in '{pki}'; make one: fedlearn pki init --pki {pki}"
        )
    # Whoever comes first makes the lock file, and nobody removes it.
    with writing(pki), open(pki / ".lock", "ab", opener=files.private) as lock:
        # Waits: whoever holds it works for milliseconds, and no agent should be
        # refused.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def writing(pki: Path) -> Iterator[None]:
    """Turn a system's error into RecordError."""
    try:
        yield
    except OSError as error:
        place = error.filename or pki
        reason = error.strerror or error
        raise RecordError(f"cannot write '{place}': {reason}") from error


def read(path: Path) -> bytes:
    """Return one of the folder's files.

    Raises UserError for one that is not there, RecordError for one that cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"there is no '{path}'; "
            f"make an authority: fedlearn pki init --pki {path.parent}"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise RecordError(f"cannot read '{path}': {reason}") from error


def write(path: Path, data: bytes) -> None:
    """Replace a file whole, and return when it is on disk; raises OSError.

    Certificates may be read by anyone, keys and lists by their owner alone.
    """
    # By the ending, so that no caller can publish a key by mistake.
    mode = files.PUBLIC if path.suffix == ".pem" else files.PRIVATE
    files.replace(path, data, mode)


def read_json(path: Path) -> dict[str, Any]:
    """Return one of the folder's lists.

    Raises RecordError for one that is damaged, UserError for no authority.
    """
    try:
        content = json.loads(read(path))
    except ValueError:
        raise list_damaged(path) from None
    if not isinstance(content, dict):
        raise list_damaged(path)
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace one of the folder's lists; raises OSError."""
    # One line: the file is small, and replaced whole.
    text = json.dumps(content) + "\n"
    write(path, text.encode())


def list_damaged(path: Path) -> RecordError:
    """Return the error of a list that is not what fedlearn writes."""
    return RecordError(f"'{path}' is damaged; {RESTORE}")
