"""A run on Flower's own engine: its SuperLink carries tasks and answers, all else is a fleet's (`fedlearn.engine.fleet`).

`SuperLink` does over Flower's Grid what `fedlearn.server.service` does over gRPC. A SuperNode's id is Flower's; it says itself
which client it serves, and is asked once.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedlearn.clients.app import question, read_reply
from fedlearn.codec import feedback
from fedlearn.config import EngineSection, Experiment
from fedlearn.engine.fleet import Fleet
from fedlearn.errors import ConfigError, PayloadError, RunError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key
from fedlearn.records.names import CLIENTS_FILE, JOURNAL_FOLDER, LOG_FILE, SUMMARY_FILE
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.fleets import with_fleet
from fedlearn.runs.layers import Site, Stack
from fedlearn.runs.simulation import simulate
from fedlearn.server.book import REPAIRS
from fedlearn.server.journal import Journal
from fedlearn.server.observe import Log
from fedlearn.server.witness import outcome, took_part
from fedlearn.server.work import (
    ModelMissing,
    WorkOrder,
    WorkResult,
    journal_key,
)

POLL_S = 0.25
"""How often replies are looked for; a SuperNode looks for messages every 3 s (flwr 1.41)."""

WHO_S = 60.0
"""How long a SuperNode may take to say which client it serves: it starts a process for that, which loads torch."""


class SuperLink:
    """Asks SuperNodes; a `fedlearn.server.work.WorkService`."""

    def __init__(self, grid: Grid, experiment: str, journal: Journal, log: Log) -> None:
        """Take the parts. experiment: what a client has to know to build model and data, JSON."""
        self.grid, self.experiment, self.journal, self.log = (
            grid,
            experiment,
            journal,
            log,
        )
        self.nodes: dict[int, int] = {}  # client → SuperNode
        self.unused: dict[int, str] = {}  # SuperNode → why it serves nobody
        self._open: dict[str, WorkOrder] = {}  # by the id of the message that asks
        self._lacking: dict[tuple[int, Key], WorkOrder] = {}
        self._repairs: Counter[tuple[int, Key]] = Counter()
        self._events: deque[WorkResult | ModelMissing] = deque()
        self._due = self._deadline_s = 0.0
        self._missing = 0  # answers until the batch ends

    def attending(self) -> list[int]:
        """Return the clients whose SuperNodes are connected, sorted; new ones are asked whom they serve."""
        here = set(self.grid.get_node_ids())
        self.nodes = {
            client: node for client, node in self.nodes.items() if node in here
        }
        new = sorted(here - set(self.nodes.values()) - set(self.unused))
        asked = self._push(
            {node: question(self.experiment, None, ()) for node in new}, "train", WHO_S
        )
        due = time.monotonic() + WHO_S
        while asked and time.monotonic() < due:
            for reply in self._pull(asked):
                self._introduce(asked.pop(reply.metadata.reply_to_message_id), reply)
        return sorted(self.nodes)

    def ask(self, orders: Sequence[WorkOrder], deadline_s: float, enough: int) -> None:
        """Open a batch; its answers come by `next`. It ends after deadline_s, or when ``enough`` have answered."""
        here = self.attending()
        self._deadline_s, self._due, self._missing = (
            deadline_s,
            time.monotonic() + deadline_s,
            enough,
        )
        self._repairs.clear()
        for work in orders:
            if work.client not in here:
                self._fail(
                    work,
                    f"no SuperNode serves it: start one with --node-config 'partition-id={work.client}'",
                )
        self._send([work for work in orders if work.client in here])

    def next(self) -> WorkResult | ModelMissing:
        """Return what comes next; raises RecordError when the journal cannot be written."""
        while not self._events:
            for reply in self._pull(self._open):
                self._take(self._open.pop(reply.metadata.reply_to_message_id), reply)
            if time.monotonic() > self._due:
                self._end("the deadline of its round has passed")
        return self._events.popleft()

    def repair(
        self, client: int, key: Key, task: pb.Task, payloads: tuple[bytes, ...]
    ) -> None:
        """Answer `ModelMissing`."""
        work = self._lacking.pop((client, key), None)
        if work is not None:
            self._send([WorkOrder(client, key, task, payloads, work.check)])

    def refuse(self, client: int, key: Key, reason: str) -> None:
        """Note that an answer is not used; the client is not told, Flower has no way to."""
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
                f"two SuperNodes serve client {client}; the one that came last does from now on"
            )
            self.unused[self.nodes[client]] = "another SuperNode serves its client"
        self.nodes[client] = node
        self.log("attended", client, attending=len(self.nodes))

    def _send(self, works: Sequence[WorkOrder]) -> None:
        by_node = {self.nodes[work.client]: work for work in works}
        contents = {
            node: question(self.experiment, work.task, work.payloads)
            for node, work in by_node.items()
        }
        for kind in {work.key[1] for work in works}:
            chosen = {
                node: content
                for node, content in contents.items()
                if by_node[node].key[1] == kind
            }
            sent = self._push(chosen, kind, self._deadline_s)
            self._open |= {message: by_node[node] for message, node in sent.items()}
            for node in chosen.keys() - set(sent.values()):
                self._fail(by_node[node], "its SuperNode left")
        for work in works:
            self.log("asked", work.client, work.key, bytes=sum(map(len, work.payloads)))

    def _push(
        self, contents: Mapping[int, RecordDict], kind: str, ttl_s: float
    ) -> dict[str, int]:
        """Send each SuperNode its content, and return them by the ids of their messages; some may not get any."""
        messages = [
            Message(content, node, kind, ttl=ttl_s)
            for node, content in contents.items()
        ]
        ids = self.grid.push_messages(messages) if messages else []
        return {
            message: node
            for message, node in zip(ids, contents, strict=False)
            if message
        }

    def _pull(self, asked: Mapping[str, object]) -> Iterable[Message]:
        """Return the replies that are here; when there is none, after a moment."""
        replies = list(self.grid.pull_messages(list(asked))) if asked else []
        if not replies:
            time.sleep(POLL_S)
        return replies

    def _take(self, work: WorkOrder, reply: Message) -> None:
        """Take a reply: on disk first, counted then."""
        try:
            if reply.has_error():
                raise PayloadError(reply.error.reason)
            said, data = read_reply(reply.content)
            if said.get("lacking"):
                self._lack(work)
                return
            if data is None:
                raise PayloadError("the reply has no payload")
            if (fault := work.check(data)) is not None:
                raise PayloadError(fault)
        except PayloadError as error:
            self._fail(work, str(error))
            return
        meta = {
            "kind": "answer",
            "client": work.client,
            "key": journal_key(work.client, work.key),
            "work": list(work.key),
        }
        self.journal.append(meta, data).result()
        self.log("answered", work.client, work.key, bytes=len(data))
        self._events.append(WorkResult(work.client, work.key, data))
        self._missing -= 1
        if not self._missing:
            self._end("enough others answered before")

    def _lack(self, work: WorkOrder) -> None:
        """Have a client sent the model that it lacks."""
        place = (work.client, work.key)
        self._repairs[place] += 1
        if self._repairs[place] > REPAIRS:
            self._fail(
                work,
                "it lacks the model that it was sent: its SuperNode does not keep the context's state",
            )
            return
        self.log(
            "lacking",
            work.client,
            work.key,
            "the model that the difference starts from; it is sent",
        )
        self._lacking[place] = work
        self._events.append(ModelMissing(work.client, work.key))

    def _end(self, reason: str) -> None:
        """End the batch: what comes later is left with the SuperLink."""
        for work in (*self._open.values(), *self._lacking.values()):
            self._fail(work, f"late: {reason}")
        self._open, self._lacking = {}, {}

    def _fail(self, work: WorkOrder, reason: str) -> None:
        self.log(outcome(reason), work.client, work.key, reason)
        self._events.append(WorkResult(work.client, work.key, failure=reason))


@dataclass
class OnFlower:
    """What a run on Flower's engine holds besides the run; called, it puts SuperNodes in the place of an engine's clients."""

    grid: Grid
    folder: RunFolder
    log: Log
    journal: Journal

    def layer(self, stack: Stack, site: Site) -> Stack:
        """Return a stack that asks SuperNodes."""
        section = site.settled.experiment.fleet
        clients = site.settled.clients
        brief = site.settled.brief.to_json()
        link = SuperLink(self.grid, brief, self.journal, self.log)
        wanted = section.min_agents or (clients if section.cohort == "all" else 1)
        fleet = Fleet(
            site.runner,
            stack.engine,
            link,
            self.journal,
            site.memory.downlink,
            section,
            ready=lambda: self._wait(link, min(clients, wanted), section.deadline_s),
        )
        return with_fleet(stack, site, fleet)

    def _wait(self, link: SuperLink, wanted: int, patience_s: float) -> None:
        """Wait for so many clients' SuperNodes; raises RunError when they do not come."""
        due = time.monotonic() + patience_s
        while len(here := link.attending()) < wanted:
            if time.monotonic() > due:
                why = "".join(
                    f"; SuperNode {node}: {reason}"
                    for node, reason in link.unused.items()
                )
                raise RunError(
                    f"{len(here)} of {wanted} clients have a SuperNode after {patience_s:g} s{why}. Start one for each client, with "
                    "--node-config 'partition-id=0' and so on, or set fleet.min_agents"
                )
            time.sleep(POLL_S)
        self.log.note(f"{len(here)} SuperNodes attend")

    def close(self) -> None:
        """Write who took part, and end the journal and the log."""
        self.journal.close()
        if table := took_part(self.journal):
            self.folder.write_json(CLIENTS_FILE, table)
        self.log.close()


