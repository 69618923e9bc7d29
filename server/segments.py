"""The files of a journal: their bytes, and how they are written and read.

The bytes, little-endian, lengths in bytes:

segment  8 magic · 8 mark, random · 4 CRC-32 of both · records
record   8 mark of the segment · 4 group · 4 length of meta · 4 length of data · 4 CRC-32 of
         data · 4 CRC-32 of this header and meta · meta (JSON object, keys sorted) · data

``group`` is how many bytes of the same group come before the record, so the group began at
offset - group, and all that lies before was synced when the record was written. That tells
a torn tail from damage. A power cut may keep any pages of the last group and lose others:
what no later group follows is cut off. Damage that a later group follows is an error,
because cutting there would lose records that were acknowledged. The mark keeps a payload
from posing as a record.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fedlearn.errors import RecordError
from fedlearn.system.checksum import crc32
from fedlearn.system.failpoints import reach
from fedlearn.system.files import make_folder, private, sync_folder

# The last byte is the format's version.
_MAGIC = b"fedlog\x00\x01"
_SEGMENT = struct.Struct("<8s8sI")
_RECORD = struct.Struct("<8s5I")

# Bytes of a segment's header, and of a record's: what comes before its meta.
SEGMENT_HEAD = _SEGMENT.size
RECORD_HEAD = _RECORD.size

# Buffers per system call; Linux takes 1,024.
_PARTS = 1000

# Bytes that are read at a time.
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """Where a record's data lies: segment, offset and length in bytes, and its CRC-32."""

    segment: int
    offset: int
    length: int
    crc: int


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """A record that was read: its meta (JSON), and where its data lies.

    group: where its group begins. end: where it ends itself.
    """

    meta: bytes
    entry: JournalEntry
    group: int
    end: int


def segment_head(mark: bytes) -> bytes:
    """Return the header of a segment with this mark (8 bytes)."""
    fields = _MAGIC + mark
    return fields + _crc_bytes(crc32(fields))


def record_head(mark: bytes, group: int, meta: bytes, length: int, crc: int) -> bytes:
    """Return a record's header; length, crc: of its data."""
    packed = _RECORD.pack(mark, group, len(meta), length, crc, 0)
    # The last field covers the others and the meta, so it is written over.
    fields = packed[:-4]
    checksum = crc32(meta, crc32(fields))
    return fields + _crc_bytes(checksum)


def _crc_bytes(crc: int) -> bytes:
    return crc.to_bytes(4, "little")


def read_mark(file: BinaryIO) -> bytes | None:
    """Return a segment's mark; None when its header is damaged."""
    head = file.read(_SEGMENT.size)
    if len(head) < _SEGMENT.size:
        return None
    magic, mark, crc = _SEGMENT.unpack(head)
    if magic != _MAGIC or crc != crc32(head[:-4]):
        return None
    return bytes(mark)


def read_record(
    file: BinaryIO, segment: int, mark: bytes, offset: int, size: int
) -> SegmentRecord | None:
    """Return the record at an offset of a segment if its header and meta are whole.

    size: of the segment, bytes. Its data is not read.
    """
    file.seek(offset)
    head = file.read(_RECORD.size)
    if len(head) < _RECORD.size:
        return None
    record_mark, group, meta_length, length, data_crc, crc = _RECORD.unpack(head)
    data_offset = offset + len(head) + meta_length
    end = data_offset + length
    # Lengths are compared before they are believed.
    if record_mark != mark or end > size:
        return None
    meta = file.read(meta_length)
    if crc32(meta, crc32(head[:-4])) != crc:
        return None
    entry = JournalEntry(segment, data_offset, length, data_crc)
    return SegmentRecord(meta, entry, offset - group, end)


def read_whole_record(
    file: BinaryIO, segment: int, mark: bytes, offset: int, size: int
) -> SegmentRecord | None:
    """Return the record at an offset if its data is whole, too."""
    record = read_record(file, segment, mark, offset, size)
    if record is None:
        return None
    # In pieces, so that memory stays flat.
    crc = 0
    unread = record.entry.length
    while unread:
        chunk = file.read(min(unread, _CHUNK))
        if not chunk:
            return None
        crc = crc32(chunk, crc)
        unread -= len(chunk)
    return record if crc == record.entry.crc else None


def synced_beyond(
    file: BinaryIO, segment: int, mark: bytes, offset: int, size: int
) -> bool:
    """Tell whether a record after a damaged one proves that the damaged one was synced."""
    file.seek(offset)
    tail = file.read()
    # The mark is random, so it stands before records and hardly elsewhere.
    position = tail.find(mark)
    while position >= 0:
        record = read_record(file, segment, mark, offset + position, size)
        # A group begins beyond the damage only if all before it was synced.
        if record is not None and record.group > offset:
            return True
        position = tail.find(mark, position + 1)
    return False


def write_all(file: int, parts: list[bytes]) -> None:
    """Append parts to a file, in as few system calls as they need."""
    views = [memoryview(part) for part in parts if part]
    index = 0
    while index < len(views):
        written = os.writev(file, views[index : index + _PARTS])
        reach("journal.after-write")
        while index < len(views) and written >= len(views[index]):
            written -= len(views[index])
            index += 1
        # A short write, as of a disk that is nearly full: the rest is tried again.
        if written:
            views[index] = views[index][written:]


def write_again(file: int, start: int, end: int) -> None:
    """Write a file's last bytes over themselves and sync.

    They may never have been synced, or their sync may have failed: then the kernel's copy,
    which was read just now, is not what the disk has, and the kernel thinks that it is.
    """
    for offset in range(start, end, _CHUNK):
        chunk = memoryview(os.pread(file, min(_CHUNK, end - offset), offset))
        while chunk:
            written = os.pwrite(file, chunk, offset)
            chunk = chunk[written:]
            offset += written
    os.fsync(file)


def lock_folder(folder: Path) -> BinaryIO:
    """Make a journal's folder if need be and lock it; raises RecordError.

    A second journal would take what the first is writing for a torn tail.
    """
    if not folder.is_dir():
        make_folder(folder)
        sync_folder(folder.parent)
    # Held as long as the journal.
    lock = open(folder / ".lock", "wb", opener=private)  # noqa: SIM115
    # Not waited for: two coordinators of one run are a mistake.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise RecordError(
            f"another process has the journal {folder} open; wait for it or end it"
        ) from None
    # A child that outlives a killed parent must not hold its lock.
    os.register_at_fork(after_in_child=lock.close)
    return lock


def damaged(path: Path, offset: int) -> RecordError:
    """Return the error of damage that is no torn tail."""
    return RecordError(
        f"{path} is damaged at byte {offset}, in what was acknowledged; "
        "restore it from a copy"
    )


@contextlib.contextmanager
def using(path: Path, doing: str) -> Iterator[None]:
    """Turn a system's error into RecordError; doing: what was tried, as "open"."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        reason = error.strerror or error
        raise RecordError(f"cannot {doing} {place}: {reason}") from error
