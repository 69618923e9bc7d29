"""`SimulationGrid`: Flower's Grid over the clients of this machine.

Every broadcast and every update goes through encode → bytes → decode, as on the wire, and is counted there. Our
own strategies get decoded updates one by one as they come; others get Flower's arrays, in the order of the nodes,
so that float sums do not depend on arrival.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedlearn.arrays import Change, Layout, Sparse, State
from fedlearn.codec import codec, feedback
from fedlearn.engine.runner import Outcome, Slots, Summed, Task
from fedlearn.engine.serial import Engine
from fedlearn.errors import PayloadError, RunError
from fedlearn.flower import (
    ERROR_CODE,
    EXAMPLES,
    Received,
    attach,
    for_strategy,
    to_state,
)
from fedlearn.memory.downlink import Downlink, Published
from fedlearn.memory.states import States
from fedlearn.memory.vectors import NONE, ClientVectors
from fedlearn.plan import Plan
from fedlearn.strategies.aggregate import ExactSum
from fedlearn.wire import FRESH, GRADIENT, UPDATE, decode

_MOST_ASKED = 5  # times in a row that a strategy may ask for the nodes before we say that it waits for more of them


@dataclass
class Tally:
    """What happened since the round began; seconds by phase, bytes as encoded."""

    clients: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    bytes_raw: int = 0
    messages_up: int = 0
    messages_down: int = 0
    whole_models: int = (
        0  # sent where a difference was to be sent, and would have done no good
    )
    damaged: int = (
        0  # clients whose copy or residual on disk was not what had been written
    )
    codec_s: dict[str, float] = field(
        default_factory=dict
    )  # up_encode, up_decode, down (both ends of it, and the copies)
    training_s: float = (
        0.0  # local training summed over clients, divided by the workers
    )
    seconds: dict[str, float] = field(default_factory=dict)

    def spend(self, phase: str, seconds: float) -> None:
        """Add seconds to a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def code(self, what: str, seconds: float) -> None:
        """Add seconds to a part of the codecs' work."""
        self.codec_s[what] = self.codec_s.get(what, 0.0) + seconds


@dataclass(frozen=True)
class _Sent:
    """One model as it was sent, and the message of each node."""

    model: Published
    state: State  # before it was published: what the strategy sent
    messages: dict[int, Message]