def serve(
    experiment: Experiment,
    folder: RunFolder,
    display: Progress,
    resume: bool,
    grid: Grid,
) -> dict[str, Any]:
    """Run an experiment over the SuperNodes of a Grid, or go on with one, and return its summary; raises what `simulate` raises."""
    _check(experiment, resume)
    # Held-out samples are scored in this process: Flower runs threads in it already, and a fork would copy their locks.
    section = EngineSection(kind="serial", device=experiment.engine.device)
    experiment = experiment.model_copy(update={"engine": section})
    run = OnFlower(
        grid, folder, Log(folder.path / LOG_FILE), Journal(folder.path / JOURNAL_FOLDER)
    )
    try:
        summary = simulate(experiment, folder, display, resume, run.layer)
        summary["engine"] = "flower"
        folder.write_json(SUMMARY_FILE, summary)
    finally:
        run.close()
    return summary


def _check(experiment: Experiment, resume: bool) -> None:
    """Raise ConfigError for what does not work on Flower's engine."""
    if experiment.client.app or experiment.client.mods:
        raise ConfigError(
            "[client] app and mods do not apply under 'flwr run': name your ClientApp in pyproject.toml, as clientapp, with "
            "mods=[fedlearn.clients.app.payloads, …], or use fedlearn.clients.app.make(mods)"
        )
    if resume and feedback(experiment.codec.up)[0]:
        raise ConfigError(
            f"a run with codec.up = \"{experiment.codec.up}\" cannot be resumed under 'flwr run': SuperNodes forget what error "
            "feedback carries over when a run ends; start anew, or leave out ef+"
        )
