"""A package as one tar file: to be sent, and taken from strangers.

Only plain files of a package's own names are taken, each with a limit that is known before it
is read. A tar file can also hold links, devices, holes and paths that lead elsewhere.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from fedlearn.errors import PackageError
from fedlearn.package.content import MOST_SIGNATURE_BYTES, SIGNATURES
from fedlearn.package.manifest import MOST_BYTES
from fedlearn.package.parts import (
    DELTAS_FOLDER,
    INT8_GRAPH_FILE,
    MANIFEST_FILE,
    MOST_DELTAS,
    MOST_FILES,
    REQUIRED,
)
from fedlearn.system import files
from fedlearn.text import shortened

_MOST_MEMBERS = MOST_FILES + MOST_DELTAS + 8

_DELTA = re.compile(rf"{DELTAS_FOLDER}/[0-9a-f]{{16}}\.fl")

# Of files that have a limit of their own; others have that of the whole.
_LIMITS = {MANIFEST_FILE: MOST_BYTES, **dict.fromkeys(SIGNATURES, MOST_SIGNATURE_BYTES)}
_NAMES = (*_LIMITS, *REQUIRED, INT8_GRAPH_FILE)


def packed(content: Mapping[str, bytes]) -> bytes:
    """Return a tar file of some files by their paths; the same files are the same bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, data in sorted(content.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            entry.mode = files.PUBLIC
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def unpack(stream: BinaryIO, folder: Path) -> None:
    """Write a package's files from a tar file into an empty folder.

    Raises PackageError for anything else in it, OSError.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            _unpack(archive, folder)
    # What damaged headers lead to; tarfile follows headers of headers by calling itself.
    except (
        tarfile.TarError,
        ValueError,
        EOFError,
        OverflowError,
        RecursionError,
    ):
        raise PackageError(
            "tar", "the package is no tar file that can be read"
        ) from None


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    names: set[str] = set()
    for number, member in enumerate(archive):
        path = member.name.removeprefix("./")
        if number >= _MOST_MEMBERS:
            raise PackageError(
                "tar", f"the tar file has more than {_MOST_MEMBERS} files"
            )
        # As `tar c .` writes them.
        if member.isdir() and path in (".", "", DELTAS_FOLDER):
            continue
        _check(member, path, names)
        names.add(path)
        reader = archive.extractfile(member)
        data = b"" if reader is None else reader.read(member.size)
        if len(data) != member.size:
            raise PackageError("tar", f"the tar file ends inside of '{path}'")
        files.make_folder((folder / path).parent)
        files.replace(folder / path, data)


def _check(member: tarfile.TarInfo, path: str, names: set[str]) -> None:
    """Refuse what is no plain file of a package. Raises PackageError."""
    shown = shortened(path, 100)
    if path not in _NAMES and not _DELTA.fullmatch(path):
        raise PackageError("path", f"the tar file has '{shown}', which no package has")
    # A sparse file of a few bytes may stand for terabytes.
    if not member.isreg() or member.issparse():
        raise PackageError(
            "link", f"the tar file has '{shown}', which is no plain file"
        )
    if path in names:
        raise PackageError("tar", f"the tar file has '{shown}' twice")
    if member.size > _LIMITS.get(path, member.size):
        raise PackageError(
            "limits",
            f"'{shown}' has {member.size:,} bytes, more than {_LIMITS[path]:,}",
        )
