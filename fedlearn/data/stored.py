"""The npz files that data sets are kept in: shipped beside this file, or fetched into the cache."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.kinds_of_files import HEAD_BYTES, kind_of
from fedlearn.errors import DataError

Arrays = dict[str, NDArray[Any]]

# The folder of the sets that come with fedlearn.
BUNDLED = Path(__file__).parent / "bundled"


def cache_folder() -> Path:
    """Return the folder of fetched sets: $FEDLEARN_DATA, or fedlearn/ in the user's cache.

    Raises DataError for a user who has no cache.
    """
    configured = os.environ.get("FEDLEARN_DATA")
    if configured:
        return Path(configured)
    # The XDG base directory specification: unset and empty both mean ~/.cache.
    cache = os.environ.get("XDG_CACHE_HOME")
    if cache:
        return Path(cache) / "fedlearn"
    try:
        return Path.home() / ".cache" / "fedlearn"
    # As in a container, whose user has no name: neither $HOME nor /etc/passwd says it.
    except RuntimeError:
        raise DataError(
            "this user has no home folder, where fetched data sets are kept; set "
            "FEDLEARN_DATA to another folder"
        ) from None


def read_npz(
    path: Path, keys: Iterable[str], fix: str, others: Iterable[str] | None = None
) -> Arrays:
    """Return arrays of an npz that has the keys; nothing in the file is ever unpickled.

    others: names that are read where they are there; None: all names. Raises DataError naming
    the file, the array, what is wrong and ``fix``.
    """
    with _opened(path, fix) as archive:
        needed = list(keys)
        absent = [key for key in needed if key not in archive.files]
        if absent:
            present = ", ".join(archive.files)
            raise DataError(
                f"{path} has no array '{absent[0]}' (it has: {present}): {fix}"
            )
        wanted = archive.files if others is None else [*needed, *others]
        return {
            key: _array(path, archive, key) for key in archive.files if key in wanted
        }


def read_npy(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file; raises DataError. No pickle is ever read."""
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    # numpy's own words are of unpickling, whatever the file is.
    except (ValueError, EOFError, OSError):
        raise DataError(
            f"'{path}' is no array of numpy, and cannot be read as an array of numbers: "
            f"it {_fault_of_npy(path)}"
        ) from None
    return array


def _fault_of_npy(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if head.startswith(b"\x93NUMPY"):
        return "is cut short, or holds objects, which are never unpickled"
    return kind_of(head) or "is a zip archive"


def names_in(path: Path, fix: str) -> list[str]:
    """Return the names of an npz's arrays; raises DataError as `read_npz` does."""
    with _opened(path, fix) as archive:
        return list(archive.files)


@contextmanager
def _opened(path: Path, fix: str) -> Iterator[Any]:
    """Open an npz archive; whatever is wrong with the file is a DataError."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            # numpy takes any other file for a pickle, and tells how to load it unsafely.
            kind = kind_of(head)
            if kind:
                raise DataError(
                    f"{path} cannot be read (it {kind}, and no npz archive): {fix}"
                )
            yield np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: {fix}") from None
    # All that numpy and zipfile raise for a damaged file, or one that claims too much.
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
        MemoryError,
    ) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read ({reason}): {fix}") from error


def _array(path: Path, archive: Any, key: str) -> NDArray[Any]:
    """Return one array of an archive; raises DataError where it would have to be unpickled."""
    try:
        array: NDArray[Any] = archive[key]
    except ValueError as error:
        # numpy's word for it; its advice is to run whatever the file says.
        if "pickle" not in str(error):
            raise
        raise DataError(
            f"{path}: array '{key}' holds Python objects, which are never read, as they "
            "can run code; save it as numbers, or as text with .astype(str)"
        ) from None
    return array


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an npz so that the name either holds the whole file or what it held before.

    Raises DataError naming the file when the folder cannot be written or the disk is full.
    """
    # The process number keeps two fetches of one set out of each other's file.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez_compressed(file, **dict[str, Any](arrays))
            file.flush()
            # Without it, a power cut could leave an empty file under the final name.
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({error.strerror or error}): "
            "free some space or set FEDLEARN_DATA to another folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def bundled(name: str, keys: Iterable[str]) -> Arrays:
    """Return the arrays of a set that comes with fedlearn; raises DataError when it is damaged."""
    path = BUNDLED / f"{name}.npz"
    return read_npz(path, keys, "reinstall fedlearn")


def fetched(name: str, keys: Iterable[str]) -> Arrays:
    """Return the arrays of a set in the user's cache.

    Raises DataError with the command that fetches it when it is absent or damaged.
    """
    path = cache_folder() / f"{name}.npz"
    command = f"fedlearn data fetch {name}"
    if not path.exists():
        raise DataError(
            f"data set '{name}' is not on this machine ({path} does not exist): "
            f"run '{command}', or set [data] synthetic = true to try without it"
        )
    return read_npz(path, keys, f"run '{command}' again")
