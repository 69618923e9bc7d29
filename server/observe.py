"""What a coordinator tells of itself: a log with one line per event, and who took part.

The log must not hold up the exchange nor fill the disk: events wait in a short queue for a thread that writes them, what finds
no room is dropped and counted, and the file is replaced when it has grown. It is for people and is not needed to go on with a
run; the journal is what a run lives by.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from fedlearn.exchange.keys import Key, of
from fedlearn.records.names import LOG_FILE, OLD_LOG_FILE
from fedlearn.server.journal import Journal
from fedlearn.server.rounds import Action, Answer, Drop, Lacking, Rounds, Send, Told
from fedlearn.text import printable

LOG_BYTES = 16 << 20
"""Beyond this `fleet.log` becomes `fleet.log.1` and a new one begins, so that both together hold 32 MB."""

WAITING = 50_000
"""Events that may wait to be written; what comes beyond is dropped."""

BATCH = 1_000
"""Events written at once."""

TROUBLE = ("failed", "declined", "late", "refused", "revoked", "turned away")
"""Events that tell of an agent what its owner may want to know."""


class Log:
    """The log of one run. Any thread may call it; it never waits and never raises. ``lost``: events that were not written."""

    def __init__(
        self,
        path: Path | None,
        shown: str = "notes",
        stream: TextIO | None = None,
        most_bytes: int = LOG_BYTES,
    ) -> None:
        """Write to a file, if one is given, and to standard error (or ``stream``).

        shown: what goes there. "notes": what a person needs to know, as text; "text" or "json": everything; "nothing".
        """
        self.path, self.shown, self.most_bytes = path, shown, most_bytes
        self.lost = 0
        self._stream = stream
        self._told_lost = 0
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._file = -1
        self._torn = (
            True  # whoever wrote before us may have been killed in the middle of a line
        )
        self._off = path is None and shown == "nothing"
        self._thread = threading.Thread(target=self._live, name="log", daemon=True)
        if not self._off:
            self._thread.start()

    def __call__(
        self,
        event: str,
        client: int | None = None,
        key: Key | None = None,
        text: str = "",
        **figures: float,
    ) -> None:
        """Note an event: of a client, of a piece of its work, with a reason, with figures."""
        if self._off:
            return
        if self._queue.qsize() >= WAITING:
            self.lost += 1
            return
        entry: dict[str, Any] = {"time": time.time(), "event": event}
        if client is not None:
            entry["client"] = client
        if key is not None:
            entry["key"] = f"{key[0]}/{key[1]}/{key[2]}"
        if text:
            entry["text"] = text
        self._queue.put(entry | figures)

    def note(self, text: str) -> None:
        """Tell what a person needs to know."""
        self("note", text=text)

    def close(self) -> None:
        """Write what waits; a standard error that nobody reads is given up after a second."""
        if not self._off:
            self._queue.put(None)
            self._thread.join(1)

    def _live(self) -> None:
        going = True
        while going:
            batch = [self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            going = None not in batch
            entries = [entry for entry in batch if entry is not None]
            if self.lost > self._told_lost:
                entries.append(
                    {
                        "time": time.time(),
                        "event": "lost",
                        "text": f"{self.lost - self._told_lost} lines of this log",
                    }
                )
            lost = self.lost
            try:
                self._write("".join(line(entry) + "\n" for entry in entries).encode())
                self._told_lost = lost
            except (
                OSError
            ):  # the disk is full: what is lost here is no reason to end a run
                self.lost += len(entries)
            self._show(entries)
        if self._file >= 0:
            os.close(self._file)

    def _write(self, data: bytes) -> None:
        if self.path is None or not data:
            return
        if (
            self._file >= 0
            and os.fstat(self._file).st_size + len(data) > self.most_bytes
        ):
            os.close(self._file)
            self._file = -1
            os.replace(self.path, self.path.with_name(f"{self.path.name}.1"))
        if self._file < 0:
            self._file = os.open(
                self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
            )
        data = b"\n" + data if self._torn and os.fstat(self._file).st_size else data
        self._torn = True
        if os.write(self._file, data) < len(data):
            raise OSError("a part was written")
        self._torn = False

    def _show(self, entries: list[dict[str, Any]]) -> None:
        told = [
            entry
            for entry in entries
            if self.shown in ("text", "json")
            or (self.shown == "notes" and entry["event"] == "note")
        ]
        stream = self._stream or sys.stderr
        if told and stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.write(
                    "".join(
                        (line(entry) if self.shown == "json" else self._text(entry))
                        + "\n"
                        for entry in told
                    )
                )
                stream.flush()

    def _text(self, entry: Mapping[str, Any]) -> str:
        return (
            f"fedlearn: {printable(entry['text'])}"
            if self.shown == "notes"
            else text(entry)
        )


def line(entry: Mapping[str, Any]) -> str:
    """Return an event as one line of JSON; its time is UTC."""
    moment = entry["time"]
    told = (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
        + f".{int(moment * 1000) % 1000:03d}Z"
    )
    return json.dumps({**entry, "time": told}, allow_nan=False)


def text(entry: Mapping[str, Any]) -> str:
    """Return an event as one line for people; its time is local."""
    figures = [
        f"{name}={value}"
        for name, value in entry.items()
        if name not in ("time", "event", "client", "key", "text")
    ]
    parts = [
        time.strftime("%H:%M:%S", time.localtime(entry["time"])),
        f"{entry['event']:<12}",
        f"client {entry['client']}" if "client" in entry else "",
        entry.get("key", ""),
        *figures,
        printable(entry.get("text", "")),
    ]
    return " ".join(part for part in parts if part)


def read(folder: Path, most_bytes: int = 1 << 20) -> list[dict[str, Any]]:
    """Return the events at the end of a run's log, oldest first; most_bytes: of each of its two files."""
    return [
        entry
        for name in (OLD_LOG_FILE, LOG_FILE)
        for entry in _entries(folder / name, most_bytes)
    ]


