"""Files out of package archives (.tgz, .whl, .deb), in memory: nothing is run or unpacked to disk.

A member's name only selects it. It is never used as a path, so an archive cannot write anywhere.
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

# Largest size of one member, and of all members that are read. The largest known is 47 MB;
# more means an archive made to fill the memory.
LIMIT_BYTES = 1 << 30

AR_MAGIC = b"!<arch>\n"
# An ar header: 16 bytes of name, at byte 48 ten digits of size, at byte 58 its end mark.
AR_HEADER_BYTES = 60
AR_HEADER_END = b"`\n"


def read_members(path: Path, patterns: tuple[str, ...]) -> dict[str, bytes]:
    """Return the members of an archive whose names match one of the shell patterns, by name.

    Raises DataError naming the file when it is missing, no such archive, damaged, or lacks a
    pattern's member.
    """
    try:
        members = dict(_members(path, patterns))
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error})") from error
    # RuntimeError: zipfile's, for a member that is encrypted.
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        RuntimeError,
    ) as error:
        raise DataError(f"{path} is damaged ({error}): download it again") from error
    # A wildcard matches many members; it must match one.
    for pattern in patterns:
        if not fnmatch.filter(members, pattern):
            raise DataError(
                f"{path} holds no '{pattern}': it is another package or another version"
            )
    return members


def _members(path: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Return the names and bytes of the matching members; raises DataError for another format.

    The first bytes decide, because --from takes files of any name.
    """
    with path.open("rb") as file:
        head = file.read(len(AR_MAGIC))
    # A wheel is a zip archive, whose magic is its author's initials.
    if head.startswith(b"PK"):
        return _zip_members(path, patterns)
    if head == AR_MAGIC:
        # A Debian package is an ar archive whose files are in the tar archive data.tar.*.
        return _tar_members(io.BytesIO(ar_member(path, "data.tar")), patterns)
    # gzip's magic.
    if head.startswith(b"\x1f\x8b"):
        return _tar_members(io.BytesIO(path.read_bytes()), patterns)
    raise DataError(f"{path} is neither a .tgz, a .whl nor a .deb archive")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether a member's name matches one of the shell patterns."""
    # Not fnmatch.fnmatch, which ignores case on some systems.
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _zip_members(path: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield the names and bytes of a zip archive's matching members; raises DataError."""
    room = LIMIT_BYTES
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not _matches(entry.filename, patterns):
                continue
            with archive.open(entry) as member:
                # One byte more than allowed tells too large from just right.
                data = _bounded(member.read(room + 1), room, path)
            room -= len(data)
            yield entry.filename, data


def _tar_members(
    tar: io.BytesIO, patterns: tuple[str, ...]
) -> Iterator[tuple[str, bytes]]:
    """Yield the names and bytes of a tar archive's matching files; raises DataError."""
    room = LIMIT_BYTES
    # "r|*" reads on without seeking: a compressed archive is inflated once.
    with tarfile.open(fileobj=tar, mode="r|*") as archive:
        for entry in archive:
            # Links and devices are not files, so a name cannot lead elsewhere.
            if not entry.isfile() or not _matches(entry.name, patterns):
                continue
            member = archive.extractfile(entry)
            if member is None:
                continue
            data = _bounded(member.read(room + 1), room, entry.name)
            room -= len(data)
            yield entry.name, data


def ar_member(path: Path, prefix: str) -> bytes:
    """Return the first member of an ar archive (a .deb is one) whose name starts with ``prefix``.

    Raises DataError where the archive is damaged or has no such member.
    """
    data = path.read_bytes()
    position = len(AR_MAGIC)
    while position + AR_HEADER_BYTES <= len(data):
        start = position + AR_HEADER_BYTES
        header = data[position:start]
        # Decimal digits, padded with spaces.
        size_text = header[48:58].strip()
        if header[58:] != AR_HEADER_END or not size_text.isdigit():
            raise DataError(
                f"{path} is damaged (no ar header at byte {position}): "
                "download it again"
            )
        end = start + int(size_text)
        # GNU's ar ends names with a slash.
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        if name.startswith(prefix):
            if end > len(data):
                raise DataError(
                    f"{path} is cut off within '{prefix}': download it again"
                )
            return data[start:end]
        # Members begin at even bytes.
        position = end + (end - start) % 2
    raise DataError(f"{path} holds no '{prefix}': it is no Debian package")


def _bounded(data: bytes, room: int, where: object) -> bytes:
    """Return ``data``; raises DataError where it has more than ``room`` bytes."""
    if len(data) > room:
        raise DataError(
            f"{where} unpacks to more than {LIMIT_BYTES:,} bytes; "
            "it is not the package it should be"
        )
    return data
