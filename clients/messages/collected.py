"""A file of collected answers: each once, on the disk before anybody is told so.

A line is a JSON object with the message's ``id``, OUTBOX-NUMBER, and its topic. Beside OUT
lies ``OUT.state``: whose numbers are in it, as ranges, and up to which byte that was noted.
What was written after that is read again from OUT itself, so the file is all that counts.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlearn.clients.messages.ranges import Ranges
from fedlearn.errors import RecordError, RunError
from fedlearn.system import files
from fedlearn.system.appending import append

# Bytes of OUT after which the state is noted again: so many are read after a crash.
NOTE_BYTES = 1 << 20

POINTS = ("collect.before-write", "collect.before-sync", "collect.after-sync")

_ID = re.compile(r"([0-9a-f]{16})-([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that came. first: the lowest number that its outbox still has; 0: unknown."""

    outbox: str
    number: int
    topic: str
    body: dict[str, Any]
    first: int = 0


def answer_of(topic: str, payload: bytes, first: str = "") -> Answer | None:
    """Return the answer of a message; None: it is none of an outbox."""
    try:
        body = json.loads(payload)
        match = _ID.fullmatch(body["id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if match is None:
        return None
    lowest = int(first) if first.isdecimal() and len(first) < 19 else 0
    return Answer(match[1], int(match[2]), topic, body, lowest)


class CollectedFile:
    """A file that takes each answer once. duplicates, lost: since it was begun."""

    def __init__(self, path: Path) -> None:
        """Begin a file, or go on with one.

        Raises RunError where another process has it, RecordError where it cannot be read.
        """
        self.path = path
        self._state_path = path.with_name(f"{path.name}.state")
        self.duplicates = 0
        self.lost = 0
        # The client's id for the broker: the same after a crash, so that it keeps messages.
        self.name = secrets.token_hex(8)
        self._numbers: dict[str, Ranges] = {}
        self._firsts: dict[str, int] = {}
        # Bytes of the file, and as many as the state knows of.
        self._size = 0
        self._noted = 0
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        try:
            self._file = files.private(path, flags)
            self._hold()
            self._go_on()
        except OSError as error:
            raise RecordError(f"'{path}': {error.strerror or error}") from None

    def __len__(self) -> int:
        """Return how many answers the file has."""
        return sum(map(len, self._numbers.values()))

    def write(self, answers: Sequence[Answer]) -> int:
        """Add the answers that are not there yet, and sync; returns how many those were.

        Raises OSError: then none of them is there, as far as anybody is told.
        """
        counted = (self.duplicates, self.lost)
        lines = []
        added: set[tuple[str, int]] = set()
        for answer in answers:
            self._count_lost(answer)
            name = (answer.outbox, answer.number)
            if name in added or answer.number in self._of(answer.outbox):
                self.duplicates += 1
                continue
            added.add(name)
            lines.append(_line(answer))
        if lines:
            self._append(b"".join(lines))
        # After the disk has them: whoever asks is told of nothing else.
        for outbox, number in added:
            self._of(outbox).add(number)
        # What is counted stands nowhere else.
        is_counted = counted != (self.duplicates, self.lost)
        if is_counted or self._size - self._noted >= NOTE_BYTES:
            self._note()
        return len(added)

    def close(self) -> None:
        """Note what the file has, and let another process have it. Raises OSError."""
        self._note()
        os.close(self._file)

    def _of(self, outbox: str) -> Ranges:
        return self._numbers.setdefault(outbox, Ranges())

    def _count_lost(self, answer: Answer) -> None:
        """Count the numbers that will never come: their outbox has dropped them."""
        if not answer.first:
            return
        # What an outbox had before it was met may be with another collector.
        before = self._firsts.setdefault(answer.outbox, answer.first)
        if answer.first > before:
            numbers = self._of(answer.outbox)
            self.lost += numbers.missing(before, answer.first - 1)
            self._firsts[answer.outbox] = answer.first

    def _append(self, data: bytes) -> None:
        self._size = append(self._file, self._size, data, "collect")

    def _hold(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise RunError(f"another process is writing '{self.path}'") from None

    def _go_on(self) -> None:
        """Learn what the file has, and cut off what is no whole line."""
        self._size = os.fstat(self._file).st_size
        self._read_state()
        with open(self.path, "rb") as file:
            file.seek(self._noted)
            end = self._noted
            for line in file:
                answer = answer_of("", line) if line.endswith(b"\n") else None
                if answer is None:
                    break
                self._of(answer.outbox).add(answer.number)
                end += len(line)
            else:
                self._sync(end)
                return
            # Lines after a damaged one were never acknowledged, unless somebody wrote here.
            if file.read(1):
                raise RecordError(
                    f"'{self.path}' has what is no answer at byte {end}; name another file"
                )
        os.ftruncate(self._file, end)
        self._sync(end)

    def _sync(self, size: int) -> None:
        self._size = size
        os.fsync(self._file)
        files.sync_folder(self.path.parent)
        self._note()

    def _read_state(self) -> None:
        try:
            state = json.loads(self._state_path.read_bytes())
            size = int(state["bytes"])
            numbers = {name: Ranges(pairs) for name, pairs in state["numbers"].items()}
            self.name = str(state["name"])
            self.duplicates = int(state["duplicates"])
            self.lost = int(state["lost"])
            self._firsts = {name: int(n) for name, n in state["firsts"].items()}
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RecordError(
                f"'{self._state_path}' is damaged; remove it, and '{self.path}' is read"
            ) from None
        # Somebody has taken the file away, as a rotation of logs does: what was collected
        # stays known all the same.
        self._numbers = numbers
        self._noted = size if size <= self._size else 0

    def _note(self) -> None:
        state = {
            "name": self.name,
            "bytes": self._size,
            "duplicates": self.duplicates,
            "lost": self.lost,
            "firsts": self._firsts,
            "numbers": {name: list(pairs) for name, pairs in self._numbers.items()},
        }
        files.replace(self._state_path, json.dumps(state).encode())
        self._noted = self._size


def _line(answer: Answer) -> bytes:
    body = {"id": answer.body["id"], "topic": answer.topic, **answer.body}
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"
