"""`Fleet`: real agents in the place of simulated clients.

To the Grid it is one more engine. What a client is sent is encoded here by the code of the simulation, what it answers is
encoded there by the code of the simulation: so a fleet gives the payloads and the model of a simulation, bit for bit.

Every answer goes through the journal, and so does the list of those that were counted: a coordinator that is killed counts
the same ones again without asking for them, and `fedlearn replay` can recompute a run.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlearn.arrays import State
from fedlearn.clients.evaluate import Score
from fedlearn.codec import canonical, feedback
from fedlearn.config import FleetSection
from fedlearn.devices.cohort import fastest
from fedlearn.engine.protocol import Engine
from fedlearn.engine.runner import Runner
from fedlearn.engine.task import Held, Outcome, Task, with_download
from fedlearn.errors import PayloadError, RecordError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, proto, residual_name
from fedlearn.memory.downlink import Downlink
from fedlearn.memory.slots import COPIES, RESIDUALS
from fedlearn.server.journal import Journal
from fedlearn.server.work import (
    ModelMissing,
    WorkOrder,
    WorkResult,
    WorkService,
    journal_key,
)
from fedlearn.system.failpoints import reach
from fedlearn.wire import GRADIENT, UPDATE, digest, encode_model, read_header

_DEFAULT = FleetSection()


@dataclass(frozen=True)
class Asked:
    """A task as it went out: its key, and the model that the client then holds."""

    task: Task
    key: Key
    held: Held
    message: pb.Task
    payloads: tuple[bytes, ...]


class Fleet:
    """See the module. ``workers`` is 1: an agent's seconds are its own."""

    workers = 1
    not_stacked = ""

    def __init__(
        self,
        runner: Runner,
        inner: Engine,
        service: WorkService | None,
        journal: Journal,
        downlink: Downlink,
        section: FleetSection = _DEFAULT,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the parts.

        inner: scores models on the coordinator's held-out samples. service: None where the
        journal alone answers (a replay). ready: called once before anybody is asked, and
        never in a run whose answers are all in the journal.
        """
        self.runner = runner
        self.inner = inner
        self.service = service
        self.journal = journal
        self.downlink = downlink
        self.section = section
        self._ready: Callable[[], None] | None = ready
        self._turns: Counter[tuple[int, int, str]] = Counter()
        self._calls: Counter[tuple[int, str]] = Counter()
        self._listed: Counter[int] = Counter()
        self._seconds: dict[
            int, float
        ] = {}  # client → from a question to its answer, the newest half of the mean
        self._last: dict[int, Key] = {}
        self._unused: dict[str, dict[int, str]] = {
            "refused": {},
            "without": {},
        }  # of the tasks that run: client → why
        self._initial = digest(runner.initial)

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task, as answers come."""
        if not tasks:
            return
        round, kind = tasks[0].plan.round, tasks[0].kind
        self._calls[round, kind] += 1
        closed = self._closed(round, kind)
        self._unused = {"refused": {}, "without": {}}
        waiting: dict[tuple[int, Key], Asked] = {}
        counted, ready = [], []
        for task in tasks:
            asked = self._prepare(task, payload)
            found = (
                self._journaled(asked)
                if closed is None or task.client in closed
                else None
            )
            if found is not None:
                counted.append(task.client)
                ready.append((asked, found))
            else:
                waiting[task.client, asked.key] = asked
        for asked, data in ready:
            if self.service:
                self.service.recall(asked.task.client, asked.key, data)
            yield self._outcome(asked, data)
        if closed is not None or self.service is None:
            for asked in waiting.values():
                yield self._without(asked, "it was not counted when this round was run")
            return
        self.service.forget(round - 1)
        enough = max(0, math.ceil(self.section.enough * len(tasks)) - len(ready))
        works = [self._work(asked) for asked in waiting.values()]
        if works and enough:
            self._wait()
            self.service.ask(works, self.section.deadline_s, enough)
            begun = time.monotonic()
        elif works:
            for asked in waiting.values():
                yield self._without(asked, "late: enough others answered before")
            waiting = {}
        while waiting:
            event = self.service.next()
            asked_for = waiting.get((event.client, event.key))
            if asked_for is None:
                continue
            if isinstance(event, ModelMissing):
                self._repair(asked_for, payload)
                continue
            del waiting[event.client, event.key]
            if event.data is not None and kind == "train":
                taken = time.monotonic() - begun
                self._seconds[event.client] = (
                    self._seconds.get(event.client, taken) + taken
                ) / 2
            yield self._answered(asked_for, event, counted)
        self._close(round, kind, counted)

    def available(self, round: int) -> list[int] | None:
        """Return who attends, where a strategy chooses among them: the same ones when a round is run again."""
        if self.section.cohort == "all":
            return None
        self._listed[round] += 1
        return self._noted(f"attending/{round}/{self._listed[round]}", self._attending)

    def choose(self, size: int, seed: int, round: int, attempt: int) -> list[int]:
        """Return the fastest of those that attend, and some others: the same ones when a round is run again."""
        return self._noted(
            f"chosen/{round}/{attempt}",
            lambda: self._fastest(size, seed, round, attempt),
        )

    def _fastest(self, size: int, seed: int, round: int, attempt: int) -> list[int]:
        here = self._attending()
        expected = np.full(max(here) + 1, np.inf)
        expected[here] = [self._seconds.get(client, 0.0) for client in here]
        return fastest(
            expected,
            size,
            self.section.deadline_s,
            self.section.fairness,
            seed,
            round,
            attempt,
        )

    def _attending(self) -> list[int]:
        assert self.service is not None
        self._wait()
        while not (found := self.service.attending()):
            time.sleep(0.05)
        return found

    def _noted(self, name: str, find: Callable[[], list[int]]) -> list[int]:
        """Return what the journal says was found, or find it and write it down first."""
        entry = self.journal.find(name)
        if entry is not None:
            known: list[int] = json.loads(self.journal.read(entry))
            return known
        if self.service is None:
            raise RecordError(
                f"the journal does not tell '{name}', who was asked then; the run did not come so far"
            )
        found = find()
        self.journal.append(
            {"kind": "attending", "key": name}, json.dumps(found).encode()
        ).result()
        return found

    def score(self, state: State) -> Score:
        """Return the score of a model on the coordinator's held-out samples."""
        return self.inner.score(state)

    def refused(self, client: int, reason: str) -> None:
        """Tell a client that its answer cannot be used."""
        self._unused["refused"][client] = reason
        if self.service and client in self._last:
            self.service.refuse(client, self._last[client], reason)

    def close(self) -> None:
        """End the scoring processes; the service is its maker's to stop."""
        self.inner.close()

    def _wait(self) -> None:
        if self._ready is not None:
            self._ready()
            self._ready = None

    def _prepare(self, task: Task, payload: bytes) -> Asked:
        """Return a task with what its client is sent."""
        held = self.runner.receive(task, payload)
        turn = self._turns[task.plan.round, task.client, task.kind]
        self._turns[task.plan.round, task.client, task.kind] += 1
        key = (task.plan.round, task.kind, turn)
        self._last[task.client] = key
        base, payloads = bytes(8), tuple[bytes, ...]((bytes(held.payload or payload),))
        copy = task.slots.get(COPIES)
        residual = task.slots.get(RESIDUALS)
        if copy is not None and not copy.empty:
            base = copy.digest
        elif (series := self.downlink.series(task.client)) is not None:
            base, payloads = series
        message = pb.Task(
            key=proto(key),
            plan=task.plan.to_json(),
            sizes=[len(data) for data in payloads],
            base=0 if base == self._initial else int.from_bytes(base, "little"),
            initial=int.from_bytes(self._initial, "little"),
            feedback=feedback(task.plan.codec)[0],
            keep=task.delivery is not None or task.download is not None,
        )
        if residual is not None and not residual.empty:
            message.residual = int.from_bytes(residual.digest, "little")
        return Asked(task, key, held, message, payloads)

    def _work(self, asked: Asked) -> WorkOrder:
        return WorkOrder(
            asked.task.client,
            asked.key,
            asked.message,
            asked.payloads,
            lambda data: self._fault(asked, data),
        )

    def _repair(self, asked: Asked, payload: bytes) -> None:
        """Send a client the first model and the one that it lacks before what it was sent."""
        assert self.service is not None
        layout, task, message = self.runner.layout, asked.task, pb.Task()
        message.CopyFrom(asked.message)
        none = np.zeros(layout.integers, np.int64)
        first = encode_model(layout, State(self.runner.initial, none), 0, "raw32", 0)[0]
        delivery = task.delivery
        if delivery is None:
            payloads: tuple[bytes, ...] = (first, payload)
        elif delivery.whole or task.slots[COPIES].empty:
            payloads = (first, *asked.payloads)
        else:
            copies = self.runner.vectors[COPIES]
            copy = copies.read(task.client, task.slots[COPIES].slot)
            missing = encode_model(layout, State(copy, none), 0, "raw32", 0)[0]
            payloads = (first, missing, *asked.payloads)
        message.base, message.repair = 0, True
        del message.sizes[:]
        message.sizes.extend(len(data) for data in payloads)
        self.service.repair(task.client, asked.key, message, payloads)

    def _fault(self, asked: Asked, data: bytes) -> str | None:
        """Return why an answer cannot be counted, as far as its header tells; None: it may be."""
        if asked.task.kind != "train":
            return None if _metrics(data) is not None else "the metrics are not numbers"
        try:
            header = read_header(data)
            codec = canonical(feedback(asked.task.plan.codec)[1])
        except PayloadError as error:
            return str(error)
        if header.kind not in (UPDATE, GRADIENT):
            return f"a payload of kind {header.kind} where an update is expected"
        if (header.round, header.digest) != (
            asked.held.header.round,
            asked.held.header.digest,
        ):
            return "the update started from another model than the one sent"
        if header.codec != codec:
            return f"the update is encoded by {header.codec}, not by {codec} as asked"
        return (
            None
            if header.examples
            else "the update reports 0 examples; it would weigh nothing"
        )

    def _journaled(self, asked: Asked) -> bytes | None:
        entry = self.journal.find(journal_key(asked.task.client, asked.key))
        if entry is None:
            return None
        data = self.journal.read(entry)
        return data if self._fault(asked, data) is None else None

    def _answered(self, asked: Asked, event: WorkResult, counted: list[int]) -> Outcome:
        if event.data is None:
            return self._without(asked, event.failure or "no answer")
        counted.append(asked.task.client)
        return self._outcome(asked, event.data)

    def _outcome(self, asked: Asked, data: bytes) -> Outcome:
        told: dict[str, Any] = (
            {"payload": data}
            if asked.task.kind == "train"
            else {"metrics": _metrics(data) or {}}
        )
        kept = {}
        if RESIDUALS in asked.task.slots:
            # It lies with the agent, under the name of the work that made it.
            kept[RESIDUALS] = residual_name(asked.key)
        outcome = Outcome(asked.task.client, **told, kept=kept)
        return with_download(outcome, asked.held)

    def _without(self, asked: Asked, reason: str) -> Outcome:
        self._unused["without"][asked.task.client] = reason
        return with_download(Outcome(asked.task.client, error=reason), asked.held)

    def _closed(self, round: int, kind: str) -> set[int] | None:
        """Return whose answers were counted when these tasks were asked before; None: they were not, or not to the end."""
        entry = self.journal.find(self._name(round, kind))
        return None if entry is None else set(json.loads(self.journal.read(entry)))

    def _close(self, round: int, kind: str, counted: list[int]) -> None:
        """Write down whose answers count, and for `fedlearn.server.witness.took_part` why others do not."""
        meta = {"kind": "closed", "key": self._name(round, kind), **self._unused}
        reach("coordinator.before-closed")
        self.journal.append(meta, json.dumps(sorted(counted)).encode()).result()
        reach("coordinator.after-closed")
        if self.service:
            key, asked = (
                (round, kind, self._calls[round, kind] - 1),
                len(counted) + len(self._unused["without"]),
            )
            self.service.log(
                "round closed", None, key, asked=asked, answered=len(counted)
            )

    def _name(self, round: int, kind: str) -> str:
        return f"closed/{round}/{kind}/{self._calls[round, kind]}"


def _metrics(data: bytes) -> dict[str, float] | None:
    """Return an evaluation's numbers; None for bytes that are none."""
    if len(data) > 1 << 16:
        return None
    try:
        told = json.loads(data)
        finite = isinstance(told, dict) and all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
            for v in told.values()
        )
    except (ValueError, RecursionError, OverflowError):
        return None
    if not finite or not {"loss", "accuracy", "num-examples"} <= set(told):
        return None
    count = told["num-examples"]
    return told if isinstance(count, int) and 0 < count < 1 << 48 else None
