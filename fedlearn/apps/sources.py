"""The Python files of an app's folder, without those of environments inside it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

# What a virtual environment has at its top.
_ENVIRONMENT_FILE = "pyvenv.cfg"

# Files that are looked at; an app with more has data in its folder.
_MOST_FILES = 2000


def python_files(folder: Path) -> Iterator[Path]:
    """Yield the app's own Python files, in one order."""
    count = 0
    # Links are not followed: they may lead in a circle.
    for place, folders, names in os.walk(folder):
        if _ENVIRONMENT_FILE in names:
            folders.clear()
            continue
        # Hidden folders, such as those of git and of tools, have no module.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".py") and count < _MOST_FILES:
                count += 1
                yield Path(place) / name


def digests(folder: Path) -> dict[str, str]:
    """Return file → the first 16 hex digits of its SHA-256, by its path in the folder."""
    known: dict[str, str] = {}
    for path in python_files(folder):
        # One that cannot be read cannot be imported either.
        with contextlib.suppress(OSError):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            known[path.relative_to(folder).as_posix()] = digest[:16]
    return known


def changed(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return the files that differ, are new or are gone."""
    return [
        name for name in sorted({*before, *now}) if before.get(name) != now.get(name)
    ]
