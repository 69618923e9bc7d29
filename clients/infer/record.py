"""Which model serves: a path that is given once, or a small file that names one at a time.

The file is JSON, such as ``{"model": "releases/7"}``, beside the models that it names. Whoever
changes the model replaces the file whole, by a rename: there is no moment without a model.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from fedlearn.errors import UserError

SUFFIX = ".json"

# A path has 4,096 bytes at most.
_MOST_BYTES = 8192

# A file by its identity: another one in its place differs in the first two.
Stamp = tuple[int, int, int, int]


def is_record(path: Path) -> bool:
    """Tell whether a path is a file that names a model, and no model itself."""
    return path.suffix == SUFFIX and not path.is_dir()


def target(path: Path) -> Path:
    """Return the model that a record names, or the path itself where it is no record.

    Raises UserError for a record that names none.
    """
    if not is_record(path):
        return path
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(_MOST_BYTES))
        name = value["model"]
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        name = None
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(
            f'\'{path}\' names no model; it has to be JSON such as {{"model": "FOLDER"}}'
        )
    return path.parent / name


def stamp(path: Path) -> Stamp | None:
    """Return what changes when a file is replaced or written; None: it is not there now."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
