"""The coordinator's journal: records that are on disk before anybody is told of them.

They outlive any crash. It is an append-only log in segment files, `00000001.log` and so on
(`fedlearn.server.segments` has their bytes): a new one for each process that writes, and
when one has grown beyond SEGMENT_BYTES. One thread writes: it takes all that waits, writes
it, syncs once and completes the futures ("group commit").
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from json import dumps, loads
from pathlib import Path
from typing import Any

from fedlearn.errors import RecordError
from fedlearn.server.quota import check_quota
from fedlearn.server.segments import (
    RECORD_HEAD,
    SEGMENT_HEAD,
    JournalEntry,
    damaged,
    lock_folder,
    read_mark,
    read_record,
    read_whole_record,
    record_head,
    segment_head,
    synced_beyond,
    using,
    write_again,
    write_all,
)
from fedlearn.system.checksum import crc32
from fedlearn.system.failpoints import armed, reach
from fedlearn.system.files import private, sync_folder

# Small enough to copy and delete one at a time.
SEGMENT_BYTES = 256 << 20

# Waiting and being written; `append` blocks beyond, so memory stays flat.
QUEUE_BYTES = 256 << 20

# Of meta or of data: what the lengths in a record's header can say.
RECORD_BYTES = 2**32 - 1

# The failpoints of a journal, see `fedlearn.system.failpoints`.
POINTS = (
    "journal.before-write",
    # Arming it writes each record in two system calls.
    "journal.half-record",
    # After each system call.
    "journal.after-write",
    "journal.before-sync",
    "journal.after-sync",
    "journal.new-segment",
    "journal.before-folder-sync",
    # A torn tail is cut off, what stays is not yet synced.
    "journal.recovery",
)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A record that is to be written. crc: of its data."""

    meta: bytes
    data: bytes
    crc: int
    key: str | None
    written: Future[None]

    @property
    def size(self) -> int:
        """Return the bytes of the whole record."""
        return RECORD_HEAD + len(self.meta) + len(self.data)


