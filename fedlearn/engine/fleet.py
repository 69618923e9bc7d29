"""`Fleet`: real agents in the place of simulated clients.

To the Grid it is one more engine. What a client is sent is encoded here by the code of the
simulation, and what it answers is encoded there by the same code. So a fleet gives the
payloads and the model of a simulation, bit for bit.

Every answer goes through the journal, and so does the list of those that were counted. A
coordinator that is killed counts the same ones again without asking for them, and
`fedlearn replay` can recompute a run.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from fedlearn.arrays import State
from fedlearn.clients.evaluate import Score
from fedlearn.config import FleetSection
from fedlearn.devices.cohort import fastest
from fedlearn.engine.protocol import Engine
from fedlearn.engine.questions import Question, Questions, parse_metrics
from fedlearn.engine.runner import Runner
from fedlearn.engine.task import Outcome, Task, with_download
from fedlearn.errors import RecordError
from fedlearn.exchange.keys import Key, residual_name
from fedlearn.memory.downlink import Downlink
from fedlearn.memory.slots import RESIDUALS
from fedlearn.server.journal import Journal
from fedlearn.server.work import ModelMissing, WorkResult, WorkService, journal_key
from fedlearn.system.failpoints import reach

_DEFAULT = FleetSection()

# How often we look whether an agent attends, while none does.
_POLL_S = 0.05

Waiting = dict[tuple[int, Key], Question]
"""The questions without an answer, by client and key."""


def left_out_name(client: int, round: int) -> str:
    """Return the journal's name for the wish to do without a client's answers of a round."""
    return f"without/{client}/{round}"


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
        self.inner = inner
        self.service = service
        self.journal = journal
        self.section = section
        self._questions = Questions(runner, downlink)
        self._ready: Callable[[], None] | None = ready
        # How often a round's tasks of a kind were run, and its attending clients listed:
        # repeated rounds have journal entries of their own.
        self._calls: Counter[tuple[int, str]] = Counter()
        self._listed: Counter[int] = Counter()
        # Client → seconds from a question to its answer; the newest is half of the mean.
        self._seconds: dict[int, float] = {}
        # Client → its newest question, which a refusal names.
        self._last: dict[int, Key] = {}
        # Of the tasks that run: client → why its answer is refused, or why it has none.
        self._refused: dict[int, str] = {}
        self._without: dict[int, str] = {}

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task, as answers come."""
        if not tasks:
            return
        round, kind = tasks[0].plan.round, tasks[0].kind
        self._calls[round, kind] += 1
        self._refused = {}
        self._without = {}
        closed = self._closed(round, kind)
        journaled, waiting = self._sorted(tasks, payload, closed)
        for question in self._left_out(waiting):
            client = question.task.client
            yield self._failed(question, f"left out: --without {client}/{round}")
        counted = [question.task.client for question, _ in journaled]
        for question, data in journaled:
            if self.service:
                self.service.recall(question.task.client, question.key, data)
            yield self._outcome(question, data)
        # A round that was closed is not asked again: the model has moved on.
        if closed is not None or self.service is None:
            for question in waiting.values():
                reason = "it was not counted when this round was run"
                yield self._failed(question, reason)
            return
        self.service.forget(round - 1)
        askable = len(journaled) + len(waiting)
        enough = math.ceil(self.section.enough * askable) - len(journaled)
        for outcome in self._ask(self.service, waiting, payload, enough):
            if outcome.error is None:
                counted.append(outcome.client)
            yield outcome
        self._close(round, kind, counted)

    def available(self, round: int) -> list[int] | None:
        """Return who attends, where a strategy chooses among them.

        The journal keeps the list: a round that is run again chooses among the same ones.
        """
        if self.section.cohort == "all":
            return None
        self._listed[round] += 1
        name = f"attending/{round}/{self._listed[round]}"
        return self._noted(name, self._attending)

    def choose(self, size: int, seed: int, round: int, attempt: int) -> list[int]:
        """Return the fastest of those that attend, and some others.

        The journal keeps the list: a round that is run again asks the same ones.
        """

        def find() -> list[int]:
            return self._fastest(size, seed, round, attempt)

        return self._noted(f"chosen/{round}/{attempt}", find)

    def score(self, state: State) -> Score:
        """Return a model's score on the coordinator's held-out samples. Raises RunError."""
        return self.inner.score(state)

    def refused(self, client: int, reason: str) -> None:
        """Tell a client that its answer cannot be used."""
        self._refused[client] = reason
        if self.service and client in self._last:
            self.service.refuse(client, self._last[client], reason)

    def remark(self, client: int, text: str) -> None:
        """Note in the log what is odd about a client's answer."""
        if self.service:
            self.service.log("odd", client, self._last.get(client), text)

    def close(self) -> None:
        """End the scoring processes; the service is its maker's to stop."""
        self.inner.close()

    def _sorted(
        self, tasks: Sequence[Task], payload: bytes, closed: set[int] | None
    ) -> tuple[list[tuple[Question, bytes]], Waiting]:
        """Return the questions that the journal answers, and those that it does not.

        closed: whose answers were counted, where the round was closed before.
        """
        journaled: list[tuple[Question, bytes]] = []
        waiting: Waiting = {}
        for task in tasks:
            question = self._questions.ask(task, payload)
            self._last[task.client] = question.key
            data = None
            counts = closed is None or task.client in closed
            if counts and not self._is_left_out(question):
                data = self._journaled(question)
            if data is None:
                waiting[task.client, question.key] = question
            else:
                journaled.append((question, data))
        return journaled, waiting

    def _left_out(self, waiting: Waiting) -> list[Question]:
        """Take out of the waiting the questions whose answers are to be left out."""
        questions = [q for q in waiting.values() if self._is_left_out(q)]
        for question in questions:
            del waiting[question.task.client, question.key]
        return questions

    def _is_left_out(self, question: Question) -> bool:
        name = left_out_name(question.task.client, question.task.plan.round)
        return self.journal.find(name) is not None

    def _ask(
        self, service: WorkService, waiting: Waiting, payload: bytes, enough: int
    ) -> Iterator[Outcome]:
        """Ask the questions, and yield an outcome for each until the batch ends."""
        if not waiting:
            return
        if enough <= 0:
            for question in waiting.values():
                yield self._failed(question, "late: enough others answered before")
            return
        self._wait_until_ready()
        orders = [question.order() for question in waiting.values()]
        service.ask(orders, self.section.deadline_s, enough)
        begun = time.monotonic()
        while waiting:
            event = service.next()
            place = (event.client, event.key)
            # What comes for an earlier batch has had its outcome.
            if place not in waiting:
                continue
            if isinstance(event, ModelMissing):
                message, payloads = self._questions.repair(waiting[place], payload)
                service.repair(event.client, event.key, message, payloads)
                continue
            question = waiting.pop(place)
            if event.data is not None and question.task.trains:
                self._time(event.client, time.monotonic() - begun)
            yield self._answered(question, event)

    def _time(self, client: int, seconds: float) -> None:
        """Note how long a client took for a round's training."""
        before = self._seconds.get(client, seconds)
        self._seconds[client] = (before + seconds) / 2

    def _answered(self, question: Question, event: WorkResult) -> Outcome:
        if event.data is None:
            return self._failed(question, event.failure or "no answer")
        return self._outcome(question, event.data)

    def _outcome(self, question: Question, data: bytes) -> Outcome:
        """Return the outcome of an answer."""
        client = question.task.client
        kept = {}
        if RESIDUALS in question.task.slots:
            # It lies with the agent, under the name of the work that made it.
            kept[RESIDUALS] = residual_name(question.key)
        if question.task.trains:
            outcome = Outcome(client, payload=data, kept=kept)
        else:
            outcome = Outcome(client, metrics=parse_metrics(data) or {}, kept=kept)
        return with_download(outcome, question.held)

    def _failed(self, question: Question, reason: str) -> Outcome:
        """Return the outcome of a question that has no answer."""
        client = question.task.client
        self._without[client] = reason
        return with_download(Outcome(client, error=reason), question.held)

    def _wait_until_ready(self) -> None:
        if self._ready is not None:
            self._ready()
            self._ready = None

    def _attending(self) -> list[int]:
        """Return who attends; waits until somebody does."""
        assert self.service is not None
        self._wait_until_ready()
        while not (clients := self.service.attending()):
            time.sleep(_POLL_S)
        return clients

    def _fastest(self, size: int, seed: int, round: int, attempt: int) -> list[int]:
        attending = self._attending()
        expected_s = np.full(max(attending) + 1, np.inf)
        # Who never answered is tried first, or it would never be known.
        expected_s[attending] = [self._seconds.get(c, 0.0) for c in attending]
        return fastest(
            expected_s,
            size,
            self.section.deadline_s,
            self.section.fairness,
            seed,
            round,
            attempt,
        )

    def _noted(self, name: str, find: Callable[[], list[int]]) -> list[int]:
        """Return the clients that the journal has under a name, or find and note them."""
        entry = self.journal.find(name)
        if entry is not None:
            noted: list[int] = json.loads(self.journal.read(entry))
            return noted
        if self.service is None:
            raise RecordError(
                f"the journal does not tell '{name}', who was asked then; "
                "the run did not come so far"
            )
        clients = find()
        meta = {"kind": "attending", "key": name}
        # On disk before anybody is asked: a coordinator that is killed asks the same ones.
        self.journal.append(meta, json.dumps(clients).encode()).result()
        return clients

    def _journaled(self, question: Question) -> bytes | None:
        """Return the answer that the journal holds to a question; None: it has none."""
        entry = self.journal.find(journal_key(question.task.client, question.key))
        if entry is None:
            return None
        data = self.journal.read(entry)
        # Of a run that was resumed from an earlier round it may answer another model.
        if question.fault(data) is not None:
            return None
        return data

    def _closed(self, round: int, kind: str) -> set[int] | None:
        """Return whose answers were counted when these tasks were run before.

        None: they were not, or not to the end.
        """
        entry = self.journal.find(self._name(round, kind))
        if entry is None:
            return None
        return set(json.loads(self.journal.read(entry)))

    def _close(self, round: int, kind: str, counted: list[int]) -> None:
        """Write down whose answers count, and why those of others do not.

        `fedlearn.server.witness.took_part` reads it.
        """
        meta = {
            "kind": "closed",
            "key": self._name(round, kind),
            "refused": self._refused,
            "without": self._without,
        }
        reach("coordinator.before-closed")
        self.journal.append(meta, json.dumps(sorted(counted)).encode()).result()
        reach("coordinator.after-closed")
        if self.service:
            key = (round, kind, self._calls[round, kind] - 1)
            total = len(counted) + len(self._without)
            answered = len(counted)
            self.service.log("round closed", None, key, asked=total, answered=answered)

    def _name(self, round: int, kind: str) -> str:
        return f"closed/{round}/{kind}/{self._calls[round, kind]}"
