"""`AppGrid`: Flower's Grid for a whole app, whose ServerApp may send any message.

A message gets its number, and with it its id, in the order in which it is pushed. Replies
come in the order of the messages, whatever order they arrive in, so the ServerApp sees the
same in every run.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Error, Message, RecordDict

from fedlearn.apps import private
from fedlearn.apps.codecs import Codecs
from fedlearn.apps.downlink import NodeDownlink
from fedlearn.apps.messages import Packing, Part, Sent, raw_bytes
from fedlearn.apps.observing import AppObserver
from fedlearn.apps.pool import AppNodes
from fedlearn.apps.replies import NodeRequest
from fedlearn.apps.states import NodeStates
from fedlearn.apps.work import (
    FIRST_NODE,
    LATE,
    RAISED,
    UNAVAILABLE,
    Limit,
    NodeAnswer,
    Work,
)
from fedlearn.codec import AUTO
from fedlearn.errors import FedlearnError, PayloadError, RunError, reason_of
from fedlearn.flower import OwnGrid

# Times in a row that the ServerApp may ask for the nodes, a second and more apart, before
# it is told that it waits for more nodes than there are.
_MOST_WAITS = 4
_WAIT_S = 1.0


@dataclass
class _Pending:
    """A message that was pushed, until its reply is pulled.

    message: its metadata, with an empty content. keep: digests of what its node holds from
    now on. parts: the ArrayRecords that its node holds, by name. originals: what the
    ServerApp sent, of which these are copies. answer: once there is one.
    """

    request: NodeRequest
    message: Message
    turn: int
    round: int | None
    sent: Sent
    keep: tuple[str, ...]
    parts: dict[str, Part] = field(default_factory=dict)
    originals: dict[str, Part] = field(default_factory=dict)
    answer: NodeAnswer | None = None
    from_before: bool = False


class AppGrid(OwnGrid):
    """The nodes of one app's run."""

    def __init__(
        self,
        nodes: int,
        seed: int,
        app_nodes: AppNodes,
        states: NodeStates,
        codecs: Codecs,
        downlink: NodeDownlink,
        observer: AppObserver,
        client_timeout_s: float = 0.0,
    ) -> None:
        """Take the parts of a run.

        client_timeout_s: after which a node's work on a message is given up; 0: never.
        """
        self._nodes = nodes
        self._seed = seed
        self._answerers = app_nodes.answerers
        self._replies = app_nodes.replies
        self._unpack = app_nodes.unpack
        self._states = states
        self._codecs = codecs
        self._downlink = downlink
        self._observer = observer
        self._client_timeout_s = client_timeout_s
        self._parts = Packing()
        self._run: Any = private.empty_run()
        self._number = 0
        # Node's partition → its messages so far.
        self._turns: dict[int, int] = {}
        self._pending: dict[str, _Pending] = {}
        self._by_number: dict[int, _Pending] = {}
        self._waits = 0
        self._looked_s = 0.0
        self._thread = threading.get_ident()
        self._process = os.getpid()
        # What ended the run: an app that catches it would go on without replies.
        self.failure: FedlearnError | None = None
        # Over all messages and replies: whether two runs were the same.
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all messages and replies, in their order."""
        return self._digest.hexdigest()

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes; raises RunError for an app that waits for more of them."""
        # Flower's old workflows look from a thread of their own, all the time.
        if threading.get_ident() == self._thread:
            self._look()
        return list(range(FIRST_NODE, FIRST_NODE + self._nodes))

    def _look(self) -> None:
        """Count how often the ServerApp looks for nodes, with a pause before each look."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _WAIT_S:
            self._waits += 1
        self._looked_s = now_s
        if self._waits > _MOST_WAITS:
            raise self._failed(
                f"the ServerApp waits for more nodes than the {self._nodes} of this run; "
                "give --nodes N, or lower what it waits for, such as min_available_nodes"
            )

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages on their way, and return their ids.

        Raises RunError for a message to no node of this run, PayloadError for records that
        Flower cannot carry.
        """
        return self._pushed_all(messages, None)

    def _pushed_all(
        self, messages: Iterable[Message], limit: Limit | None
    ) -> list[str]:
        self._go_on()
        shortest = self._shortest(limit)
        pending: list[_Pending] = []
        # One by one: a generator may change the record that the message before had.
        for message in messages:
            pending.append(self._pushed(message, shortest))
        self._parts.forget()
        self._observer.pushed(_round(pending), [entry.sent for entry in pending])
        return [entry.message.metadata.message_id for entry in pending]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies of these messages, as they were pushed, each once; waits for all.

        Flower's own grid returns those that are there. Which these are is a matter of time,
        and would be another in each run.
        """
        self._go_on()
        pending: list[_Pending] = []
        for message_id in message_ids:
            entry = self._pending.pop(message_id, None)
            if entry is not None:
                pending.append(entry)
        # An app may keep its ids in a set, whose order is another in each process.
        pending.sort(key=lambda entry: entry.request.number)
        self._await(pending)
        replies = [
            reply for entry in pending if (reply := self._reply(entry)) is not None
        ]
        if not self._by_number:
            # Nobody is on the way to a copy that no node holds any more.
            # And no other file of copies is read any more.
            self._downlink.sweep()
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return their replies, in the same order.

        timeout: the seconds that a node may work on a message, from when it begins: nodes
        wait here for a worker, which says nothing of them. Later replies are left out, as
        Flower does; their nodes end where they are. None: no limit.
        """
        if timeout is None:
            return self.pull_messages(self.push_messages(messages))
        # Of whatever type it is: it may travel to an agent.
        limit = Limit(float(timeout), LATE, "send_and_receive's timeout")
        message_ids = self._pushed_all(messages, limit)
        # Flower looks for no reply then, though the messages are on their way.
        return self.pull_messages(message_ids) if timeout > 0 else []

    def _go_on(self) -> None:
        """Raise what ended the run, if something did."""
        self._waits = 0
        if os.getpid() != self._process:
            raise RunError("a process that the ServerApp forked has no nodes")
        if self.failure is not None:
            raise self.failure

    def _failed(self, text: str) -> FedlearnError:
        self.failure = RunError(text)
        return self.failure

    def _shortest(self, limit: Limit | None) -> Limit | None:
        """Return what ends a node's work first: a limit, or the run's own; None: nothing."""
        own_s = self._client_timeout_s
        # A call that waits for nothing leaves its nodes as they are.
        if limit is not None and not 0 < limit.seconds < threading.TIMEOUT_MAX:
            limit = None
        if not own_s or (limit is not None and limit.seconds < own_s):
            return limit
        return Limit(own_s, UNAVAILABLE, "engine.client_timeout_s")

    def _pushed(self, message: Message, limit: Limit | None) -> _Pending:
        """Give a message its number, and hand it out unless it was answered before."""
        partition = self._partition(message)
        # Numbers follow the ServerApp's order alone, so they are the same in each run.
        self._number += 1
        turn = self._turns.get(partition, 0) + 1
        self._turns[partition] = turn
        try:
            parts = self._parts.of(message.content)
        except PayloadError as error:
            raise self._failed(
                f"message {self._number} ('{message.metadata.message_type}' to node "
                f"{message.metadata.dst_node_id}): {error}"
            ) from error
        entry = self._entry(message, parts, partition, turn)
        self._pending[entry.message.metadata.message_id] = entry
        self._by_number[entry.request.number] = entry
        try:
            entry.answer = self._replies.find(entry.request)
        except RunError as error:
            self.failure = error
            raise
        # Noted in the ServerApp's order, whoever is asked.
        self._note_request(entry)
        if entry.answer is not None:
            entry.from_before = True
            self._settle(entry, entry.answer)
        else:
            self._answerers.push(self._work(entry, partition, limit))
        return entry

    def _partition(self, message: Message) -> int:
        """Return the partition of a message's node; raises RunError for no node."""
        node = message.metadata.dst_node_id
        partition = node - FIRST_NODE
        if not 0 <= partition < self._nodes:
            raise self._failed(
                f"the ServerApp sends a message to node {node}, which is none; "
                "grid.get_node_ids() gives the nodes"
            )
        if not message.has_content():
            raise self._failed(
                f"the ServerApp sends node {node} a message without content; "
                "give it a RecordDict"
            )
        return partition

    def _entry(
        self, message: Message, parts: Sequence[Part], partition: int, turn: int
    ) -> _Pending:
        metadata = message.metadata
        node = metadata.dst_node_id
        # Its own message: the app may push one object twice.
        request_message = private.request_of(
            RecordDict(),
            node,
            metadata.message_type,
            metadata.group_id,
            self._id("message", self._number),
            metadata.ttl,
        )
        private.set_ids(message, request_message.metadata.message_id)
        sent, arrays = self._downlink.sent(partition, parts)
        request = NodeRequest.of(
            self._number, node, metadata.message_type, metadata.group_id, parts
        )
        originals = {part.name: part for part in parts if part.is_arrays}
        # Of now: the node's next message may bring others.
        keep = self._downlink.held(partition)
        return _Pending(
            request,
            request_message,
            turn,
            round_of(message),
            sent,
            keep,
            arrays,
            originals,
        )

    def _work(self, entry: _Pending, partition: int, limit: Limit | None) -> Work:
        metadata = entry.message.metadata
        return Work(
            number=entry.request.number,
            node=metadata.dst_node_id,
            partition=partition,
            turn=entry.turn,
            kind=metadata.message_type,
            group=metadata.group_id,
            message_id=metadata.message_id,
            ttl=metadata.ttl,
            payload=entry.sent.payload,
            digests=entry.request.digests,
            bases=entry.sent.bases,
            keep=entry.keep,
            state=self._states.turn(partition),
            up="" if self._codecs.up == AUTO else self._codecs.up,
            limit=limit,
        )

    def _id(self, purpose: str, number: int) -> str:
        """Return a message's id, 64 hex digits as Flower's: a function of seed and number."""
        text = f"{self._seed}/{purpose}/{number}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _await(self, pending: list[_Pending]) -> None:
        """Wait until messages are answered and their answers are on disk."""
        written: list[Future[None]] = []
        waiting = {e.request.number for e in pending if e.answer is None}
        while waiting:
            for answer in self._answerers.answers():
                waiting.discard(answer.number)
                written.append(self._arrived(answer))
            self._observer.looked(len(pending) - len(waiting), len(pending))
        for future in written:
            future.result()

    def _arrived(self, answer: NodeAnswer) -> Future[None]:
        """Take an answer, and let its node's next message go out."""
        entry = self._by_number[answer.number]
        node = entry.request.node
        entry.answer = answer
        # On its way to the disk while the worker goes on.
        future = self._replies.add(entry.request, answer)
        if answer.changed:
            # The state before is needed until the reply is on disk.
            future.result()
        self._settle(entry, answer)
        self._answerers.done(node, self._states.turn(node - FIRST_NODE))
        return future

    def _settle(self, entry: _Pending, answer: NodeAnswer) -> None:
        """Take over what an answer left with its node."""
        if answer.changed:
            self._states.settle(entry.request.node - FIRST_NODE, entry.turn)

    def _reply(self, entry: _Pending) -> Message | None:
        """Return the reply that the ServerApp sees; None: it came too late for it."""
        answer = entry.answer
        assert answer is not None
        number = entry.request.number
        del self._by_number[number]
        self._note_answer(answer)
        # Of the message's number: the same in each run, too.
        reply_id = self._id("reply", number)
        if answer.code:
            # As on Flower: its send_and_receive has ended without this one.
            if answer.code == LATE:
                self._observer.failed(entry.request.node, answer.reason)
                return None
            return self._error(entry, answer.code, answer.reason, reply_id)
        bases = {name: part.arrays for name, part in entry.parts.items()}
        # A node's copy lacks what its codec left out, and the next difference brings it. So an
        # update counts from what was sent: a mean of replies would lose that part for good.
        originals = {name: part.arrays for name, part in entry.originals.items()}
        try:
            content = self._unpack(answer.payload, bases, originals)
        except PayloadError as error:
            reason = f"its reply cannot be used: {reason_of(error)}"
            return self._error(entry, RAISED, reason, reply_id)
        raw = raw_bytes(answer.payload, entry.parts)
        self._observer.answered(len(answer.payload), raw)
        return private.reply_of(entry.message, content, reply_id)

    def _error(self, entry: _Pending, code: int, reason: str, reply_id: str) -> Message:
        """Return a node's failure as a reply: as on Flower the strategy decides."""
        self._observer.failed(entry.request.node, reason)
        return private.reply_of(entry.message, Error(code, reason), reply_id)

    def _note_request(self, entry: _Pending) -> None:
        request = entry.request
        digests = sorted(request.digests.items())
        text = (
            f"{request.number} {request.node} {request.kind} {request.group} {digests}"
        )
        self._digest.update(text.encode())

    def _note_answer(self, answer: NodeAnswer) -> None:
        text = f"{answer.number} {answer.code} {answer.reason} {len(answer.payload)}"
        self._digest.update(text.encode() + answer.payload)


def round_of(message: Message) -> int | None:
    """Return the round that a message is of, as Flower's strategies write it; None: none."""
    for record in message.content.config_records.values():
        number = record.get("server-round")
        if isinstance(number, int):
            return number
    group = message.metadata.group_id
    return int(group) if group.isdecimal() else None


def _round(pending: Sequence[_Pending]) -> int | None:
    """Return the round of messages that were pushed together; None: they name none."""
    rounds = [entry.round for entry in pending if entry.round is not None]
    return max(rounds, default=None)
