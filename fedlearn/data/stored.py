"""The npz files that data sets are kept in: shipped beside this file, or fetched into the user's cache."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import DataError

Arrays = dict[str, NDArray[Any]]

BUNDLED = Path(__file__).parent / "bundled"


def cache_folder() -> Path:
    """Return where fetched sets are kept: $FEDLEARN_DATA, else fedlearn/ in the user's cache folder."""
    if own := os.environ.get("FEDLEARN_DATA"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedlearn"


def read_npz(path: Path, keys: Iterable[str], fix: str) -> Arrays:
    """Return the named arrays of an npz; nothing in the file is ever unpickled.

    Raises DataError naming the file, what is wrong and ``fix``.
    """
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(
                    f"{path} holds a single array (.npy), not an npz archive: {fix}"
                )
            absent = [key for key in keys if key not in archive.files]
            if absent:
                raise DataError(
                    f"{path} has no array '{absent[0]}' (it has: {', '.join(archive.files)}): {fix}"
                )
            return {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: {fix}") from None
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
        MemoryError,
    ) as error:
        raise DataError(
            f"{path} cannot be read ({str(error) or type(error).__name__}): {fix}"
        ) from error


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an npz so that the name either holds the whole file or what it held before.

    Raises DataError naming the file when the folder cannot be written or the disk is full.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez_compressed(file, **dict[str, Any](arrays))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({error.strerror or error}): free some space or set FEDLEARN_DATA to another folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def bundled(name: str, keys: Iterable[str]) -> Arrays:
    """Return the arrays of a set that comes with fedlearn."""
    return read_npz(BUNDLED / f"{name}.npz", keys, "reinstall fedlearn")


def fetched(name: str, keys: Iterable[str]) -> Arrays:
    """Return the arrays of a set in the user's cache; raises DataError with the command that fetches it."""
    path = cache_folder() / f"{name}.npz"
    command = f"fedlearn data fetch {name}"
    if not path.exists():
        raise DataError(
            f"data set '{name}' is not on this machine ({path} does not exist): run '{command}', "
            "or set [data] synthetic = true to try without it"
        )
    return read_npz(path, keys, f"run '{command}' again")
