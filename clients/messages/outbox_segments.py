"""The segments of an outbox: files of messages, a line each, and how they are read again.

A line is the CRC-32 of the rest, and [number, key, body] as JSON. The body stays a text, as it
is sent. Beside a segment lies what of it is settled, as ranges of numbers.
"""

from __future__ import annotations

import json
import re
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from fedlearn.clients.messages.ranges import Ranges
from fedlearn.errors import RecordError
from fedlearn.system import files
from fedlearn.system.checksum import crc32

# The failpoints of an outbox, see `fedlearn.system.failpoints`.
POINTS = ("outbox.before-write", "outbox.before-sync", "outbox.after-sync")

# The segments of a folder, whatever else lies there.
PATTERN = "[0-9]" * 16 + ".log"

_SETTLED = re.compile(r"^([0-9]{1,18}) ([0-9]{1,18})\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message that waits. number: in its outbox, from 1. body: a JSON object's text."""

    number: int
    key: str
    body: str


@dataclass
class OutboxSegment:
    """A file of messages. offsets: of the lines, from its first number on; -1: damaged."""

    path: Path
    first: int
    bytes: int = 0
    offsets: array[int] = field(default_factory=lambda: array("q"))
    settled: Ranges = field(default_factory=Ranges)

    @property
    def last(self) -> int:
        """Return the highest number, or the one before the first."""
        return self.first + len(self.offsets) - 1

    @property
    def waiting(self) -> int:
        """Return how many messages wait."""
        return len(self.offsets) - len(self.settled)


def line_of(number: int, key: str, body: str) -> bytes:
    """Return a message's line; body: a JSON object's text."""
    # The body stays the text that it is: it is sent as it came.
    text = json.dumps([number, key, body], separators=(",", ":")).encode()
    return b"%08x %b\n" % (crc32(text), text)


def parsed(line: bytes) -> OutboxMessage | None:
    """Return the message of a line; None: it is damaged."""
    checksum = line[:8]
    text = line[9:-1]
    if not line.endswith(b"\n") or checksum != b"%08x" % crc32(text):
        return None
    number, key, body = json.loads(text)
    return OutboxMessage(number, key, body)


def scanned(path: Path, is_last: bool) -> OutboxSegment:
    """Return what a segment has; the last one loses what no whole line follows."""
    segment = OutboxSegment(path, int(path.stem))
    data = path.read_bytes()
    end = 0
    position = 0
    for line in data.splitlines(keepends=True):
        message = parsed(line)
        if message is not None and message.number > segment.last:
            damaged = message.number - segment.last - 1
            segment.offsets.extend([-1] * damaged)
            segment.offsets.append(position)
            end = position + len(line)
        position += len(line)
    segment.bytes = position
    if is_last:
        # Its last bytes may be in memory alone, after a crash: the whole is written anew.
        files.replace(path, data[:end])
        segment.bytes = end
    return segment


def read_settled(segment: OutboxSegment) -> None:
    """Note what lies beside a segment of what is settled; raises OSError."""
    try:
        text = segment.path.with_suffix(".settled").read_text(errors="replace")
    except FileNotFoundError:
        return
    # What a power cut left of it may be anything.
    for match in _SETTLED.finditer(text):
        first = max(int(match[1]), segment.first)
        last = min(int(match[2]), segment.last)
        if first <= last:
            segment.settled.add(first, last)


def messages_of(
    segment: OutboxSegment, after: int, most: int, skipped: Ranges
) -> list[OutboxMessage]:
    """Return a segment's oldest messages above a number, but those that are skipped."""
    messages: list[OutboxMessage] = []
    with open(segment.path, "rb") as file:
        number = max(after + 1, segment.first)
        while number <= segment.last and len(messages) < most:
            if number not in skipped and segment.offsets[number - segment.first] >= 0:
                file.seek(segment.offsets[number - segment.first])
                message = parsed(file.readline())
                if message is None:
                    raise RecordError(f"'{segment.path}' was damaged while it was used")
                messages.append(message)
            number += 1
    return messages