class SimulationGrid(Grid):
    """The clients of one experiment, as Flower nodes; a node's id is its client's number."""

    def __init__(
        self,
        engine: Engine,
        layout: Layout,
        clients: int,
        plan: Callable[[int, dict[str, Any]], Plan],
        downlink: Downlink,
        initial: NDArray[np.float32],
        payloads: bool,
        states: States | None = None,
        residuals: ClientVectors | None = None,
        on_client: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Take the engine and what the messages need.

        plan: (round, the strategy's config) → the plan of that round. initial: the first model's floats (P,).
        payloads: give decoded updates one by one. states: of clients that are Flower ClientApps, which keep one each.
        residuals: of clients with error feedback. on_client: called as (done, total).
        """
        self.engine, self.layout, self.clients, self.downlink, self.initial = (
            engine,
            layout,
            clients,
            downlink,
            initial,
        )
        self.plan, self.payloads, self.states, self.residuals, self.on_client = (
            plan,
            payloads,
            states,
            residuals,
            on_client,
        )
        self.tally = Tally()
        # Flower's strategies make two lists of all nodes each round: of a million, 8 ms out of a tuple and 95 out of a range.
        self.nodes: Sequence[int] = (
            range(clients) if payloads else tuple(range(clients))
        )
        self.round = 0
        self._asked = 0
        self._run: Any = None
        self._kept: dict[str, Message] = {}

    def begin(self, round: int) -> None:
        """Start a round with an empty tally."""
        self.round, self.tally, self._asked = round, Tally(), 0
        if self.residuals:
            self.residuals.settle()

    def begin_attempt(self) -> None:
        """Start another attempt of the round: its bytes and seconds add up, its clients count anew.

        No model took the updates of the attempt before, so the residuals that they left are not those of the clients.
        """
        self.tally.clients, self.tally.failures, self._asked = 0, {}, 0
        if self.residuals:
            self.residuals.undo()

    def failures(self) -> dict[int, str]:
        """Return the reasons of the clients that failed in this round."""
        return self.tally.failures

    def leave_out(self, client: int, reason: str) -> None:
        """Note that a client's update is not used after all, so that its residual stays what it was."""
        self.tally.failures.setdefault(client, reason)
        if self.residuals:
            self.residuals.undo(client)

    @property
    def run(self) -> Any:
        """Return Flower's run, as set."""
        return self._run

    def set_run(self, run: Any) -> None:
        """Keep Flower's run; a simulation has no use for it."""
        self._run = run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients that can be asked. Raises RunError for a strategy that waits for more nodes than there are."""
        found = self.engine.available(self.round)
        if found is not None:  # more may come
            return found
        self._asked += 1
        if self._asked > _MOST_ASKED:
            raise RunError(
                f"the strategy waits for more clients than the {self.clients} of this experiment; lower its "
                "min_available_nodes, min_train_nodes and min_evaluate_nodes, or add clients"
            )
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the messages' clients now and keep their replies; returns the ids to pull them by."""
        ids = []
        for reply in self.send_and_receive(messages):
            ids.append(f"{self.round}-{reply.metadata.src_node_id}-{len(self._kept)}")
            self._kept[ids[-1]] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that were kept under these ids, once."""
        return [self._kept.pop(i) for i in list(message_ids) if i in self._kept]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Yield a reply or an error reply for each message.

        A client that fails, diverges or sends what a decoder refuses gives an error reply with the reason.
        ``timeout`` does not apply: every client of a simulation answers.
        """
        self._asked = 0
        replies = self._replies(list(messages))
        return (
            replies
            if self.payloads
            else sorted(replies, key=lambda m: m.metadata.src_node_id)
        )

    def _replies(self, messages: list[Message]) -> Iterator[Message]:
        done, total = 0, len(messages)
        for sent in self._encode(messages):
            kinds = {m.metadata.message_type for m in sent.messages.values()}
            for kind in sorted(kinds):
                for reply in self._work(kind, sent):
                    done += 1
                    self.on_client(done, total)
                    yield reply

    def _encode(self, messages: list[Message]) -> Iterator[_Sent]:
        """Yield each distinct model among the messages, encoded once, with the messages that carry it."""
        groups: dict[int, list[Message]] = {}
        for message in messages:
            groups.setdefault(id(_arrays(message)), []).append(message)
        for place, group in enumerate(groups.values()):
            begun = time.perf_counter()
            state = to_state(self.layout, _arrays(group[0]))
            trained = (
                self.round
                if group[0].metadata.message_type == "evaluate"
                else self.round - 1
            )
            model = self.downlink.publish(self.round, place, state, trained)
            published = time.perf_counter() - begun
            self.tally.spend("prepare", published)
            self.tally.code("down", published)
            yield _Sent(model, state, {m.metadata.dst_node_id: m for m in group})

    def _work(self, kind: str, sent: _Sent) -> Iterator[Message]:
        messages = {
            n: m for n, m in sent.messages.items() if m.metadata.message_type == kind
        }
        tasks = [self._task(node, message) for node, message in messages.items()]
        train = kind == "train"
        self.tally.bytes_raw += len(tasks) * self.layout.raw_bytes
        self.tally.clients += len(tasks) if train else 0
        workers = min(self.engine.workers, max(1, len(tasks)))
        asked = {task.client: task for task in tasks}
        for outcome in self.engine.run(tasks, sent.model.payload):
            task = asked[outcome.client]
            self.tally.bytes_down += outcome.bytes_down
            self.tally.messages_down += 1
            self.tally.whole_models += outcome.fallback or sent.model.fallback
            self.tally.damaged += outcome.damaged
            self.tally.code("down", outcome.receive_s)
            self.tally.code("up_encode", outcome.encode_s)
            if outcome.base:
                self.downlink.received(
                    outcome.client, self.round, task.link, outcome.base
                )
            phase = "train" if train else "evaluate"
            self.tally.spend(phase, outcome.train_s / workers)
            self.tally.spend("prepare", outcome.receive_s / workers)
            self.tally.spend("encode", outcome.encode_s / workers)
            self.tally.training_s += outcome.train_s / workers if train else 0.0
            if self.states and outcome.state is not None:
                self.states.put(outcome.client, outcome.state)
            begun = time.perf_counter()
            reply = self._reply(messages[outcome.client], task, outcome, sent)
            self.tally.spend("aggregate", time.perf_counter() - begun)
            yield reply

    def _task(self, node: int, message: Message) -> Task:
        configs = {
            name: dict(record)
            for name, record in message.content.config_records.items()
        }
        flat = {k: v for values in configs.values() for k, v in values.items()}
        plan = self.plan(self.round, flat)
        kind = message.metadata.message_type
        attempt: Any = flat.get("attempt", 0)
        link = self.downlink.link(node, self.round, kind, attempt)
        kept = self.residuals
        residual = Slots(*kept.newest(node), kept.free(node)) if kept else None
        task = Task(
            node,
            kind,
            plan,
            link=link,
            download=self.downlink.download(node),
            residual=residual,
        )
        if self.states is None:
            return task
        name = next(iter(message.content.array_records))
        return replace(
            task,
            config={"configs": configs, "arrays": name},
            state=self.states.get(node),
        )

    def _reply(
        self, message: Message, task: Task, outcome: Outcome, sent: _Sent
    ) -> Message:
        train = task.kind == "train"
        if outcome.error is not None:
            return self._failed(message, outcome.client, outcome.error, train)
        if not train:
            return Message(
                RecordDict({"metrics": MetricRecord(dict(outcome.metrics))}),
                reply_to=message,
            )
        self.tally.bytes_up += outcome.bytes_up
        self.tally.messages_up += 1
        self.tally.bytes_raw += self.layout.raw_bytes
        begun = time.perf_counter()
        try:
            received = self._receive(task, outcome, sent)
        except PayloadError as error:
            self.engine.refused(outcome.client, str(error))
            return self._failed(message, outcome.client, str(error), train)
        self.tally.code("up_decode", time.perf_counter() - begun)
        if self.residuals and task.residual and outcome.residual:
            self.residuals.wrote(outcome.client, task.residual.into, outcome.residual)
        reply = self._content(message, received, sent)
        return attach(reply, received) if self.payloads else reply

    def _receive(self, task: Task, outcome: Outcome, sent: _Sent) -> Received:
        """Return a checked update; raises PayloadError when it must not be aggregated."""
        if outcome.summed:
            return self._of_sum(outcome.client, outcome.summed)
        _, asked = feedback(task.plan.codec)
        moved = (
            self._start(outcome.client, sent) - self.initial
            if codec(asked).uses_moved
            else None
        )
        header, change = decode(
            self.layout, outcome.payload or b"", (UPDATE, GRADIENT), moved, asked
        )
        base = outcome.base
        if base is None or (header.round, header.digest) != (
            base.round,
            base.digest,
        ):
            raise PayloadError(
                "the update started from another model than the one sent"
            )
        if header.examples < 1:
            raise PayloadError("the update reports 0 examples; it would weigh nothing")
        if header.residual == FRESH and task.residual and task.residual.slot != NONE:
            self.tally.damaged += 1
        ExactSum(0, 0, len(sent.messages)).check(change, header.examples)
        return Received(outcome.client, header, change)

    def _of_sum(self, client: int, summed: Summed) -> Received:
        """Return an update that is part of a sum, which stands with one client of it."""
        nothing = Sparse(
            np.empty(0, np.int64), np.empty(0, np.float32), self.layout.floats
        )
        floats = nothing if summed.floats is None else summed.floats
        return Received(
            client,
            summed.header,
            Change(floats, np.zeros(self.layout.integers, np.int64)),
            summed=True,
        )

    def _content(self, message: Message, received: Received, sent: _Sent) -> Message:
        header = received.header
        told = {} if header.train_loss is None else {"train_loss": header.train_loss}
        metrics = MetricRecord({EXAMPLES: header.examples, **told, **header.metrics})
        content = RecordDict({"metrics": metrics})
        if not self.payloads:
            change = received.difference  # added to the strategy's own model: what a client's copy lacks is no part of its update
            end = State(
                change.after(sent.state.floats), sent.state.integers + change.integers
            )
            content["arrays"] = for_strategy(self.layout, end)
        return Message(content, reply_to=message)

    def _start(self, client: int, sent: _Sent) -> NDArray[np.float32]:
        """Return the model (P,) that a client started from."""
        return self.downlink.start(client, sent.model)

    def _failed(
        self, message: Message, client: int, reason: str, train: bool
    ) -> Message:
        if train:
            self.tally.failures[client] = reason
        return Message(Error(code=ERROR_CODE, reason=reason), reply_to=message)


def _arrays(message: Message) -> ArrayRecord:
    records = list(message.content.array_records.values())
    if len(records) != 1:
        raise RunError(
            f"the strategy sent a message with {len(records)} ArrayRecords; one model is expected"
        )
    return records[0]
