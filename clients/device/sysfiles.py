"""The small files by which Linux tells what a device is and how it is doing.

Nothing here raises: what is missing, or may not be read by this process, is None or empty. Only
the standard library is imported.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

ROOT = Path("/")


def folders(folder: Path, pattern: str) -> list[Path]:
    """Return what matches a pattern in a folder, in order of its names."""
    with contextlib.suppress(OSError):
        return sorted(folder.glob(pattern))
    return []


def text(path: Path) -> str:
    """Return a file's text without white space and zero bytes around it; "": there is none."""
    try:
        # Device-tree files end with a zero byte.
        return path.read_bytes().decode(errors="replace").strip("\0\n ")
    except (OSError, ValueError):
        return ""


def find(path: Path, pattern: str) -> str | None:
    """Return the first group of a pattern in a file's text; ^ and $ match at the ends of lines."""
    match = re.search(pattern, text(path), re.MULTILINE)
    return match[1] if match else None


def number(path: Path) -> float | None:
    """Return a file's whole number; "max" and other words are None."""
    try:
        return float(int(text(path)))
    except ValueError:
        return None


def thousandth(path: Path) -> float | None:
    """Return a thousandth of a file's number: the kernel gives m°C, mV and mA."""
    value = number(path)
    return None if value is None else value / 1000
