"""What happens between a coordinator and its clients, written down and counted."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from fedlearn.exchange.keys import Key, of
from fedlearn.server.actions import Action, DeviceFacts, DropSession, SendToAgent
from fedlearn.server.journal import Journal
from fedlearn.server.rounds import Rounds
from fedlearn.server.work import EventLog, ModelMissing, WorkResult

# Characters of a device's facts that a line of the log has at most.
DEVICE_CHARACTERS = 500

# What can come of a piece of work, in the order of `clients.json`.
_COUNTS = ("asked", "answered", "refused", "failed", "declined", "late")


class Witness:
    """Writes down what the actions of `Rounds` mean, and counts the payloads' bytes."""

    def __init__(self, log: EventLog, rounds: Rounds) -> None:
        """Take where to write, and whom to ask who attends."""
        self.log = log
        self.rounds = rounds
        self.up_bytes = 0
        self.down_bytes = 0
        # connection → its client, and why it is ended.
        self._clients: dict[int, int] = {}
        self._reasons: dict[int, str] = {}

    def saw(self, action: Action) -> None:
        """Note an action, before it is done."""
        match action:
            case SendToAgent():
                self._saw_frame(action)
            case WorkResult():
                self._saw_result(action)
            case ModelMissing(client, key):
                text = "the model that the difference starts from; it is sent"
                self.log("lacking", client, key, text)
            # Facts without a machine come after each piece of work, for devices.json.
            case DeviceFacts(client, facts) if "machine" in facts:
                text = ", ".join(f"{name} {value}" for name, value in facts.items())
                self.log("device", client, text=text[:DEVICE_CHARACTERS])
            case DropSession(session, reason):
                self._reasons[session] = reason

    def ended(self, session: int) -> None:
        """Note the end of a connection; call it after `Rounds.gone`."""
        client = self._clients.pop(session, None)
        reason = self._reasons.pop(session, "")
        # A connection without a welcome has no client, and is told of if it was turned
        # away.
        if client is not None:
            self.log("left", client, None, reason, attending=len(self.rounds.attending))
        elif reason:
            self.log("turned away", text=reason)

    def refused(self, client: int, key: Key, reason: str) -> None:
        """Note that an answer of a client that is not connected is not used."""
        self.log("refused", client, key, reason)

    def _saw_frame(self, send: SendToAgent) -> None:
        frame = send.frame
        client = self._clients.get(send.session)
        match frame.WhichOneof("frame"):
            case "welcome":
                self._saw_welcome(send.session)
            case "task":
                size = sum(frame.task.sizes)
                self.log("asked", client, of(frame.task.key), bytes=size)
            case "chunk":
                self.down_bytes += len(send.data)
            case "refusal":
                refusal = frame.refusal
                self.log("refused", client, of(refusal.key), refusal.reason)

    def _saw_welcome(self, session: int) -> None:
        # Another run begins over the same connection: nobody came.
        if session in self._clients:
            return
        connection = self.rounds.sessions.get(session)
        if connection is not None and connection.client is not None:
            self._clients[session] = connection.client
            attending = len(self.rounds.attending)
            self.log("attended", connection.client, attending=attending)

    def _saw_result(self, result: WorkResult) -> None:
        if result.data is not None:
            size = len(result.data)
            self.up_bytes += size
            self.log("answered", result.client, result.key, bytes=size)
            return
        reason = result.failure or "no answer"
        self.log(outcome(result.failure or ""), result.client, result.key, reason)


def outcome(reason: str) -> str:
    """Return what it is called when work has no answer: declined, late or failed."""
    word = reason.partition(":")[0]
    return word if word in ("declined", "late") else "failed"


def took_part(journal: Journal) -> dict[str, dict[str, Any]]:
    """Return what each client was asked and what came of it, from a run's journal.

    By client and kind of work: how many pieces were ``asked``, ``answered`` and counted,
    ``refused`` after they had been decoded, ``failed``, ``declined`` or ``late``, and
    ``reasons`` → how often. A round that was repeated asks once more. Raises RecordError.
    """
    counts: dict[int, dict[str, Counter[str]]] = {}
    reasons: dict[tuple[int, str], Counter[str]] = {}
    for meta, entry in journal.records():
        # Answers alone do not tell which of them counted.
        if meta.get("kind") != "closed":
            continue
        # The key is "closed/round/kind/call".
        kind = str(meta["key"]).split("/")[2]
        for client, (word, reason) in _outcomes(meta, journal.read(entry)).items():
            counter = counts.setdefault(client, {}).setdefault(kind, Counter())
            counter["asked"] += 1
            counter[word] += 1
            if reason:
                reasons.setdefault((client, kind), Counter())[reason] += 1
    table: dict[str, dict[str, Any]] = {}
    for client, kinds in sorted(counts.items()):
        table[str(client)] = {}
        for kind, counter in sorted(kinds.items()):
            # All words, also those that are 0: a reader of the table needs no defaults.
            row: dict[str, Any] = {name: counter[name] for name in _COUNTS}
            row["reasons"] = dict(reasons.get((client, kind), {}))
            table[str(client)][kind] = row
    return table


def _outcomes(meta: dict[str, Any], data: bytes) -> dict[int, tuple[str, str]]:
    """Return client → what came of its work and why, of one batch that was closed.

    data: JSON, the clients whose answers were counted. A refusal comes after the count.
    """
    # JSON's keys are texts.
    outcomes = {int(client): ("answered", "") for client in json.loads(data)}
    # In this order: a refusal overrides the answer that it is about.
    for client, reason in meta.get("refused", {}).items():
        outcomes[int(client)] = ("refused", reason)
    for client, reason in meta.get("without", {}).items():
        outcomes[int(client)] = (outcome(reason), reason)
    return outcomes
