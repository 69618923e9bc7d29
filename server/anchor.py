"""What this machine remembers of an authority outside of its folder.

A folder that is restored from a copy forgets whom it has revoked and which tokens were used
since. So both are kept a second time, in the user's state folder (XDG_STATE_HOME), and hold
whatever the folder says. Without such a place nothing is kept: an authority works on, and after
a restore a person has to revoke again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlearn.system import files


@dataclass(frozen=True)
class Anchor:
    """What is remembered.

    limits: client → the largest serial number that is refused. spent: the digests of tokens
    that were used or withdrawn → when they expire, in seconds since 1970. last: the largest
    serial number that was ever taken.
    """

    limits: Mapping[int, int] = field(default_factory=dict)
    spent: Mapping[str, float] = field(default_factory=dict)
    last: int = 0


def place(pki: Path) -> Path | None:
    """Return the file in which an authority is remembered; None: there is no such place."""
    try:
        certificate = (pki / "ca.pem").read_bytes()
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    # RuntimeError: a user without a home.
    except (OSError, RuntimeError):
        return None
    # By its certificate: the folder may be moved, and a copy of it is the same authority.
    name = hashlib.sha256(certificate).hexdigest()[:32]
    return Path(state) / "fedlearn" / "authorities" / f"{name}.json"


def read(pki: Path) -> Anchor:
    """Return what is remembered of an authority; nothing, where it cannot be read."""
    path = place(pki)
    if path is None:
        return Anchor()
    try:
        content = json.loads(path.read_bytes())
        limits = {int(client): int(limit) for client, limit in _part(content, "limits")}
        spent = {digest: float(end) for digest, end in _part(content, "spent")}
        last = int(content.get("last", 0))
    # It is a second copy: damage to it must not end what the folder itself can do.
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return Anchor()
    return Anchor(limits, spent, last)


def add(
    pki: Path,
    limits: Mapping[int, int] | None = None,
    spent: Mapping[str, float] | None = None,
    last: int = 0,
) -> None:
    """Remember more, see `Anchor`; for a caller that holds the authority's lock."""
    path = place(pki)
    if path is None:
        return
    before = read(pki)
    content = {
        "folder": os.fspath(pki.resolve()),
        "limits": merged(before.limits, limits or {}),
        "spent": {**before.spent, **(spent or {})},
        "last": max(before.last, last),
    }
    data = json.dumps(content).encode()
    # A full disk here must not keep a person from revoking.
    with contextlib.suppress(OSError):
        files.make_folder(path.parent)
        files.replace(path, data)


def merged(first: Mapping[int, int], second: Mapping[int, int]) -> dict[int, int]:
    """Return the larger limit of each client."""
    limits = dict(first)
    for client, limit in second.items():
        limits[client] = max(limit, limits.get(client, 0))
    return limits


def _part(content: Any, key: str) -> Any:
    return content[key].items()
