"""`SuperLink`: asks SuperNodes over Flower's Grid, as `fedlearn.server.service` asks agents.

A SuperNode's id is Flower's own. It says itself which client it serves, and is asked once.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedlearn.clients.app import question, read_reply
from fedlearn.errors import PayloadError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key
from fedlearn.server.book import REPAIRS
from fedlearn.server.journal import Journal
from fedlearn.server.observe import Log
from fedlearn.server.witness import outcome
from fedlearn.server.work import ModelMissing, WorkOrder, WorkResult, journal_key

# How often replies are looked for; a SuperNode looks for messages every 3 s (flwr 1.41).
POLL_S = 0.25

# How long a SuperNode may take to say which client it serves: it starts a process for
# that, which loads torch.
WHO_S = 60.0


class SuperLink:
    """Asks SuperNodes; a `fedlearn.server.work.WorkService`.

    nodes: client → SuperNode. unused: SuperNode → why it serves nobody.
    """

    def __init__(self, grid: Grid, brief: str, journal: Journal, log: Log) -> None:
        """Take the parts. brief: what a client builds model and data from, JSON."""
        self.grid = grid
        self.brief = brief
        self.journal = journal
        self.log = log
        self.nodes: dict[int, int] = {}
        self.unused: dict[int, str] = {}
        # The orders without a reply, by the id of the message that carries them.
        self._open: dict[str, WorkOrder] = {}
        # Those whose client lacks the model; they wait for `repair`.
        self._lacking: dict[tuple[int, Key], WorkOrder] = {}
        self._repairs: Counter[tuple[int, Key]] = Counter()
        self._events: deque[WorkResult | ModelMissing] = deque()
        self._due = 0.0
        self._deadline_s = 0.0
        # Answers that are missing until the batch ends.
        self._missing = 0

    def attending(self) -> list[int]:
        """Return the clients whose SuperNodes are connected, sorted.

        New SuperNodes are asked whom they serve.
        """
        connected = set(self.grid.get_node_ids())
        self.nodes = {
            client: node for client, node in self.nodes.items() if node in connected
        }
        unknown = sorted(connected - set(self.nodes.values()) - set(self.unused))
        contents = {node: question(self.brief, None, ()) for node in unknown}
        pending = self._push(contents, "train", WHO_S)
        due = time.monotonic() + WHO_S
        while pending and time.monotonic() < due:
            for reply in self._pull(pending):
                node = pending.pop(reply.metadata.reply_to_message_id)
                self._introduce(node, reply)
        return sorted(self.nodes)

    def ask(self, orders: Sequence[WorkOrder], deadline_s: float, enough: int) -> None:
        """Open a batch; its answers come by `next`.

        It ends after deadline_s, or when ``enough`` have answered.
        """
        attending = self.attending()
        self._deadline_s = deadline_s
        self._due = time.monotonic() + deadline_s
        self._missing = enough
        self._repairs.clear()
        served = []
        for order in orders:
            if order.client in attending:
                served.append(order)
            else:
                self._fail(
                    order,
                    "no SuperNode serves it: start one with "
                    f"--node-config 'partition-id={order.client}'",
                )
        self._send(served)

    def next(self) -> WorkResult | ModelMissing:
        """Return what comes next. Raises RecordError when the journal cannot be written."""
        while not self._events:
            for reply in self._pull(self._open):
                order = self._open.pop(reply.metadata.reply_to_message_id)
                self._take(order, reply)
            if time.monotonic() > self._due:
                self._end("the deadline of its round has passed")
        return self._events.popleft()

    def repair(
        self, client: int, key: Key, task: pb.Task, payloads: tuple[bytes, ...]
    ) -> None:
        """Answer `ModelMissing`."""
        order = self._lacking.pop((client, key), None)
        # The batch may have ended meanwhile.
        if order is not None:
            self._send([WorkOrder(client, key, task, payloads, order.check)])

    def refuse(self, client: int, key: Key, reason: str) -> None:
        """Note that an answer is not used; Flower has no way to tell the client."""
        self.log("refused", client, key, reason)

    def recall(self, client: int, key: Key, data: bytes) -> None:
        """Do nothing: nobody sends an answer again that the journal holds."""

    def forget(self, before: int) -> None:
        """Do nothing: answers are in the journal only."""

    def _introduce(self, node: int, reply: Message) -> None:
        """Note which client a SuperNode serves."""
        try:
            if reply.has_error():
                raise PayloadError(reply.error.reason)
            client = int(read_reply(reply.content)[0]["client"])
        except (PayloadError, KeyError) as error:
            self.unused[node] = str(error)
            self.log("turned away", text=f"SuperNode {node}: {error}")
            return
        if client in self.nodes:
            self.log.note(
                f"two SuperNodes serve client {client}; "
                "the one that came last does from now on"
            )
            self.unused[self.nodes[client]] = "another SuperNode serves its client"
        self.nodes[client] = node
        self.log("attended", client, attending=len(self.nodes))

    def _send(self, orders: Sequence[WorkOrder]) -> None:
        by_node = {self.nodes[order.client]: order for order in orders}
        # Sorted: Flower's message types are pushed apart, and a run should repeat.
        for kind in sorted({order.key[1] for order in orders}):
            contents = {
                node: question(self.brief, order.task, order.payloads)
                for node, order in by_node.items()
                if order.key[1] == kind
            }
            pushed = self._push(contents, kind, self._deadline_s)
            for message, node in pushed.items():
                self._open[message] = by_node[node]
            for node in contents.keys() - set(pushed.values()):
                self._fail(by_node[node], "its SuperNode left")
        for order in orders:
            total = sum(map(len, order.payloads))
            self.log("asked", order.client, order.key, bytes=total)

    def _push(
        self, contents: Mapping[int, RecordDict], kind: str, ttl_s: float
    ) -> dict[str, int]:
        """Send each SuperNode its content; return message id → SuperNode.

        A SuperNode that has left gets no message, and Flower gives "" as its id.
        """
        messages = [
            Message(content, node, kind, ttl=ttl_s)
            for node, content in contents.items()
        ]
        if not messages:
            return {}
        ids = self.grid.push_messages(messages)
        pairs = zip(ids, contents, strict=False)
        return {message: node for message, node in pairs if message}

    def _pull(self, pending: Mapping[str, object]) -> Iterable[Message]:
        """Return the replies to pending messages; when there is none, after a moment."""
        replies: list[Message] = []
        if pending:
            replies = list(self.grid.pull_messages(list(pending)))
        if not replies:
            time.sleep(POLL_S)
        return replies

    def _take(self, order: WorkOrder, reply: Message) -> None:
        """Take a reply: on disk first, counted then."""
        try:
            if reply.has_error():
                raise PayloadError(reply.error.reason)
            facts, data = read_reply(reply.content)
            if facts.get("lacking"):
                self._note_lacking(order)
                return
            if data is None:
                raise PayloadError("the reply has no payload")
            fault = order.check(data)
            if fault is not None:
                raise PayloadError(fault)
        except PayloadError as error:
            self._fail(order, str(error))
            return
        meta = {
            "kind": "answer",
            "client": order.client,
            "key": journal_key(order.client, order.key),
            "work": list(order.key),
        }
        self.journal.append(meta, data).result()
        self.log("answered", order.client, order.key, bytes=len(data))
        self._events.append(WorkResult(order.client, order.key, data))
        self._missing -= 1
        if not self._missing:
            self._end("enough others answered before")

    def _note_lacking(self, order: WorkOrder) -> None:
        """Have a client sent the model that it lacks."""
        place = (order.client, order.key)
        self._repairs[place] += 1
        # One that forgets everything would be sent the model for ever.
        if self._repairs[place] > REPAIRS:
            self._fail(
                order,
                "it lacks the model that it was sent: "
                "its SuperNode does not keep the context's state",
            )
            return
        self.log(
            "lacking",
            order.client,
            order.key,
            "the model that the difference starts from; it is sent",
        )
        self._lacking[place] = order
        self._events.append(ModelMissing(order.client, order.key))

    def _end(self, reason: str) -> None:
        """End the batch: what comes later is left with the SuperLink."""
        for order in (*self._open.values(), *self._lacking.values()):
            self._fail(order, f"late: {reason}")
        self._open = {}
        self._lacking = {}

    def _fail(self, order: WorkOrder, reason: str) -> None:
        self.log(outcome(reason), order.client, order.key, reason)
        self._events.append(WorkResult(order.client, order.key, failure=reason))
