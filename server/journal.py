"""The coordinator's journal: records that are on disk before anybody is told so, and that outlive any crash.

An append-only log in segment files, `00000001.log` and so on: a new one for each process that writes, and when one has
grown beyond SEGMENT_BYTES. One thread writes: it takes all that waits, writes it, syncs once and completes the futures
("group commit"). The bytes, little-endian, lengths in bytes:

segment  8 magic · 8 mark, random · 4 CRC-32 of both · records
record   8 mark of the segment · 4 group · 4 length of meta · 4 length of data · 4 CRC-32 of data
         · 4 CRC-32 of this header and meta · meta (JSON object, keys sorted) · data

``group`` is how many bytes of the same group come before the record, so the group began at offset - group, and all that
lies before was synced when the record was written. That tells a torn tail from damage. A power cut may keep any pages of
the last group and lose others: what no later group follows is cut off. Damage that a later group follows is an error,
because cutting there would lose records that were acknowledged. The mark keeps a payload from posing as a record.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fedlearn.errors import RecordError
from fedlearn.system.checksum import crc32
from fedlearn.system.failpoints import armed, reach
from fedlearn.system.files import sync_folder

SEGMENT_BYTES = 256 << 20  # small enough to copy and delete one at a time
QUEUE_BYTES = (
    256 << 20
)  # waiting and being written; `append` blocks beyond, so memory stays flat
RECORD_BYTES = 2**32 - 1  # of meta or of data: what the header's lengths can say

POINTS = (
    "journal.before-write",
    "journal.half-record",  # arming it writes each record in two system calls
    "journal.after-write",  # after each system call
    "journal.before-sync",
    "journal.after-sync",
    "journal.new-segment",
    "journal.before-folder-sync",
    "journal.recovery",  # a torn tail is cut off, what stays is not yet synced
)
"""The failpoints of this file, see `fedlearn.system.failpoints`."""

_MAGIC = b"fedlog\x00\x01"  # the last byte is the format's version
_SEGMENT = struct.Struct("<8s8sI")
_RECORD = struct.Struct("<8s5I")
_PARTS = 1000  # buffers per system call; Linux takes 1,024
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a record's data lies: segment, offset and length in bytes, and its CRC-32."""

    segment: int
    offset: int
    length: int
    crc: int


