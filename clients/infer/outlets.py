"""Where a stream's answers go: on the disk when `put` returns, each once."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from fedlearn.clients.messages.outbox import Outbox
from fedlearn.clients.messages.publisher import Publisher, described
from fedlearn.errors import RunError
from fedlearn.system import files
from fedlearn.system.appending import append

Answer = dict[str, Any]
Keyed = Sequence[tuple[str, Answer]]
IsNoted = Callable[[str], bool]

# Samples that may be stored and not noted: more than a group, which is noted at once.
RECENT = 10_000

# Bytes that are read at a time, from a file's end.
_PIECE = 64 << 10


class Outlet(Protocol):
    """A place for answers."""

    def put(self, answers: Keyed) -> None:
        """Store answers with the keys of their samples; raises OSError or RunError."""

    def recent(self, is_noted: IsNoted) -> set[str]:
        """Return the keys of what is stored, though its source may not have noted it."""

    def check(self) -> None:
        """Raise the error that keeps answers from going on, if there is one."""

    def close(self, wait_s: float) -> int:
        """End; returns how many answers wait on this device after ``wait_s``."""

    def describe(self) -> str:
        """Return how it does, for a log; "": nothing is to be told."""


class FileOutlet:
    """Lines of JSON at the end of a file, each with its sample's key as ``id``."""

    def __init__(self, path: Path) -> None:
        """Open a file, or begin one; what is no whole line at its end is cut off.

        Raises RunError where another process writes it, OSError where it cannot be.
        """
        self._path = path
        self._file = files.private(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise RunError(f"another process is writing '{path}'") from None
        self._size = self._whole()
        os.ftruncate(self._file, self._size)
        files.sync_folder(path.parent)

    def put(self, answers: Keyed) -> None:
        """Add lines; they are on the disk when this returns. Raises OSError."""
        lines = [
            _line({"id": key, **answer} if key else answer) for key, answer in answers
        ]
        data = "".join(f"{line}\n" for line in lines).encode()
        self._size = append(self._file, self._size, data)

    def recent(self, is_noted: IsNoted) -> set[str]:
        """Return the keys of the last lines, up to one that is noted."""
        keys: set[str] = set()
        for line in self._backwards():
            try:
                key = json.loads(line)["id"]
            # Somebody else's line, or a window's counts.
            except (ValueError, KeyError, TypeError):
                continue
            if is_noted(key) or len(keys) >= RECENT:
                break
            keys.add(key)
        return keys

    def check(self) -> None:
        """Nothing goes on from here."""

    def close(self, wait_s: float) -> int:
        """Close the file."""
        os.close(self._file)
        return 0

    def describe(self) -> str:
        """Return nothing: the file is there to be read."""
        return ""

    def _whole(self) -> int:
        """Return the bytes up to the end of the last whole line."""
        end = os.fstat(self._file).st_size
        while end:
            start = max(0, end - _PIECE)
            place = os.pread(self._file, end - start, start).rfind(b"\n")
            if place >= 0:
                return start + place + 1
            end = start
        return 0

    def _backwards(self) -> Iterator[bytes]:
        """Yield the lines from the last to the first."""
        end = self._size
        tail = b""
        while end:
            start = max(0, end - _PIECE)
            tail = os.pread(self._file, end - start, start) + tail
            lines = tail.split(b"\n")
            # The first one may begin before this piece.
            tail = lines[0]
            yield from reversed([line for line in lines[1:] if line])
            end = start
        if tail:
            yield tail


class TopicOutlet:
    """A topic of a broker, by way of an outbox."""

    def __init__(self, outbox: Outbox, publisher: Publisher) -> None:
        """Begin to send what waits."""
        self._outbox = outbox
        self._publisher = publisher
        publisher.start()

    def put(self, answers: Keyed) -> None:
        """Put answers into the outbox; raises OSError or RunError."""
        self._outbox.put([(key, _line(answer)) for key, answer in answers])
        self._publisher.wake()

    def recent(self, is_noted: IsNoted) -> set[str]:
        """Return the keys of the last group in the outbox, and of some before it."""
        return self._outbox.last_keys()

    def check(self) -> None:
        """Raise the error that ended the sender, if one has."""
        self._publisher.check()

    def close(self, wait_s: float) -> int:
        """Send what can be sent within ``wait_s``; the others wait for the next start."""
        waiting = self._publisher.drain(wait_s)
        self._publisher.stop()
        self._outbox.close()
        return waiting

    def describe(self) -> str:
        """Return how the outbox does."""
        return described(self._outbox, self._publisher)


def _line(answer: Answer) -> str:
    return json.dumps(answer, separators=(",", ":"))
