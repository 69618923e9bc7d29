"""The list of what an authority has issued: serial numbers, their clients and their ends.

A number is never used twice, also where the folder was restored from an old copy, or the clock
was wrong: the upper bits of a number are the time, the lower ones are random, and numbers only
grow. So one limit per client still says which certificates are revoked.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlearn.server import anchor, authority

# What expired longer ago than this is forgotten: a clock that was ahead for a while forgets
# nothing that is valid.
KEPT_S = 365 * 86400.0

# Random bits of a number, and of the gap to the number before where the clock has gone back.
_RANDOM_BITS = 32


def file_of(pki: Path) -> Path:
    """Return the list's file."""
    return pki / "issued.json"


def take_serial(pki: Path, client: int | None, expires: int) -> int:
    """Take the next serial number, and return it; for a caller that holds the lock.

    It is on disk before anything is signed with it, so a crash wastes a number and no more.
    client: None for a certificate that is no client's. expires: seconds since 1970. Raises
    RecordError, and OSError when the list cannot be written.
    """
    issued = authority.read_json(file_of(pki))
    now = time.time()
    gap = secrets.randbits(_RANDOM_BITS)
    # By the clock, or behind the last number where the clock has gone back.
    serial = max(_next(pki, issued) + gap, _first_at(now) + gap)
    issued["next"] = serial + 1
    certificates = {
        number: entry
        for number, entry in issued["certificates"].items()
        if entry["expires"] + KEPT_S > now
    }
    if client is not None:
        certificates[str(serial)] = {"client": client, "expires": expires}
    issued["certificates"] = certificates
    _write(pki, issued, now)
    return serial


def take_limit(pki: Path) -> int:
    """Return a number that no certificate of today exceeds and each later one does.

    For a caller that holds the lock. It counts numbers that a folder which was restored from a
    copy knows nothing of. Raises what `take_serial` raises.
    """
    issued = authority.read_json(file_of(pki))
    now = time.time()
    limit = max(_next(pki, issued) - 1, _first_at(now) + (1 << _RANDOM_BITS))
    issued["next"] = limit + 1
    _write(pki, issued, now)
    return limit


def of_client(pki: Path, client: int) -> dict[int, int]:
    """Return the certificates of a client: number → when it expires. Raises RecordError."""
    issued = authority.read_json(file_of(pki))
    return {
        int(number): int(entry["expires"])
        for number, entry in issued["certificates"].items()
        if entry["client"] == client
    }


def changed(pki: Path) -> float | None:
    """Return when the authority was last used, in seconds since 1970; None: it is not known.

    Raises RecordError.
    """
    moment = authority.read_json(file_of(pki)).get("changed")
    return float(moment) if isinstance(moment, int | float) else None


def _next(pki: Path, issued: Mapping[str, Any]) -> int:
    """Return a number above all that were taken, also before the folder was restored.

    The clock alone would not do: it may have been ahead of now at the last number, and a
    limit that was taken then would refuse the next certificate, too.
    """
    return max(int(issued["next"]), anchor.read(pki).last + 1)


def _first_at(now: float) -> int:
    """Return the first number of a moment."""
    microseconds = int(now * 1e6)
    return microseconds << _RANDOM_BITS


def _write(pki: Path, issued: Mapping[str, Any], now: float) -> None:
    # Remembered first: a number that is in the folder alone could be forgotten with it.
    anchor.add(pki, last=int(issued["next"]) - 1)
    authority.write_json(file_of(pki), {**issued, "changed": int(now)})
