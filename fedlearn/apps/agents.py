"""An app's nodes as real agents: each message is one piece of their work.

Node n of the app is client n of the exchange. A message goes out when its node's last one
is answered, so what an app keeps between messages has one order on every machine.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlearn.apps.copies import Copies
from fedlearn.apps.orders import KIND, EchoedAnswer, key_of, objection, plan_of
from fedlearn.apps.replies import NodeRequest, check_same
from fedlearn.apps.work import (
    FIRST_NODE,
    NOT_LOADED,
    TOO_LATE,
    NodeAnswer,
    Work,
)
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, proto
from fedlearn.server.journal import Journal
from fedlearn.server.work import (
    ModelMissing,
    WorkOrder,
    WorkResult,
    WorkService,
    journal_key,
)

# Clients that a line names.
_MOST_NAMED = 10


class AgentNodes:
    """Hands messages to the exchange, and takes what comes of them."""

    def __init__(
        self,
        service: WorkService,
        copies: Path,
        most_s: float,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Take the exchange.

        copies: the folder of what nodes hold. most_s: seconds in which a message has to be
        answered, where its own time to live is not shorter. note: takes a line for whoever
        waits.
        """
        self._service = service
        self._copies = Copies(copies)
        self._most_s = most_s
        # Client → its messages, of which the first is its open work.
        self._queues: dict[int, deque[Work]] = {}
        self._note = note
        # Clients that were asked, and those of them of whom it is known that they came.
        self._clients: set[int] = set()
        self._met: set[int] = set()

    def ready(self) -> None:
        """Wait for nobody: work goes to an agent whenever it attends."""

    def push(self, work: Work) -> None:
        """Take a message; it goes out when its node has answered those before."""
        # All before are answered, and on disk here: agents may let go of them.
        if not self._queues:
            self._service.forget(work.number)
        queue = self._queues.setdefault(work.partition, deque())
        queue.append(work)
        if len(queue) == 1:
            self._ask(work)

    def answers(self) -> Iterator[NodeAnswer]:
        """Yield the next answer, once it is there. Raises RecordError."""
        self._say_who_is_away()
        event = self._service.next()
        queue = self._queues.get(event.client)
        # What comes of a message that has its answer is nobody's.
        if not queue or key_of(queue[0]) != event.key:
            return
        if isinstance(event, ModelMissing):
            self._repair(queue[0])
            return
        yield _answer(queue[0], event)

    def done(self, node: int, state: int) -> None:
        """Let the next message of a node go out, as its last answer is taken."""
        client = node - FIRST_NODE
        queue = self._queues[client]
        queue.popleft()
        # No empty ones: `push` takes that for all being answered.
        if not queue:
            del self._queues[client]
            return
        queue[0] = replace(queue[0], state=state)
        self._ask(queue[0])

    def _ask(self, work: Work) -> None:
        task = _task(work, [work.payload])
        # The header alone is checked there, in the exchange's own thread.
        order = WorkOrder(
            work.partition,
            key_of(work),
            task,
            (work.payload,),
            lambda data: objection(data, work),
        )
        self._service.ask([order], min(work.ttl, self._most_s), 1)
        self._clients.add(work.partition)

    def _say_who_is_away(self) -> None:
        """Note whose agents the run waits for, each once."""
        strangers = self._clients - self._met
        if not strangers:
            return
        away = sorted(strangers.difference(self._service.attending()))
        self._met |= strangers
        # Nobody would know for whom it waits.
        if away:
            more = f" and {len(away) - _MOST_NAMED} more" if away[_MOST_NAMED:] else ""
            names = ", ".join(map(str, away[:_MOST_NAMED]))
            self._note(f"waiting for the agents of clients {names}{more}")

    def _repair(self, work: Work) -> None:
        """Send a message anew, with the records that it is a difference from."""
        digests = sorted(set(work.bases.values()))
        payloads = [work.payload, *(self._copies.data(digest) for digest in digests)]
        task = _task(work, payloads)
        # Another text than before, so the agent takes it for new work.
        task.repair = True
        self._service.repair(work.partition, key_of(work), task, tuple(payloads))


class AcknowledgedReplies:
    """The replies of a run over agents: the answers that the exchange's journal holds.

    An answer is there before its agent is told so, and with it a copy of the request. So
    whoever starts the ServerApp anew asks no agent twice.
    """

    def __init__(
        self, journal: Journal, recall: Callable[[int, Key, bytes], None]
    ) -> None:
        """Take the journal. recall: tells the exchange of an answer that is known."""
        self._journal = journal
        self._recall = recall

    def find(self, request: NodeRequest) -> NodeAnswer | None:
        """Return the answer that a message had; None: it was not answered yet.

        Raises RunError when this is another message than the one that was answered.
        """
        # First: an answer that came after its time does not count, though it is on disk.
        entry = self._journal.find(_unanswered(request.number))
        if entry is not None:
            meta = json.loads(self._journal.read(entry))
            check_same(request, meta)
            return NodeAnswer(
                request.number, b"", meta["code"], meta["reason"], unanswered=True
            )
        client, key = _place(request)
        entry = self._journal.find(journal_key(client, key))
        if entry is None:
            return None
        data = self._journal.read(entry)
        answer = EchoedAnswer.of(data)
        check_same(request, answer.request)
        # Its agent may hold a copy still, for want of an acknowledgement.
        self._recall(client, key, data)
        return answer.answer

    def add(self, request: NodeRequest, answer: NodeAnswer) -> Future[None]:
        """Write down that a message has no answer; one that came is on disk already."""
        if not answer.unanswered:
            written: Future[None] = Future()
            written.set_result(None)
            return written
        meta = {"kind": "unanswered", "key": _unanswered(request.number)}
        text: dict[str, Any] = request.plain()
        text |= {"code": answer.code, "reason": answer.reason}
        return self._journal.append(meta, json.dumps(text).encode())


def _unanswered(number: int) -> str:
    return f"unanswered/{number}"


def _place(request: NodeRequest) -> tuple[int, Key]:
    return request.node - FIRST_NODE, (request.number, KIND, 0)


def _task(work: Work, payloads: list[bytes]) -> pb.Task:
    return pb.Task(
        key=proto(key_of(work)),
        plan=plan_of(work),
        sizes=[len(payload) for payload in payloads],
    )


def _answer(work: Work, event: WorkResult) -> NodeAnswer:
    """Return the answer of a piece of work that has come to its end."""
    if event.data is not None:
        return EchoedAnswer.of(event.data).answer
    reason = event.failure or "no answer"
    # As Flower's own SuperLink tells them apart.
    code = TOO_LATE if reason.startswith("late:") else NOT_LOADED
    return NodeAnswer(work.number, b"", code, reason, unanswered=True)
