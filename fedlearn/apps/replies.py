"""The replies of a run, each on disk before the ServerApp sees it.

A run that goes on starts its ServerApp anew, and answers it from here as long as it sends
what it sent before. So any loop can go on, whatever it keeps in its own variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlearn.apps.messages import Part
from fedlearn.apps.work import NodeAnswer
from fedlearn.errors import RunError
from fedlearn.server.journal import Journal
from fedlearn.server.segments import JournalEntry


@dataclass(frozen=True)
class NodeRequest:
    """A message as the ServerApp sent it, without its records' bytes.

    digests: record → the digest of its bytes.
    """

    number: int
    node: int
    kind: str
    group: str
    digests: Mapping[str, str]

    def plain(self) -> dict[str, Any]:
        """Return the request as JSON has it."""
        return {
            "number": self.number,
            "node": self.node,
            "kind": self.kind,
            "group": self.group,
            "digests": dict(self.digests),
        }

    @classmethod
    def of(
        cls, number: int, node: int, kind: str, group: str, parts: Sequence[Part]
    ) -> NodeRequest:
        """Return the request of a message's parts."""
        digests = {part.name: part.digest for part in parts}
        return cls(number, node, kind, group, digests)


class ReplyJournal:
    """The journal of a run's replies."""

    def __init__(self, folder: Path) -> None:
        """Open the journal, with the replies that are in it; raises RecordError."""
        # A torn record at its end is cut off: nobody was promised it.
        self._journal = Journal(folder)
        # Message → what the journal says of it, and where its payload lies.
        self._known: dict[int, tuple[dict[str, Any], JournalEntry]] = {}
        # Payloads stay on disk until they are asked for.
        for meta, entry in self._journal.records():
            self._known[meta["number"]] = meta, entry

    def __len__(self) -> int:
        """Return how many replies there are from before."""
        return len(self._known)

    def find(self, request: NodeRequest) -> NodeAnswer | None:
        """Return the answer that a message had; None: it was not answered yet.

        Raises RunError when this is another message than the one that was answered.
        """
        if request.number not in self._known:
            return None
        meta, entry = self._known[request.number]
        check_same(request, meta)
        payload = self._journal.read(entry)
        return NodeAnswer(
            request.number, payload, meta["code"], meta["reason"], meta["changed"]
        )

    def add(self, request: NodeRequest, answer: NodeAnswer) -> Future[None]:
        """Write an answer down; the future is done when it is on disk."""
        meta = {
            **request.plain(),
            "code": answer.code,
            "reason": answer.reason,
            "changed": answer.changed,
        }
        return self._journal.append(meta, answer.payload)

    def close(self) -> None:
        """Bring all to disk and let go of the folder."""
        self._journal.close()


def check_same(request: NodeRequest, meta: Mapping[str, Any]) -> None:
    """Raise RunError with what differs from the message that was answered.

    meta: what `NodeRequest.plain` gave of that one.
    """
    before = (meta["node"], meta["kind"], meta["group"])
    now = (request.node, request.kind, request.group)
    names = sorted(
        name
        for name in {*request.digests, *meta["digests"]}
        if request.digests.get(name) != meta["digests"].get(name)
    )
    # The time of sending is no part of it.
    if before == now and not names:
        return
    # Named by the first record alone: the others may follow from it.
    difference = (
        f"its record '{names[0]}'" if before == now else "its node, type or group"
    )
    raise RunError(
        f"--resume: message {request.number} ('{request.kind}' to node {request.node}) is "
        f"not the one that was answered: {difference} differs. The ServerApp is not "
        "deterministic (it may use the time, os.urandom or a generator of its own without "
        "a seed); seed it, or start anew with another --out"
    )
