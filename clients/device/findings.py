"""What `fedlearn doctor` finds, and the words for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# States of a finding: all is well; works, but read this; does not work; not looked at.
WELL = "ok"
NOTE = "note"
FAILS = "FAILS"
SKIPPED = "-"

DAY_S = 86400.0

SET_CLOCK = (
    "set it: sudo timedatectl set-ntp true, or without a time server: "
    "sudo date -s '2030-01-31 12:00' (the right one)"
)


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, and how it is."""

    name: str
    state: str
    text: str
    # What to do about it; there is one for all that fails.
    fix: str = ""
    # For machines.
    figures: Mapping[str, Any] = field(default_factory=dict)


def day(seconds: float) -> str:
    """Return a moment (seconds since 1970) as a date, UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def moment(seconds: float) -> str:
    """Return a moment (seconds since 1970) as date and time, UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def span(seconds: float) -> str:
    """Return a span of time in words, without its sign."""
    seconds = abs(seconds)
    # From two on, so that "1 days" is never written.
    for unit, unit_s in (("days", DAY_S), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.1f} s"


def size(count: float) -> str:
    """Return a number of bytes in words."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB"