@dataclass(frozen=True, slots=True)
class _Found:
    """A record of a segment: its meta, its data's place, where its group begins and where it ends itself."""

    meta: bytes
    entry: Entry
    group: int
    end: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A record that is to be written."""

    meta: bytes
    data: bytes
    crc: int  # of the data
    key: str | None
    done: Future[None]

    @property
    def size(self) -> int:
        return _RECORD.size + len(self.meta) + len(self.data)


class Journal:
    """A folder of records, in order. Any thread may call any method; one journal at a time owns the folder."""

    def __init__(self, folder: Path) -> None:
        """Open the journal, made if need be, and cut off a torn tail; reads all of it.

        Every record found is on disk again when this returns. Raises RecordError for a folder that cannot be used, that
        another journal owns, or with damage elsewhere than in its last group of records.
        """
        self.folder = folder
        self._index: dict[str, Entry] = {}
        self._ends: dict[int, int] = {}  # of each segment, the bytes that are synced
        self._file = -1  # the segment being written
        self._mark = b""
        self._changed = threading.Condition()
        self._queue: list[_Waiting] = []
        self._queued_bytes = 0
        self._refusal: RecordError | None = None
        with _using(folder, "open"):
            self._lock = _locked(folder)
        try:
            with _using(folder, "open"):
                self._recover()
        except BaseException:
            self._lock.close()
            raise
        self._thread = threading.Thread(
            target=self._write_groups, name="journal", daemon=True
        )
        self._thread.start()

    def append(
        self, meta: Mapping[str, Any], data: bytes = b"", crc: int | None = None
    ) -> Future[None]:
        """Add a record; the future is done when the record is on disk.

        meta: what JSON can hold; its "key", a string if there is one, is what `find` looks for. ``data`` must not change
        before the future is done. crc: CRC-32 of the data, where it is known. Blocks while QUEUE_BYTES wait already. Once a
        write or a sync has failed, and after `close`, the futures fail with RecordError. The futures' callbacks run in the
        thread that writes: they must be short and must not append. Raises TypeError or ValueError for a meta or a size that a
        record cannot hold.
        """
        text = json.dumps(
            meta, sort_keys=True, separators=(",", ":"), allow_nan=False
        ).encode()
        if max(len(text), len(data)) > RECORD_BYTES:
            raise ValueError(
                f"a record of {len(text)} bytes of meta and {len(data)} of data; a journal takes {RECORD_BYTES} of each"
            )
        key = meta.get("key")
        crc = crc32(data) if crc is None else crc
        waiting = _Waiting(
            text, data, crc, key if isinstance(key, str) else None, Future()
        )
        waiting.done.set_running_or_notify_cancel()  # nobody can cancel it: the record may be on its way to the disk
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._refusal
                    or not self._queued_bytes
                    or self._queued_bytes + waiting.size <= QUEUE_BYTES
                )
            )
            if self._refusal is None:
                self._queue.append(waiting)
                self._queued_bytes += waiting.size
                self._changed.notify_all()
                return waiting.done
        waiting.done.set_exception(self._refusal)
        return waiting.done

    def find(self, key: str) -> Entry | None:
        """Return the newest record on disk with this key."""
        return self._index.get(key)

    def read(self, entry: Entry) -> bytes:
        """Return a record's data; raises RecordError when it is not what was written."""
        path = self._path(entry.segment)
        with _using(path, "read"), path.open("rb") as file:
            file.seek(entry.offset)
            data = file.read(entry.length)
        if len(data) != entry.length or crc32(data) != entry.crc:
            raise _damaged(path, entry.offset)
        return data

    def records(self) -> Iterator[tuple[dict[str, Any], Entry]]:
        """Yield each record's meta and place, in order, as far as they are on disk now; raises RecordError."""
        with self._changed:
            ends = dict(self._ends)
        for number, end in ends.items():
            path = self._path(number)
            with _using(path, "read"), path.open("rb") as file:
                mark, at = _mark(file), _SEGMENT.size
                while at < end:
                    found = _record(file, number, mark, at, end) if mark else None
                    if found is None:
                        raise _damaged(path, at)
                    yield json.loads(found.meta), found.entry
                    at = found.end

    def close(self) -> None:
        """Write and sync what waits, and give the folder free; what was written can still be read."""
        with self._changed:
            self._refusal = self._refusal or RecordError(
                f"the journal {self.folder} is closed"
            )
            self._changed.notify_all()
        self._thread.join()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.close()

    # The thread that writes.

    def _write_groups(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._refusal)
                group, self._queue = self._queue, []
            if not group:
                return
            try:
                self._commit(group)
            except Exception as error:
                # Never sync again: the kernel forgets the pages that it could not write, so a second sync would say "done".
                self._fail(group, error)
                return
            for waiting in group:
                waiting.done.set_result(None)

    def _commit(self, group: list[_Waiting]) -> None:
        """Write a group and sync it; from then on `find` and `records` know it."""
        if self._file < 0 or self._ends[max(self._ends)] > SEGMENT_BYTES:
            self._begin_segment()
        number = max(self._ends)
        start = end = self._ends[number]
        records, index = [], {}
        for waiting in group:
            fields = _RECORD.pack(
                self._mark,
                end - start,
                len(waiting.meta),
                len(waiting.data),
                waiting.crc,
                0,
            )[:-4]
            head = fields + crc32(waiting.meta, crc32(fields)).to_bytes(4, "little")
            records.append((head, waiting.meta, waiting.data))
            if waiting.key is not None:
                index[waiting.key] = Entry(
                    number,
                    end + len(head) + len(waiting.meta),
                    len(waiting.data),
                    waiting.crc,
                )
            end += waiting.size
        reach("journal.before-write")
        self._write(records)
        reach("journal.before-sync")
        os.fdatasync(self._file)
        # Nothing reads it before a restart, and pages that are given back at once are warm for the next group: 2 to 3.6 times faster.
        os.posix_fadvise(self._file, start, end - start, os.POSIX_FADV_DONTNEED)
        reach("journal.after-sync")
        with self._changed:
            self._index.update(index)
            self._ends[number] = end
            self._queued_bytes -= end - start
            self._changed.notify_all()

    def _write(self, records: list[tuple[bytes, bytes, bytes]]) -> None:
        if not armed("journal.half-record"):
            _write_all(self._file, [part for record in records for part in record])
            return
        for record in records:
            whole = b"".join(record)
            _write_all(self._file, [whole[: len(whole) // 2]])
            reach("journal.half-record")
            _write_all(self._file, [whole[len(whole) // 2 :]])

    def _begin_segment(self) -> None:
        """Make the next segment. All before is synced, so only the last segment can have a torn tail."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        number, self._mark = max(self._ends, default=0) + 1, os.urandom(8)
        fields = _MAGIC + self._mark
        reach("journal.new-segment")
        self._file = os.open(
            self._path(number),
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
            0o644,
        )
        _write_all(self._file, [fields + crc32(fields).to_bytes(4, "little")])
        os.fsync(
            self._file
        )  # before any record: a damaged mark is then damage, never a torn tail
        reach("journal.before-folder-sync")
        sync_folder(self.folder)
        with self._changed:
            self._ends[number] = _SEGMENT.size

    def _fail(self, group: list[_Waiting], error: Exception) -> None:
        """Acknowledge nothing from now on, whatever waits or comes."""
        reason = (
            (error.strerror if isinstance(error, OSError) else None)
            or str(error)
            or type(error).__name__
        )
        with self._changed:
            self._refusal = RecordError(
                f"cannot write {self.folder}: {reason}; what was acknowledged is kept, and a new start goes on from there"
            )
            self._refusal.__cause__ = error
            group, self._queue, self._queued_bytes = group + self._queue, [], 0
            self._changed.notify_all()
        for waiting in group:
            waiting.done.set_exception(self._refusal)

    # Recovery.

    def _recover(self) -> None:
        """Read every segment, mend the last one and see to it that all of it is on disk."""
        numbers = sorted(
            int(path.stem)
            for path in self.folder.glob("*.log")
            if path.stem.isdecimal()
        )
        if (
            numbers
            and self._path(numbers[-1]).stat().st_size <= _SEGMENT.size
            and not self._begun(numbers[-1])
        ):
            self._path(
                numbers.pop()
            ).unlink()  # a crash while it was made; it holds no record
        for number in numbers:
            if number != len(self._ends) + 1:
                raise RecordError(
                    f"{self._path(len(self._ends) + 1)} is missing, later segments exist; restore it from a copy"
                )
            self._read_segment(number, last=number == numbers[-1])
        sync_folder(self.folder)

    def _begun(self, number: int) -> bool:
        with self._path(number).open("rb") as file:
            return _mark(file) is not None

    def _read_segment(self, number: int, last: bool) -> None:
        """Index a segment's records; what is torn at the end of the last one is cut off."""
        path = self._path(number)
        with path.open("r+b" if last else "rb") as file:
            size = os.fstat(file.fileno()).st_size
            mark, at, group = _mark(file), _SEGMENT.size, _SEGMENT.size
            if mark is None:
                raise _damaged(path, 0)
            while at < size and (found := _whole_record(file, number, mark, at, size)):
                key = json.loads(found.meta).get("key")
                if isinstance(key, str):
                    self._index[key] = found.entry
                at, group = found.end, found.group
            if at < size and (not last or _synced_beyond(file, number, mark, at, size)):
                raise _damaged(path, at)
            self._ends[number] = at
            if last:
                os.ftruncate(file.fileno(), at)
                reach("journal.recovery")
                _write_again(file.fileno(), group, at)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.log"


def _mark(file: BinaryIO) -> bytes | None:
    """Return a segment's mark; None when its header is damaged."""
    head = file.read(_SEGMENT.size)
    if len(head) < _SEGMENT.size:
        return None
    magic, mark, crc = _SEGMENT.unpack(head)
    return bytes(mark) if magic == _MAGIC and crc == crc32(head[:-4]) else None


def _record(
    file: BinaryIO, segment: int, mark: bytes, offset: int, size: int
) -> _Found | None:
    """Return the record at an offset of a segment of ``size`` bytes if header and meta are whole; data is not read."""
    file.seek(offset)
    head = file.read(_RECORD.size)
    if len(head) < _RECORD.size:
        return None
    its_mark, before, meta_length, length, data_crc, crc = _RECORD.unpack(head)
    data = offset + len(head) + meta_length
    if (
        its_mark != mark or data + length > size
    ):  # lengths are compared before they are believed
        return None
    meta = file.read(meta_length)
    if crc32(meta, crc32(head[:-4])) != crc:
        return None
    return _Found(
        meta, Entry(segment, data, length, data_crc), offset - before, data + length
    )


def _whole_record(
    file: BinaryIO, segment: int, mark: bytes, offset: int, size: int
) -> _Found | None:
    """Return the record at an offset if its data is whole, too."""
    found = _record(file, segment, mark, offset, size)
    if found is None:
        return None
    crc, left = 0, found.entry.length
    while left and (chunk := file.read(min(left, _CHUNK))):
        crc, left = crc32(chunk, crc), left - len(chunk)
    return found if not left and crc == found.entry.crc else None


def _synced_beyond(
    file: BinaryIO, segment: int, mark: bytes, offset: int, size: int
) -> bool:
    """Tell whether a record after a damaged one proves that the damaged one was synced."""
    file.seek(offset)
    rest = file.read()
    at = rest.find(mark)
    while at >= 0:
        found = _record(file, segment, mark, offset + at, size)
        if found and found.group > offset:
            return True
        at = rest.find(mark, at + 1)
    return False


def _write_again(file: int, start: int, end: int) -> None:
    """Write a file's last bytes over themselves and sync.

    They may never have been synced, or their sync may have failed: then the kernel's copy, which was read just now, is not
    what the disk has, and the kernel thinks that it is.
    """
    for at in range(start, end, _CHUNK):
        chunk = memoryview(os.pread(file, min(_CHUNK, end - at), at))
        while chunk:
            done = os.pwrite(file, chunk, at)
            chunk, at = chunk[done:], at + done
    os.fsync(file)


def _write_all(file: int, parts: list[bytes]) -> None:
    views, at = [memoryview(part) for part in parts if part], 0
    while at < len(views):
        done = os.writev(file, views[at : at + _PARTS])
        reach("journal.after-write")
        while at < len(views) and done >= len(views[at]):
            done -= len(views[at])
            at += 1
        if done:
            views[at] = views[at][done:]


def _locked(folder: Path) -> BinaryIO:
    """Make the folder if need be and lock it; a second journal would take what the first is writing for a torn tail."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
    lock = open(folder / ".lock", "wb")  # noqa: SIM115  # held as long as the journal
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise RecordError(
            f"another process has the journal {folder} open; wait for it or end it"
        ) from None
    os.register_at_fork(
        after_in_child=lock.close
    )  # a child that outlives a killed parent must not hold its lock
    return lock


def _damaged(path: Path, offset: int) -> RecordError:
    return RecordError(
        f"{path} is damaged at byte {offset}, in what was acknowledged; restore it from a copy"
    )


@contextlib.contextmanager
def _using(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot {doing} {error.filename or path}: {error.strerror or error}"
        ) from error
