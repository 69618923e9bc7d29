"""Files that are replaced whole and are on disk when the call returns."""

from __future__ import annotations

import os
from pathlib import Path


def replace(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file whole: a reader and a power cut find the old content or the new.

    mode: who may read it. Raises OSError.
    """
    part = path.with_name(f".{path.name}.part")
    # A part that a killed process left may have another mode, and O_EXCL refuses it.
    part.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(part, flags, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to disk, a new or renamed file's among them.

    Raises OSError.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove the parts that processes left in a folder which were killed in `replace`.

    Only who holds the folder's lock may call it, as a living process needs its parts.
    Raises OSError.
    """
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)
