"""Where a run's folder lies, if its user names none."""

from __future__ import annotations

import time
from pathlib import Path

RUNS = Path("runs")


def new_folder(name: str) -> Path:
    """Return the path of a folder for a run of this name; nothing is made."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = RUNS / stem
    # A second run within the same second gets a number.
    number = 2
    while path.exists():
        path = RUNS / f"{stem}-{number}"
        number += 1
    return path
