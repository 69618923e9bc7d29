"""`RunGrid`: Flower's Grid over the clients of one run, simulated or real.

Every broadcast and every update goes through encode → bytes → decode, as on the wire, and
is counted there. Our own strategies get decoded updates one by one as they come; others get
Flower's arrays, in the order of the nodes, so that float sums do not depend on arrival.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from flwr.app import Error, Message, MetricRecord, RecordDict

from fedlearn.arrays import State
from fedlearn.engine.task import AppAnswer, Outcome, Task
from fedlearn.errors import PayloadError, RecordError, RunError, reason_of
from fedlearn.flower import ERROR_CODE, OwnGrid, Received, to_state
from fedlearn.memory.downlink import Published
from fedlearn.plan import is_training
from fedlearn.runs import reports
from fedlearn.runs.answering import (
    Content,
    Needs,
    Replies,
    records_of,
    with_finite_metrics,
)
from fedlearn.runs.bounding import bounds_of
from fedlearn.runs.layers import Site, Stack
from fedlearn.runs.letters import Letter, Letters, named, turns
from fedlearn.runs.node_waits import NodeWaits
from fedlearn.runs.receiving import Receiver
from fedlearn.runs.requests import Requests, configs_of
from fedlearn.runs.tally import RoundTally
from fedlearn.strategies.aggregate import check_range
from fedlearn.strategies.cohorts import takes_payloads
from fedlearn.strategies.train_config import ATTEMPT
from fedlearn.text import shortened


@dataclass(frozen=True)
class _Broadcast:
    """One model as it was sent, and the messages that it was sent with.

    state: what the strategy sent, before it was published. Messages without a model have
    neither.
    """

    model: Published | None
    state: State | None
    letters: list[Letter]


class RunGrid(OwnGrid):
    """The clients of one run, as Flower nodes; a node's id is its client's number."""

    def __init__(
        self,
        site: Site,
        stack: Stack,
        on_client: Callable[[int, int], None] = lambda done, total: None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Take the parts of the run and its engine.

        on_client: called as (done, total). note: called with what a user should know.
        """
        self.settled = site.settled
        self.memory = site.memory
        self.downlink = site.memory.downlink
        self.layout = site.parts.layout
        self.engine = stack.engine
        self.choose = stack.choose
        # Our own strategies add decoded updates as they come; others take Flower's
        # arrays.
        self.payloads = takes_payloads(site.parts.strategy)
        self.on_client = on_client
        self.note = note
        app = site.parts.app
        reads_plan = app is None or app.reads_plan
        self._requests = Requests(reads_plan, app is not None, note)
        self._letters = Letters(self.layout, app is not None, not reads_plan)
        self._answers = Replies(self.layout, self.payloads)
        # What a reply to training must have of arrays, for this strategy.
        self._needs = Needs(site.parts.strategy)
        # Agents know training and evaluation; SuperNodes have an app of their own.
        self._takes_any_kind = app is not None or stack.has_apps
        self.clients = site.parts.clients
        # Flower's strategies make two lists of all nodes each round. Of a million nodes
        # that takes 8 ms out of a tuple, and 95 ms out of a range.
        nodes = range(self.clients)
        self.nodes: Sequence[int] = nodes if self.payloads else tuple(nodes)
        self.round = 0
        self.tally = RoundTally()
        self.bounds = bounds_of(site, note, self.engine.remark)
        # Updates that wait for their cohort: client → its task, and what it keeps.
        self._waiting: dict[int, tuple[Task, Mapping[str, bytes]]] = {}
        self._receiver = Receiver(
            self.layout,
            self.downlink,
            site.parts.initial.floats,
            reports.weight_key(site.parts.strategy),
        )
        self._attempt = 0
        # Whether a cohort is being made: only then are the chosen clients offered.
        self._choosing = False
        self._waiting_for_nodes = NodeWaits()
        self._replies: dict[str, Message] = {}
        # Messages of this round, which are numbered.
        self._sent = 0

    def begin(self, round: int) -> None:
        """Start a round with an empty tally."""
        self.round = round
        self.tally = RoundTally()
        self._attempt = 0
        self._choosing = True
        self._sent = 0
        self._waiting_for_nodes.end()
        # A round that begins makes what the clients kept in the last one final.
        self.memory.settle()
        self.bounds.begin()

    def begin_attempt(self) -> None:
        """Start another attempt of the round.

        No model took the updates of the attempt before, so what they left with the
        clients is void.
        """
        self.tally.repeat()
        self._attempt += 1
        self._choosing = True
        self._waiting_for_nodes.end()
        self.memory.undo()
        self.bounds.repeat()

    def failures(self) -> dict[int, str]:
        """Return the reasons of the clients that failed in this round."""
        return self.tally.failures

    def leave_out(self, client: int, reason: str) -> None:
        """Note that a client's update is not used, so that its memory stays what it was."""
        # The first reason is the cause; later ones follow from it.
        self.tally.failures.setdefault(client, shortened(reason))
        self.memory.undo(client)

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients that can be asked; while a cohort is made, the chosen ones.

        Raises RunError for a strategy that waits for more nodes than there are.
        """
        # Asked always: it also counts how often a strategy asks in vain.
        nodes = self._available()
        if self.choose and self._choosing:
            return self.choose(self.round, self._attempt)
        return nodes

    def _available(self) -> Iterable[int]:
        clients = self.engine.available(self.round)
        if clients is not None:
            # Real ones, of whom more may come: a strategy may wait for them.
            return clients
        # Flower sleeps between two such questions, for ever where no node can come.
        if self._waiting_for_nodes.asked():
            raise RunError(
                f"the strategy waits for more clients than the {self.clients} of this "
                "experiment; lower its min_available_nodes, min_train_nodes and "
                "min_evaluate_nodes, or add clients"
            )
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the messages' clients now; returns the ids to pull their replies by."""
        letters = self._named(messages)
        for reply in self._in_order(letters):
            self._replies[reply.metadata.reply_to_message_id] = reply
        return [message.metadata.message_id for message in letters]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies of these ids, once."""
        ids = list(message_ids)
        return [self._replies.pop(name) for name in ids if name in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Yield a reply or an error reply for each message.

        A client that fails, diverges or sends what a decoder refuses gives an error reply
        with the reason. ``timeout`` does not apply: the engine ends a round by itself.
        """
        return self._in_order(self._named(messages))

    def _named(self, messages: Iterable[Message]) -> list[Message]:
        """Return messages with ids of their own, the same ones in a run that repeats."""
        self._choosing = False
        self._waiting_for_nodes.end()
        numbered = named(list(messages), self.round, self._sent)
        self._sent += len(numbered)
        return numbered

    def _in_order(self, messages: list[Message]) -> Iterable[Message]:
        replies = self._all_replies(messages)
        if self.payloads:
            return replies
        # Flower's strategies add float32 models in this order: arrival must not matter.
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def _all_replies(self, messages: list[Message]) -> Iterator[Message]:
        done = 0
        for broadcast in self._broadcasts(self._letters.read(messages)):
            # In a fixed order, so that a run repeats whatever order a strategy pushed.
            for kind in sorted({letter.kind for letter in broadcast.letters}):
                letters = [
                    letter for letter in broadcast.letters if letter.kind == kind
                ]
                for reply in self._replies_of(
                    kind, replace(broadcast, letters=letters)
                ):
                    done += 1
                    self.on_client(done, len(messages))
                    yield reply

    def _broadcasts(self, letters: list[Letter]) -> Iterator[_Broadcast]:
        """Yield each distinct model among the messages, encoded once, with its messages."""
        groups: dict[int | None, list[Letter]] = {}
        for letter in letters:
            self._check(letter)
            # By identity: a strategy sends all nodes the same record, and comparing models
            # value by value would cost as much as encoding them.
            key = None if letter.arrays is None else id(letter.model)
            groups.setdefault(key, []).append(letter)
        for place, group in enumerate(groups.values()):
            yield self._published(place, group)

    def _published(self, place: int, letters: list[Letter]) -> _Broadcast:
        record = letters[0].model
        if record is None:
            return _Broadcast(None, None, letters)
        begun = time.perf_counter()
        state = to_state(self.layout, record)
        # A model that is evaluated has this round's training in it already.
        evaluated = letters[0].kind == "evaluate"
        trained = self.round if evaluated else self.round - 1
        model = self.downlink.publish(self.round, place, state, trained)
        self.tally.publish(time.perf_counter() - begun)
        return _Broadcast(model, state, letters)

    def _check(self, letter: Letter) -> None:
        """Raise RunError for a message that no client can take."""
        if not 0 <= letter.node < self.clients:
            raise RunError(
                f"the strategy sends a message to node {letter.node} in round "
                f"{self.round}; the nodes are 0 to {self.clients - 1}"
            )
        is_ours = letter.kind == "evaluate" or is_training(letter.kind)
        if not is_ours and not self._takes_any_kind:
            raise RunError(
                f"the strategy sends a message of type '{letter.kind}' in round "
                f"{self.round}, which only an app of yours answers: name it in "
                "[client] app"
            )

    def _replies_of(self, kind: str, broadcast: _Broadcast) -> Iterator[Message]:
        """Yield the replies to a broadcast's messages of one kind, as they come."""
        for turn in turns(broadcast.letters):
            yield from self._replies_to(kind, turn, broadcast)

    def _replies_to(
        self, kind: str, turn: Mapping[int, list[Letter]], broadcast: _Broadcast
    ) -> Iterator[Message]:
        """Yield the replies to messages of which each node has one, or some alike."""
        # One task for all messages to a node: they are alike, and so is what comes of them.
        tasks = {node: self._task(node, letters[0]) for node, letters in turn.items()}
        train = is_training(kind)
        raw_bytes = self.layout.raw_bytes if broadcast.model else 0
        self.tally.ask(len(tasks), raw_bytes, train)
        # A cohort smaller than the pool keeps only some workers busy.
        workers = min(self.engine.workers, max(1, len(tasks)))
        if train:
            self.bounds.open(len(tasks))
            self._waiting = {}
        payload = broadcast.model.payload if broadcast.model else b""
        outcomes = self.engine.run(list(tasks.values()), payload)
        for number, outcome in enumerate(outcomes, 1):
            client = outcome.client
            task = tasks[client]
            outcome = self._noted(task, outcome, broadcast, workers)
            begun = time.perf_counter()
            content = self._content(task, outcome, broadcast)
            replies = self._replies_with(content, turn[client], broadcast)
            self.tally.seconds["aggregate"] += time.perf_counter() - begun
            yield from replies
            # Before the engine ends: a fleet then writes down whose answers count.
            if train and number == len(tasks):
                yield from self._held_replies(turn, broadcast)

    def _noted(
        self, task: Task, outcome: Outcome, broadcast: _Broadcast, workers: int
    ) -> Outcome:
        """Note what an outcome cost and what its client keeps, whatever comes of the reply."""
        fallback = broadcast.model is not None and broadcast.model.fallback
        self.tally.download(outcome, fallback, task.beside_bytes)
        self.tally.work(outcome, workers, task.trains)
        if outcome.base:
            # It has the model even if its work failed after the download.
            self.downlink.received(outcome.client, task.slots, outcome.base)
        states = self.memory.states
        if not states or outcome.state is None:
            return outcome
        try:
            # Flower keeps a context whatever the strategy does.
            states.put(outcome.client, outcome.state)
        except RecordError:  # the disk's failure, not the client's
            raise
        # An app may have put anything there.
        except Exception as error:
            reason = f"its context.state cannot be kept: {reason_of(error)}"
            return replace(outcome, payload=None, answer=None, error=reason)
        return outcome

    def _task(self, node: int, letter: Letter) -> Task:
        changes = self._requests.changes(configs_of(letter.message))
        attempt = changes.get(ATTEMPT, 0)
        plan = self.settled.plan(self.round, self._requests.for_plan(changes))
        task = Task(node, letter.kind, plan)
        if letter.arrays is not None:
            task = replace(
                task,
                slots=self.memory.slots(node),
                delivery=self.downlink.delivery(node, self.round, task.kind, attempt),
                download=self.downlink.download(node),
            )
        states = self.memory.states
        if states is None:
            return task
        return replace(task, envelope=letter.envelope(), state=states.get(node))

    def _held_replies(
        self, turn: Mapping[int, list[Letter]], broadcast: _Broadcast
    ) -> Iterator[Message]:
        """Yield the replies that waited for their cohort, now that it is complete."""
        for client, received, fault in self.bounds.close():
            task, kept = self._waiting.pop(client)
            content: Content
            if received is None:
                content = self._refused(client, fault)
            else:
                content = self._accepted(task, received, kept, broadcast)
            yield from self._replies_with(content, turn[client], broadcast)

    def _content(
        self, task: Task, outcome: Outcome, broadcast: _Broadcast
    ) -> Content | None:
        """Return what a client's replies hold; None: it waits for the rest of its cohort."""
        if outcome.error is not None:
            return self._failed(outcome.client, outcome.error, task.trains)
        if outcome.payload is None and outcome.answer is not None:
            return self._answered(task, outcome, outcome.answer)
        if not task.trains:
            metrics, unusable = reports.finite(outcome.metrics)
            self.tally.note_unusable(outcome.client, unusable)
            return RecordDict({"metrics": MetricRecord(metrics)})
        return self._updated(task, outcome, broadcast)

    def _answered(self, task: Task, outcome: Outcome, answer: AppAnswer) -> Content:
        """Return the records that a ClientApp answered in the place of an update."""
        client = outcome.client
        self.tally.upload(outcome.bytes_up, outcome.bytes_up)
        try:
            records = records_of(answer)
            if task.trains:
                self._needs(client, records)
        except PayloadError as error:
            return self._failed(client, str(error), task.trains)
        if task.kind != "evaluate":
            return records
        records, unusable = with_finite_metrics(records)
        self.tally.note_unusable(client, unusable)
        return records

    def _updated(
        self, task: Task, outcome: Outcome, broadcast: _Broadcast
    ) -> Content | None:
        """Return a decoded update; None: it waits for the rest of its cohort."""
        assert broadcast.model is not None
        assert broadcast.state is not None
        beside_bytes = len(outcome.answer.records) if outcome.answer else 0
        raw_bytes = self.layout.raw_bytes + beside_bytes
        self.tally.upload(outcome.bytes_up, raw_bytes)
        client = outcome.client
        begun = time.perf_counter()
        try:
            received = self._receiver.receive(
                task, outcome, broadcast.model, broadcast.state
            )
        except PayloadError as error:
            return self._refused(client, str(error))
        self.tally.codec_s["up_decode"] += time.perf_counter() - begun
        free = self.bounds.take(self.bounds.capped(received))
        if free is None:
            self._waiting[client] = (task, outcome.kept)
            return None
        return self._accepted(task, free, outcome.kept, broadcast)

    def _accepted(
        self,
        task: Task,
        received: Received,
        kept: Mapping[str, bytes],
        broadcast: _Broadcast,
    ) -> Received | Error:
        """Return an update that counts, and keep of its client what the run remembers."""
        cohort = len(broadcast.letters)
        try:
            # Here and not in the sum: a refused update is its client's failure, by name.
            if not received.summed:
                check_range(received.difference, received.examples, cohort)
        except PayloadError as error:
            return self._refused(received.client, str(error))
        self.tally.damaged += self._receiver.lost_residual(task, received)
        self.tally.note_unusable(received.client, received.header.unusable)
        # Only now: of a refused update nothing is carried over.
        self.memory.keep(received.client, task.slots, kept)
        return received

    def _refused(self, client: int, reason: str) -> Error:
        # A real agent would otherwise go on as if its update counted.
        self.engine.refused(client, reason)
        return self._failed(client, reason, True)

    def _failed(self, client: int, reason: str, train: bool) -> Error:
        # Whoever says it: a strategy, an agent or a user's code.
        reason = shortened(reason)
        # An evaluation that fails costs a figure, and no update.
        if train:
            self.tally.failures[client] = reason
        return Error(code=ERROR_CODE, reason=reason)

    def _replies_with(
        self, content: Content | None, letters: list[Letter], broadcast: _Broadcast
    ) -> list[Message]:
        """Return the replies to a client's messages; none while it waits for its cohort."""
        if content is None:
            return []
        state = broadcast.state
        return [self._answers.reply(letter, content, state) for letter in letters]
