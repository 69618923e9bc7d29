"""Files out of package archives (.tgz, .whl, .deb), in memory: nothing is imported, run or unpacked to disk.

A member's name only selects it; it is never used as a path, so an archive cannot write anywhere.
"""

from __future__ import annotations

import fnmatch
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from fedlearn.errors import DataError

LIMIT_BYTES = (
    1 << 30
)  # of one member, and of all that is read: the largest known is 47 MB

AR_MAGIC = b"!<arch>\n"


def read_members(path: Path, patterns: tuple[str, ...]) -> dict[str, bytes]:
    """Return the members of an archive whose names match one of the shell patterns, by name.

    Raises DataError naming the file when it is missing, no such archive, damaged, or lacks a pattern's member.
    """
    try:
        found = dict(_members(path, patterns))
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error})") from error
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        RuntimeError,
    ) as error:
        raise DataError(f"{path} is damaged ({error}): download it again") from error
    for pattern in patterns:
        if not fnmatch.filter(found, pattern):
            raise DataError(
                f"{path} holds no '{pattern}': it is another package or another version"
            )
    return found


def _members(path: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        head = file.read(len(AR_MAGIC))
    if head.startswith(b"PK"):
        return _zip_members(path, patterns)
    if head == AR_MAGIC:
        return _tar_members(io.BytesIO(ar_member(path, "data.tar")), patterns)
    if head.startswith(b"\x1f\x8b"):
        return _tar_members(io.BytesIO(path.read_bytes()), patterns)
    raise DataError(f"{path} is neither a .tgz, a .whl nor a .deb archive")


def _zip_members(path: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    room = LIMIT_BYTES
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            if any(fnmatch.fnmatchcase(item.filename, pattern) for pattern in patterns):
                with archive.open(item) as member:
                    data = _bounded(member.read(room + 1), room, path)
                room -= len(data)
                yield item.filename, data


def _tar_members(
    tar: io.BytesIO, patterns: tuple[str, ...]
) -> Iterator[tuple[str, bytes]]:
    room = LIMIT_BYTES
    with tarfile.open(fileobj=tar, mode="r|*") as archive:
        for item in archive:
            if item.isfile() and any(
                fnmatch.fnmatchcase(item.name, pattern) for pattern in patterns
            ):
                member = archive.extractfile(item)
                if member is not None:
                    data = _bounded(member.read(room + 1), room, item.name)
                    room -= len(data)
                    yield item.name, data


def ar_member(path: Path, prefix: str) -> bytes:
    """Return the bytes of the first member of an ar archive (what a .deb is) whose name starts with ``prefix``."""
    data = path.read_bytes()
    at = len(AR_MAGIC)
    while at + 60 <= len(data):
        header = data[at : at + 60]
        size_text = header[48:58].strip()
        if header[58:] != b"`\n" or not size_text.isdigit():
            raise DataError(
                f"{path} is damaged (no ar header at byte {at}): download it again"
            )
        start, size = at + 60, int(size_text)
        if (
            header[:16]
            .decode("ascii", "replace")
            .strip()
            .rstrip("/")
            .startswith(prefix)
        ):
            if start + size > len(data):
                raise DataError(
                    f"{path} is cut off within '{prefix}': download it again"
                )
            return data[start : start + size]
        at = start + size + size % 2
    raise DataError(f"{path} holds no '{prefix}': it is no Debian package")


def _bounded(data: bytes, room: int, where: object) -> bytes:
    if len(data) > room:
        raise DataError(
            f"{where} unpacks to more than {LIMIT_BYTES:,} bytes; it is not the package it should be"
        )
    return data
