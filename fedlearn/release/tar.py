"""A package as one tar file: to be sent, and taken from strangers.

Only plain files of a package's own names are taken, each with a limit that is known before it
is read. A tar file can also hold links, devices, holes and paths that lead elsewhere.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from fedlearn.errors import PackageError
from fedlearn.package.content import MOST_SIGNATURE_BYTES, SIGNATURES
from fedlearn.package.manifest import MOST_BYTES
from fedlearn.package.parts import (
    DELTAS_FOLDER,
    FUNCTIONS_FOLDER,
    MANIFEST_FILE,
    MOST_DELTAS,
    MOST_FILES,
    MOST_FUNCTION_BYTES,
    OPTIONAL,
    REQUIRED,
    is_function_file,
)
from fedlearn.system import files
from fedlearn.text import shortened

_BLOCK = tarfile.BLOCKSIZE

# Headers about the next header, by pax and GNU.
_ABOUT_THE_NEXT = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_MOST_HEADER_BYTES = 8192

# Each file may have a header about it, and so may two folders.
_MOST_MEMBERS = 2 * (MOST_FILES + MOST_DELTAS + 8)

_DELTA = re.compile(rf"{DELTAS_FOLDER}/[0-9a-f]{{16}}\.fl")

# Of files that have a limit of their own; others have that of the whole.
_LIMITS = {MANIFEST_FILE: MOST_BYTES, **dict.fromkeys(SIGNATURES, MOST_SIGNATURE_BYTES)}
_NAMES = (*_LIMITS, *REQUIRED, *OPTIONAL)
_FOLDERS = (".", "", DELTAS_FOLDER, FUNCTIONS_FOLDER)


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
    names: set[str] = set()
    for member in _members(stream):
        path = member.name.removeprefix("./")
        # As `tar c .` writes them.
        if member.isdir() and path in _FOLDERS:
            continue
        _check(member, path, names)
        names.add(path)
        data = _content(stream, member)
        files.make_folder((folder / path).parent)
        files.replace(folder / path, data)


def _members(stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield each header; what follows it is read by whom it is yielded to.

    `tarfile.open` reads a header that is about the next one whole, however large it says that
    it is. Those are times and owners here: a package's names fit plain headers.
    """
    for _ in range(_MOST_MEMBERS):
        header = stream.read(_BLOCK)
        # An empty block ends the file.
        if header == bytes(_BLOCK):
            return
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        # Of other numbers than a header's, ValueError.
        except (tarfile.TarError, ValueError):
            raise PackageError(
                "tar", "the package is no tar file that can be read"
            ) from None
        if member.type in _ABOUT_THE_NEXT:
            if member.size > _MOST_HEADER_BYTES:
                raise PackageError(
                    "limits",
                    f"the tar file has a header of {member.size:,} bytes, "
                    f"more than {_MOST_HEADER_BYTES:,}",
                )
            _content(stream, member)
        else:
            yield member
    raise PackageError("tar", f"the tar file has more than {_MOST_MEMBERS} headers")


def _content(stream: BinaryIO, member: tarfile.TarInfo) -> bytes:
    """Return what follows a header. Raises PackageError where the file ends before."""
    # A size of its binary form may be below zero, and one to be read takes its memory first.
    if not 0 <= member.size <= _remaining_bytes(stream):
        shown = shortened(member.name, 100)
        raise PackageError("tar", f"the tar file ends inside of '{shown}'")
    blocks = -(-member.size // _BLOCK)
    return stream.read(blocks * _BLOCK)[: member.size]


def _remaining_bytes(stream: BinaryIO) -> int:
    here = stream.tell()
    end = stream.seek(0, io.SEEK_END)
    stream.seek(here)
    return end - here


def _check(member: tarfile.TarInfo, path: str, names: set[str]) -> None:
    """Refuse what is no plain file of a package. Raises PackageError."""
    shown = shortened(path, 100)
    is_known = path in _NAMES or is_function_file(path)
    if not is_known and not _DELTA.fullmatch(path):
        raise PackageError("path", f"the tar file has '{shown}', which no package has")
    # A sparse file of a few bytes may stand for terabytes.
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise PackageError(
            "link", f"the tar file has '{shown}', which is no plain file"
        )
    if path in names:
        raise PackageError("tar", f"the tar file has '{shown}' twice")
    most_bytes = _most_bytes(path)
    if most_bytes is not None and member.size > most_bytes:
        raise PackageError(
            "limits",
            f"'{shown}' has {member.size:,} bytes, more than {most_bytes:,}",
        )


def _most_bytes(path: str) -> int | None:
    """Return a file's own limit; None: that of the whole tar file."""
    if is_function_file(path) and path.endswith(".onnx"):
        return MOST_FUNCTION_BYTES
    return _LIMITS.get(path)
