"""Messages that wait for their way out: on this disk until whoever wants them has them.

A broker's acknowledgement is no promise: of 2,000 messages that mosquitto had acknowledged
it lost 2,000 when it was killed (docs/sources.md). So a message is a line of a segment here,
synced by groups before anything of it is sent, until it is settled.

    outbox.json                 the outbox's id, and what was dropped
    0000000000000001.log        a segment, named by its first number; a line is
                                CRC-32 of the rest · [number, key, body] as JSON
    0000000000000001.settled    ranges of settled numbers; what is lost of it is sent again

Numbers are dense: 1, 2, 3, …. A segment goes when all in it is settled, but the last one,
whose keys tell after a crash what was put in already.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlearn.clients.messages.outbox_segments import (
    PATTERN,
    OutboxMessage,
    OutboxSegment,
    line_of,
    messages_of,
    read_settled,
    scanned,
)
from fedlearn.clients.messages.ranges import Ranges
from fedlearn.errors import RecordError, RunError
from fedlearn.system import files
from fedlearn.system.appending import append

FACTS = "outbox.json"

SEGMENT_BYTES = 1 << 20

# A quota below this could not drop a part of what waits.
LEAST_BYTES = 4 << 20


@dataclass(frozen=True)
class OutboxLook:
    """What an outbox has, for whoever only looks at it."""

    count: int
    bytes: int
    dropped: int
    damaged: int


class Outbox:
    """The messages of one folder; one process has it at a time, with any threads."""

    def __init__(self, folder: Path, most_bytes: int = 64 << 20) -> None:
        """Open a folder, or make it; most_bytes: of its segments, beyond which the oldest go.

        Raises RunError where another process has it, RecordError where it cannot be read.
        """
        self.folder = folder
        self._most_bytes = max(most_bytes, LEAST_BYTES)
        self._guard = threading.Lock()
        try:
            files.make_folder(folder)
            self._lock = _locked(folder)
        except OSError as error:
            raise RecordError(f"'{folder}': {error.strerror or error}") from None
        try:
            files.sweep(folder)
            self.id, self.dropped = _facts(folder)
            self.damaged = 0
            self._segments = self._read()
            self._file = self._opened()
        except OSError as error:
            os.close(self._lock)
            raise RecordError(f"'{folder}': {error.strerror or error}") from None
        except RecordError:
            os.close(self._lock)
            raise

    def put(self, messages: Sequence[tuple[str, str]]) -> None:
        """Add (key, body) pairs; they are on the disk when this returns.

        A key is told again by `last_keys`, a body is a JSON object's text. Raises RunError
        where a group does not fit, and OSError for a disk that does not take it.
        """
        if not messages:
            return
        with self._guard:
            segment = self._segments[-1]
            if segment.bytes >= SEGMENT_BYTES:
                segment = self._begin(segment.last + 1)
            lines = [
                line_of(segment.last + place, key, body)
                for place, (key, body) in enumerate(messages, 1)
            ]
            self._make_room(sum(map(len, lines)))
            append(self._file, segment.bytes, b"".join(lines), "outbox")
            for line in lines:
                segment.offsets.append(segment.bytes)
                segment.bytes += len(line)

    def settle(self, ranges: Sequence[tuple[int, int]]) -> int:
        """Let go of messages by their numbers, (first, last); returns how many waited.

        Numbers that are no longer there, or never were, are passed over.
        """
        with self._guard:
            before = self._waiting()
            for segment in self._segments:
                for first, last in ranges:
                    self._settle(segment, first, last)
            self._remove_settled()
            return before - self._waiting()

    def waiting(self, after: int = 0, most: int = 100) -> list[OutboxMessage]:
        """Return the oldest messages whose numbers are above ``after``, in order."""
        messages: list[OutboxMessage] = []
        with self._guard:
            for segment in self._segments:
                if segment.last > after and len(messages) < most:
                    room = most - len(messages)
                    messages += messages_of(segment, after, room, segment.settled)
        return messages

    @property
    def count(self) -> int:
        """Return how many messages wait."""
        with self._guard:
            return self._waiting()

    @property
    def bytes(self) -> int:
        """Return the bytes of the segments."""
        with self._guard:
            return sum(segment.bytes for segment in self._segments)

    @property
    def oldest(self) -> int:
        """Return the lowest number that waits, or the next one where none does."""
        with self._guard:
            for segment in self._segments:
                if segment.waiting:
                    # Settled ones before it are the first range.
                    for first, last in segment.settled:
                        return last + 1 if first == segment.first else segment.first
                    return segment.first
            return self._segments[-1].last + 1

    def last_keys(self) -> set[str]:
        """Return the keys of the last group that was put, and of some before it."""
        with self._guard:
            for segment in reversed(self._segments):
                if segment.offsets:
                    count = len(segment.offsets)
                    messages = messages_of(segment, 0, count, Ranges())
                    return {message.key for message in messages}
            return set()

    def close(self) -> None:
        """Let another process have the folder."""
        with self._guard:
            os.close(self._file)
            os.close(self._lock)

    def _waiting(self) -> int:
        return sum(segment.waiting for segment in self._segments)

    def _read(self) -> list[OutboxSegment]:
        segments = []
        paths = sorted(self.folder.glob(PATTERN))
        for path in paths:
            segment = scanned(path, is_last=path == paths[-1])
            read_settled(segment)
            # A line that cannot be read is a message lost: it is counted, never passed over.
            for place, offset in enumerate(segment.offsets):
                if offset < 0 and segment.first + place not in segment.settled:
                    segment.settled.add(segment.first + place)
                    self.damaged += 1
            segments.append(segment)
        for path in self.folder.glob("*.settled"):
            if not path.with_suffix(".log").exists():
                path.unlink()
        return segments or [OutboxSegment(self.folder / f"{1:016}.log", 1)]

    def _opened(self) -> int:
        path = self._segments[-1].path
        file = files.private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        files.sync_folder(self.folder)
        return file

    def _begin(self, first: int) -> OutboxSegment:
        """Begin a segment; the one before it goes when all in it is settled."""
        os.close(self._file)
        self._segments.append(OutboxSegment(self.folder / f"{first:016}.log", first))
        self._file = self._opened()
        self._remove_settled()
        return self._segments[-1]

    def _settle(self, segment: OutboxSegment, first: int, last: int) -> None:
        first = max(first, segment.first)
        last = min(last, segment.last)
        if first > last or not segment.settled.missing(first, last):
            return
        segment.settled.add(first, last)
        # Not synced: what a power cut takes of it is sent again, and counted there.
        path = segment.path.with_suffix(".settled")
        with open(path, "a", opener=files.private) as file:
            file.write(f"{first} {last}\n")

    def _remove_settled(self) -> None:
        for segment in self._segments[:-1]:
            if not segment.waiting:
                self._remove(segment)

    def _remove(self, segment: OutboxSegment) -> None:
        self._segments.remove(segment)
        segment.path.unlink(missing_ok=True)
        segment.path.with_suffix(".settled").unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Drop the oldest segments while a group does not fit; raises RunError."""
        if size > self._most_bytes // 2:
            raise RunError(
                f"answers of {size} bytes do not fit into '{self.folder}', whose limit is "
                f"{self._most_bytes} bytes; give a larger --outbox-mb or a smaller --batch"
            )
        total = sum(segment.bytes for segment in self._segments)
        while total + size > self._most_bytes and len(self._segments) > 1:
            oldest = self._segments[0]
            self.dropped += oldest.waiting
            # Before they go: what was dropped must be known after a crash, too.
            _write_facts(self.folder, self.id, self.dropped)
            total -= oldest.bytes
            self._remove(oldest)