class Journal:
    """A folder of records in order, for any thread; one journal at a time owns the folder."""

    def __init__(self, folder: Path, quota: int | None = None) -> None:
        """Open the journal, made if need be, and cut off a torn tail; reads all of it.

        quota: bytes; beyond them it fails as on a full disk. Every record found is on disk
        again when this returns. Raises RecordError for a folder that cannot be used, that
        another journal owns, or with damage elsewhere than in its last group of records.
        """
        self.folder = folder
        self._quota = quota
        self._index: dict[str, JournalEntry] = {}
        # Of each segment, the bytes that are synced.
        self._ends: dict[int, int] = {}
        # The segment being written, and its mark.
        self._file = -1
        self._mark = b""
        # Guards all that follows.
        self._changed = threading.Condition()
        self._queue: list[_Waiting] = []
        self._queued_bytes = 0
        self._refusal: RecordError | None = None
        with using(folder, "open"):
            self._lock = lock_folder(folder)
        try:
            with using(folder, "open"):
                self._recover()
        # A journal that is not made holds no lock.
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

        meta: what JSON can hold; its "key", a string if there is one, is what `find` looks
        for. ``data`` must not change before the future is done. crc: CRC-32 of the data,
        where it is known.

        Blocks while QUEUE_BYTES wait already. Once a write or a sync has failed, and after
        `close`, the futures fail with RecordError. The futures' callbacks run in the thread
        that writes: they must be short and must not append. Raises TypeError or ValueError
        for a meta or a size that a record cannot hold.
        """
        waiting = _waiting(meta, data, crc)
        with self._changed:
            # A refusal ends the wait, too: nothing will make room any more.
            self._changed.wait_for(lambda: self._refusal or self._has_room(waiting))
            if self._refusal is None:
                self._queue.append(waiting)
                self._queued_bytes += waiting.size
                self._changed.notify_all()
                return waiting.written
        waiting.written.set_exception(self._refusal)
        return waiting.written

    def find(self, key: str) -> JournalEntry | None:
        """Return the newest record on disk with this key."""
        return self._index.get(key)

    def read(self, entry: JournalEntry) -> bytes:
        """Return a record's data; raises RecordError when it is not what was written."""
        path = self._path(entry.segment)
        with using(path, "read"), path.open("rb") as file:
            file.seek(entry.offset)
            data = file.read(entry.length)
        # Checked at each reading: a disk may lose what was synced.
        if len(data) != entry.length or crc32(data) != entry.crc:
            raise damaged(path, entry.offset)
        return data

    def records(self) -> Iterator[tuple[dict[str, Any], JournalEntry]]:
        """Yield each record's meta and place, in order, as far as they are on disk now.

        Raises RecordError.
        """
        # A copy: the writer goes on meanwhile.
        with self._changed:
            ends = dict(self._ends)
        for number, end in ends.items():
            path = self._path(number)
            with using(path, "read"), path.open("rb") as file:
                mark = read_mark(file)
                offset = SEGMENT_HEAD
                while offset < end:
                    if mark is None:
                        raise damaged(path, offset)
                    record = read_record(file, number, mark, offset, end)
                    if record is None:
                        raise damaged(path, offset)
                    yield loads(record.meta), record.entry
                    offset = record.end

    def close(self) -> None:
        """Write and sync what waits, and give the folder free.

        What was written can still be read.
        """
        with self._changed:
            if self._refusal is None:
                self._refusal = RecordError(f"the journal {self.folder} is closed")
            self._changed.notify_all()
        # The writer ends after the group that it has, and no future is left open.
        self._thread.join()
        self._close_segment()
        self._lock.close()

    def _has_room(self, waiting: _Waiting) -> bool:
        """Tell whether a record may wait; one that is larger than the queue waits alone."""
        if not self._queued_bytes:
            return True
        return self._queued_bytes + waiting.size <= QUEUE_BYTES

    # The thread that writes.

    def _write_groups(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._refusal)
                group = self._queue
                self._queue = []
            if not group:
                return
            try:
                self._commit(group)
            except Exception as error:
                # Never sync again: the kernel forgets the pages that it could not write, so
                # a second sync would say "done".
                self._fail(group, error)
                return
            for waiting in group:
                waiting.written.set_result(None)

    def _commit(self, group: list[_Waiting]) -> None:
        """Write a group and sync it; from then on `find` and `records` know it."""
        group_bytes = sum(waiting.size for waiting in group)
        check_quota(sum(self._ends.values()), group_bytes, self._quota)
        # Whatever the size of the group: a group is never split over two segments.
        if self._file < 0 or self._ends[max(self._ends)] > SEGMENT_BYTES:
            self._begin_segment()
        number = max(self._ends)
        start = self._ends[number]
        end = start
        records = []
        index = {}
        for waiting in group:
            length = len(waiting.data)
            head = record_head(
                self._mark, end - start, waiting.meta, length, waiting.crc
            )
            records.append((head, waiting.meta, waiting.data))
            if waiting.key is not None:
                offset = end + len(head) + len(waiting.meta)
                entry = JournalEntry(number, offset, length, waiting.crc)
                index[waiting.key] = entry
            end += waiting.size
        reach("journal.before-write")
        self._write(records)
        reach("journal.before-sync")
        # The file's length is synced as well, its times are not.
        os.fdatasync(self._file)
        # Nothing reads it before a restart, and pages that are given back at once are warm
        # for the next group: 2 to 3.6 times faster.
        os.posix_fadvise(self._file, start, end - start, os.POSIX_FADV_DONTNEED)
        reach("journal.after-sync")
        # Only now: what `find` returns is on disk.
        with self._changed:
            self._index.update(index)
            self._ends[number] = end
            self._queued_bytes -= end - start
            self._changed.notify_all()

    def _write(self, records: list[tuple[bytes, bytes, bytes]]) -> None:
        """Append records, each of header, meta and data."""
        if not armed("journal.half-record"):
            # All parts in one call: a record per call would cost more than the bytes.
            write_all(self._file, [part for record in records for part in record])
            return
        for record in records:
            joined = b"".join(record)
            half = len(joined) // 2
            write_all(self._file, [joined[:half]])
            reach("journal.half-record")
            write_all(self._file, [joined[half:]])

    def _begin_segment(self) -> None:
        """Make the next segment.

        All before is synced, so only the last segment can have a torn tail.
        """
        self._close_segment()
        number = max(self._ends, default=0) + 1
        self._mark = os.urandom(8)
        reach("journal.new-segment")
        # O_EXCL: a segment that is there already would be another process's.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._file = private(self._path(number), flags)
        write_all(self._file, [segment_head(self._mark)])
        # Before any record: a damaged mark is then damage, never a torn tail.
        os.fsync(self._file)
        reach("journal.before-folder-sync")
        sync_folder(self.folder)
        with self._changed:
            self._ends[number] = SEGMENT_HEAD

    def _close_segment(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _fail(self, group: list[_Waiting], error: Exception) -> None:
        """Acknowledge nothing from now on, whatever waits or comes."""
        reason = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        refusal = RecordError(
            f"cannot write {self.folder}: {reason}; what was acknowledged is kept, "
            "and a new start goes on from there"
        )
        refusal.__cause__ = error
        with self._changed:
            self._refusal = refusal
            group = group + self._queue
            self._queue = []
            self._queued_bytes = 0
            self._changed.notify_all()
        for waiting in group:
            waiting.written.set_exception(refusal)

    # Recovery.

    def _recover(self) -> None:
        """Read every segment, mend the last one and see that all of it is on disk."""
        paths = self.folder.glob("*.log")
        # Not by text, so that segment 100,000,000 comes behind 99,999,999.
        numbers = sorted(int(path.stem) for path in paths if path.stem.isdecimal())
        # A crash while it was made; it holds no record.
        if numbers and self._is_unfinished(numbers[-1]):
            self._path(numbers.pop()).unlink()
        for number in numbers:
            expected = len(self._ends) + 1
            if number != expected:
                raise RecordError(
                    f"{self._path(expected)} is missing, later segments exist; "
                    "restore it from a copy"
                )
            self._read_segment(number, last=number == numbers[-1])
        sync_folder(self.folder)

    def _is_unfinished(self, number: int) -> bool:
        """Tell whether a segment has no record, and not even a whole header."""
        path = self._path(number)
        if path.stat().st_size > SEGMENT_HEAD:
            return False
        with path.open("rb") as file:
            return read_mark(file) is None

    def _read_segment(self, number: int, last: bool) -> None:
        """Index a segment's records; the last one's torn tail is cut off."""
        path = self._path(number)
        with path.open("r+b" if last else "rb") as file:
            size = os.fstat(file.fileno()).st_size
            mark = read_mark(file)
            if mark is None:
                raise damaged(path, 0)
            offset = SEGMENT_HEAD
            group = SEGMENT_HEAD
            while offset < size:
                record = read_whole_record(file, number, mark, offset, size)
                if record is None:
                    break
                key = loads(record.meta).get("key")
                if isinstance(key, str):
                    self._index[key] = record.entry
                offset = record.end
                group = record.group
            # A torn tail was never acknowledged; damage before a synced group was.
            torn = offset < size
            if torn and (not last or synced_beyond(file, number, mark, offset, size)):
                raise damaged(path, offset)
            self._ends[number] = offset
            if last:
                os.ftruncate(file.fileno(), offset)
                reach("journal.recovery")
                write_again(file.fileno(), group, offset)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.log"


def _waiting(meta: Mapping[str, Any], data: bytes, crc: int | None) -> _Waiting:
    """Return a record as it waits; raises TypeError or ValueError, see `append`."""
    # Sorted and without spaces: the same meta gives the same bytes.
    text = dumps(meta, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    if max(len(text), len(data)) > RECORD_BYTES:
        raise ValueError(
            f"a record of {len(text)} bytes of meta and {len(data)} of data; "
            f"a journal takes {RECORD_BYTES} of each"
        )
    key = meta.get("key")
    if not isinstance(key, str):
        key = None
    if crc is None:
        crc = crc32(data)
    written: Future[None] = Future()
    # Nobody can cancel it: the record may be on its way to the disk.
    written.set_running_or_notify_cancel()
    return _Waiting(text, data, crc, key, written)
