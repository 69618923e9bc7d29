"""Writing an app from the template, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedlearn.errors import UserError
from fedlearn.system import files
from fedlearn.template.names import package_name
from fedlearn.text import first_few

_SOURCES = Path(__file__).with_name("files")

# What stands for the package's name, in files and as the name of its folder.
_NAME = "app_package"

PACKAGE = "PACKAGE"

# Each file of an app → what it is for. The project's file is the last to be written:
# a folder without it is no app.
FILES = {
    f"{PACKAGE}/__init__.py": "makes the folder a package",
    f"{PACKAGE}/data.py": "generated samples of ten owners; nothing is fetched",
    f"{PACKAGE}/model.py": "a small torch network, its training and its score",
    f"{PACKAGE}/strategy.py": "a strategy on Flower's FedAvg: the rate shrinks",
    f"{PACKAGE}/client_app.py": "the ClientApp: train and evaluate",
    f"{PACKAGE}/server_app.py": "the ServerApp: start the strategy",
    "experiment.toml": "the same data, model and strategy, for fedlearn simulate",
    "test_app.py": "tests of the parts, and of both ways to run them",
    "README.md": "the commands",
    ".gitignore": "what does not belong in a repository",
    "pyproject.toml": "the app's components, config and dependencies",
}

# Who may read a file: everyone whom the umask lets, as it holds nothing of a run.
_MODE = 0o666


def make(folder: Path) -> str:
    """Write an app into a folder that is new or empty, and return its package's name.

    Raises UserError for a name that is none, and for a folder that holds anything or
    cannot be written. It leaves no part of an app behind.
    """
    # Of "." too: its name is that of the folder.
    place = Path(os.path.realpath(folder))
    name = package_name(place)
    try:
        _check_empty(folder, place)
        if place.is_dir():
            _fill(place, name)
        else:
            _create(place, name)
    except OSError as error:
        raise UserError(
            f"cannot write '{folder}': {_reason(error)}; choose another folder"
        ) from error
    return name


def _reason(error: OSError) -> str:
    # The system's own words would be "File exists", of a folder that does not.
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"'{error.filename}' is a file"
    return error.strerror or str(error)


def _check_empty(folder: Path, place: Path) -> None:
    """Raise UserError for a place that is taken; OSError for one that cannot be read."""
    if place.is_dir():
        names = sorted(entry.name for entry in place.iterdir())
        if names:
            raise UserError(
                f"'{folder}' is not empty ({first_few(names, 3)}); give a new folder"
            )
    elif place.exists():
        raise UserError(f"'{folder}' is a file; give a new folder")


def _create(place: Path, name: str) -> None:
    """Make a new folder; it gets its name when all is in it. Raises OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with _stage(place.with_name(f".{place.name}.{os.getpid()}.part")) as stage:
        _write(stage, name)
        os.rename(stage, place)
        files.sync_folder(place.parent)


def _fill(place: Path, name: str) -> None:
    """Fill an empty folder. Raises OSError.

    It stays the folder that it is: a shell may stand in it, or a disk be mounted there.
    """
    moved: list[Path] = []
    with _stage(place / f".new.{os.getpid()}.part") as stage:
        _write(stage, name)
        try:
            for entry in dict.fromkeys(path.split("/")[0] for path in FILES):
                target = place / entry.replace(PACKAGE, name)
                moved.append(target)
                os.rename(stage / target.name, target)
            files.sync_folder(place)
        except BaseException:
            for target in moved:
                _remove(target)
            raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextlib.contextmanager
def _stage(stage: Path) -> Iterator[Path]:
    """Give a folder that is gone after the block: moved elsewhere, or removed."""
    # A killed process of the same number may have left one.
    shutil.rmtree(stage, ignore_errors=True)
    try:
        _make_folder(stage)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write(stage: Path, name: str) -> None:
    for path in FILES:
        target = stage / path.replace(PACKAGE, name)
        if not target.parent.is_dir():
            _make_folder(target.parent)
        files.replace(target, source(path).replace(_NAME, name).encode(), _MODE)
    files.sync_folder(stage)


def _make_folder(folder: Path) -> None:
    # As the umask says: unlike a run folder, it holds nothing that clients learned.
    folder.mkdir()
    files.give_folder(folder)


def source(path: str) -> str:
    """Return the template of a file of `FILES`; the package's name is ``app_package``."""
    # A name with a dot in front would be left out by some tools that pack files.
    inner = path.replace(PACKAGE, "package").removeprefix(".")
    return (_SOURCES / f"{inner}.in").read_text(encoding="utf-8")
