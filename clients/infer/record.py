"""Which model serves: a path that is given once, or a small file that names one at a time.

The file is JSON, such as ``{"model": "releases/7"}``, beside the models that it names. Whoever
changes the model replaces the file whole, by a rename: there is no moment without a model.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlearn.errors import UserError

SUFFIX = ".json"

# A path has 4,096 bytes at most.
_MOST_BYTES = 8192

# A file by its identity: another one in its place differs in the first two.
Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class ServingRecord:
    """What is to be served.

    shadow: another version that answers a share of the requests too, to be compared; None:
    there is none.
    """

    model: Path
    shadow: Path | None = None
    share: float = 0.0


def is_record(path: Path) -> bool:
    """Tell whether a path is a file that names a model, and no model itself."""
    return path.suffix == SUFFIX and not path.is_dir()


def target(path: Path) -> Path:
    """Return the model that a record names. Raises as `read`."""
    return read(path).model


def read(path: Path) -> ServingRecord:
    """Return what a record says, or that a path is served which is no record itself.

    Raises UserError for a record that names no model, or compares it in no possible way.
    """
    if not is_record(path):
        return ServingRecord(path)
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(_MOST_BYTES))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not _is_name(value.get("model")):
        raise UserError(
            f'\'{path}\' names no model; it has to be JSON such as {{"model": "FOLDER"}}'
        )
    model = path.parent / value["model"]
    shadow = value.get("shadow")
    if shadow is None:
        return ServingRecord(model)
    share: Any = value.get("share")
    is_number = isinstance(share, int | float) and not isinstance(share, bool)
    if not _is_name(shadow) or not is_number or not 0 <= share <= 1:
        raise UserError(
            f"'{path}': a shadow has to be as in "
            '{"model": "FOLDER", "shadow": "FOLDER", "share": 0.05}'
        )
    return ServingRecord(model, path.parent / shadow, float(share))


def _is_name(value: object) -> bool:
    """Tell whether a value can be a path."""
    return isinstance(value, str) and value != "" and "\0" not in value


def stamp(path: Path) -> Stamp | None:
    """Return what changes when a file is replaced or written; None: it is not there now."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