def _entries(path: Path, most_bytes: int) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
            lines = file.read(most_bytes).split(b"\n")
    except OSError:
        return
    for each in lines:
        with contextlib.suppress(
            ValueError, RecursionError
        ):  # the first may be half, and any may be torn
            entry = json.loads(each)
            if isinstance(entry, dict) and isinstance(entry.get("event"), str):
                yield entry


class Witness:
    """Writes down what the state machine's actions mean, and counts the payloads' bytes."""

    def __init__(self, log: Log, rounds: Rounds) -> None:
        """Take where to write, and whom to ask who attends."""
        self.log, self.rounds = log, rounds
        self.up_bytes = self.down_bytes = 0
        self._clients: dict[int, int] = {}  # connection → client
        self._reasons: dict[int, str] = {}  # connection → why it is ended

    def saw(self, action: Action) -> None:
        """Note an action, before it is done."""
        if isinstance(action, Send):
            self._sent(action)
        elif isinstance(action, Answer):
            self._answered(action)
        elif isinstance(action, Lacking):
            self.log(
                "lacking",
                action.client,
                action.key,
                "the model that the difference starts from; it is sent",
            )
        elif (
            isinstance(action, Told) and "machine" in action.facts
        ):  # what comes after each piece of work is for devices.json alone
            self.log(
                "device",
                action.client,
                text=", ".join(
                    f"{name} {value}" for name, value in action.facts.items()
                )[:500],
            )
        elif isinstance(action, Drop):
            self._reasons[action.session] = action.reason

    def ended(self, session: int) -> None:
        """Note the end of a connection; call it after `Rounds.gone`."""
        client, reason = (
            self._clients.pop(session, None),
            self._reasons.pop(session, ""),
        )
        if client is not None:
            self.log("left", client, None, reason, attending=len(self.rounds.attending))
        elif reason:
            self.log("turned away", text=reason)

    def refused(self, client: int, key: Key, reason: str) -> list[Action]:
        """Note that an answer of a client that is not connected is not used."""
        self.log("refused", client, key, reason)
        return []

    def _sent(self, send: Send) -> None:
        frame, client = send.frame.WhichOneof("frame"), self._clients.get(send.session)
        if frame == "welcome":
            found = self.rounds.sessions.get(send.session)
            if found is not None and found.client is not None:
                self._clients[send.session] = found.client
                self.log("attended", found.client, attending=len(self.rounds.attending))
        elif frame == "task":
            self.log(
                "asked",
                client,
                of(send.frame.task.key),
                bytes=sum(send.frame.task.sizes),
            )
        elif frame == "chunk":
            self.down_bytes += len(send.data)
        elif frame == "refusal":
            self.log(
                "refused", client, of(send.frame.refusal.key), send.frame.refusal.reason
            )

    def _answered(self, answer: Answer) -> None:
        if answer.data is not None:
            self.up_bytes += len(answer.data)
            self.log("answered", answer.client, answer.key, bytes=len(answer.data))
        else:
            self.log(
                outcome(answer.failure or ""),
                answer.client,
                answer.key,
                answer.failure or "no answer",
            )


def outcome(reason: str) -> str:
    """Return what it is called when a piece of work has no answer: declined, late or failed."""
    word = reason.partition(":")[0]
    return word if word in ("declined", "late") else "failed"


def took_part(journal: Journal) -> dict[str, dict[str, Any]]:
    """Return what each client was asked and what came of it, by client and kind of work, from a run's journal.

    For each: how many pieces of work were ``asked``, ``answered`` and counted, ``refused`` after they had been decoded,
    ``failed``, ``declined`` or ``late``, and ``reasons`` → how often. A round that was repeated asks once more. Raises
    RecordError.
    """
    table: dict[int, dict[str, Counter[str]]] = {}
    reasons: dict[tuple[int, str], Counter[str]] = {}
    for meta, entry in journal.records():
        if meta.get("kind") != "closed":
            continue
        kind = str(meta["key"]).split("/")[2]
        refused, without = meta.get("refused", {}), meta.get("without", {})
        told = {
            str(client): ("answered", "") for client in json.loads(journal.read(entry))
        }
        told |= {client: ("refused", reason) for client, reason in refused.items()}
        told |= {
            client: (outcome(reason), reason) for client, reason in without.items()
        }
        for client, (what, reason) in told.items():
            counts = table.setdefault(int(client), {}).setdefault(kind, Counter())
            counts["asked"] += 1
            counts[what] += 1
            if reason:
                reasons.setdefault((int(client), kind), Counter())[reason] += 1
    names = ("asked", "answered", "refused", "failed", "declined", "late")
    return {
        str(client): {
            kind: {name: counts[name] for name in names}
            | {"reasons": dict(reasons.get((client, kind), {}))}
            for kind, counts in sorted(kinds.items())
        }
        for client, kinds in sorted(table.items())
    }