def look(folder: Path) -> OutboxLook | None:
    """Return what a folder's outbox has, while its process goes on; None: it is none.

    Raises RecordError for a damaged one, OSError for one that cannot be read.
    """
    if not (folder / FACTS).exists():
        return None
    _, dropped = _facts(folder)
    count = 0
    size = 0
    damaged = 0
    for path in folder.glob(PATTERN):
        # All in it may be settled by now, and then it goes.
        with contextlib.suppress(FileNotFoundError):
            segment = scanned(path, is_last=False)
            read_settled(segment)
            missing = [n for n, place in enumerate(segment.offsets) if place < 0]
            damaged += len(missing)
            count += segment.waiting
            size += segment.bytes
    return OutboxLook(count, size, dropped, damaged)


def _locked(folder: Path) -> int:
    """Return the open lock of a folder; raises RunError where another process has it."""
    lock = files.private(folder / ".lock", os.O_WRONLY | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise RunError(
            f"another process has '{folder}' open; end it, or give another --state"
        ) from None
    return lock


def _facts(folder: Path) -> tuple[str, int]:
    """Return an outbox's id and what it has dropped; a new one gets an id."""
    path = folder / FACTS
    try:
        facts = json.loads(path.read_bytes())
        return str(facts["id"]), int(facts["dropped"])
    except FileNotFoundError:
        name = secrets.token_hex(8)
        _write_facts(folder, name, 0)
        return name, 0
    except (ValueError, KeyError, TypeError):
        raise RecordError(
            f"'{path}' is damaged; remove '{folder}', and what waits in it is lost"
        ) from None


def _write_facts(folder: Path, name: str, dropped: int) -> None:
    files.replace(folder / FACTS, json.dumps({"id": name, "dropped": dropped}).encode())
