"""`Pool`: one process per core, one torch thread each, clients handed out one by one.

Workers are forked after the data is loaded, so they share it. Models reach them, and
payloads come back, through memory that both processes see; pipes carry what is small.
A worker has its next client before its last answer is added up. Every client runs the
code of `Serial` on one thread, and sums are exact, so neither the number of workers nor
their speed changes a bit.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from fedlearn.arrays import State
from fedlearn.clients.evaluate import Score
from fedlearn.engine.forked import become_worker, flush_output
from fedlearn.engine.patience import LOOK_S, SCORING, Patience, clients_of
from fedlearn.engine.protocol import EveryClient, whole_score
from fedlearn.engine.runner import Runner, single_thread
from fedlearn.engine.shared import Answers, SharedModel
from fedlearn.engine.task import Outcome, Task
from fedlearn.errors import ConfigError, RecordError, RunError, reason_of
from fedlearn.system.malloc import keep_pages
from fedlearn.wire import Bytes
from fedlearn.wire.payload import MARGIN

# Attempts at a task whose worker dies. With two, a worker killed by chance costs
# nothing, and a client that always kills its worker costs one round its update.
MAX_ATTEMPTS = 2

# What a user can do about a client that does not answer.
_ADVICE = "engine.client_timeout_s fails a client that takes longer"

# What `Pool` publishes to its workers: the cohort's payload, or a state to score.
_PAYLOAD = 0
_STATE = 1

# Tasks that go to a worker together.
Unit = tuple[Task, ...]


@dataclass(frozen=True)
class _Assignment:
    """Work for one worker."""

    # A unit of tasks, or the number of a part of the held-out samples.
    work: Any
    # Counted from 1.
    attempt: int
    # It was ended because it took too long.
    late: bool = False


@dataclass
class _PoolWorker:
    """A worker process, as the parent sees it."""

    process: BaseProcess
    pipe: Connection
    answers: Answers
    # Assignments so far: their parity says which half is next.
    units: int = 0
    # None while it is idle.
    assignment: _Assignment | None = None
    # Seconds that the pool has waited for the assignment.
    waited_s: float = 0.0


class Pool(EveryClient):
    """A pool of worker processes; see the module."""

    # Tasks in a unit, at most.
    unit_size = 1

    def __init__(
        self, runner: Runner, workers: int = 0, client_timeout_s: float = 0.0
    ) -> None:
        """Fork the workers. Raises RunError when the system has no room for them.

        workers: their number; 0 = one per core that this process may use.
        client_timeout_s: seconds after which a client has failed; 0 = never.
        """
        # Before the fork, so that workers inherit both.
        # Python forbids such a process, a worker of multiprocessing.Pool, to start others.
        if multiprocessing.current_process().daemon:
            raise ConfigError(
                "this process may not start others, as it is a worker of another pool; "
                'use engine.kind = "serial" in it'
            )
        single_thread()
        keep_pages()
        self.runner = runner
        # Workers end when this process does.
        self.parent = os.getpid()
        self.client_timeout_s = client_timeout_s
        self._patience = Patience(runner.note, _ADVICE)
        self.workers = workers or len(os.sched_getaffinity(0))
        # No payload of this model takes more bytes; up to 3 of the 4 align it.
        self.payload_bytes = 2 * runner.layout.raw_bytes + MARGIN + 4
        self._published = [
            SharedModel(self.payload_bytes, is_payload=True),
            SharedModel(self.payload_bytes, is_payload=False),
        ]
        self._workers: list[_PoolWorker] = []
        self._start()

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task, as they come; the largest clients start first.

        Raises RecordError when the clients' vectors cannot be read or written.
        """
        self._published[_PAYLOAD].write(payload)
        units = self.units(tasks)
        while units:
            # A unit whose workers died is split, to learn which client it was. Its tasks
            # wait until this list is done: workers do one list of units at a time.
            singles: list[Unit] = []
            for unit, result in self._work(units):
                # The disk's failure, not the client's.
                if isinstance(result, RecordError):
                    raise result
                if isinstance(result, list):
                    yield from result
                elif isinstance(result, str) and len(unit) > 1:
                    singles += [(task,) for task in unit]
                else:
                    for task in unit:
                        yield Outcome(task.client, error=str(result))
            units = singles

    def units(self, tasks: Sequence[Task]) -> list[Unit]:
        """Return the tasks as they are handed out."""
        size = self.runner.population.clients.size
        # A large client that starts last would keep all other workers waiting.
        ordered = sorted(tasks, key=lambda task: -size(task.client))
        return [(task,) for task in ordered]

    def answer(self, unit: Unit, payload: Bytes) -> list[Outcome]:
        """Return the outcomes of a unit; called in a worker."""
        return [self.runner.run(task, payload) for task in unit]

    def score(self, state: State) -> Score:
        """Return a model's score on the held-out samples.

        Raises RunError when a part fails twice.
        """
        self._published[_STATE].write(state.floats.data, state.integers.data)
        parts = list(range(self.runner.parts))
        return whole_score(self._work(parts))

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
        self._workers = []

    def _start(self) -> None:
        half_bytes = self.unit_size * self.payload_bytes
        try:
            for _ in range(self.workers):
                self._workers.append(self._fork(Answers(half_bytes)))
        except OSError as error:
            self.close()
            setting = "engine.workers"
            if self.unit_size > 1:
                setting = "engine.workers or engine.chunk"
            raise RunError(
                f"cannot start {self.workers} worker processes: "
                f"{error.strerror or error}; lower {setting}"
            ) from error

    def _work(self, works: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield (work, result). Work whose worker dies twice has the reason as its result."""
        queue = deque(_Assignment(work, 1) for work in works)
        for worker in self._workers:
            # A worker that gets one unit a round touches the pages of one half only.
            worker.units = 0
        try:
            while queue or self._busy():
                self._hand_out(queue)
                for worker in self._ready():
                    assignment = worker.assignment
                    assert assignment is not None
                    try:
                        result = self._receive(worker)
                        worker.assignment = None
                    except (EOFError, OSError):
                        result = self._replace_dead(worker)
                        if assignment.attempt < MAX_ATTEMPTS:
                            attempt = assignment.attempt + 1
                            queue.append(_Assignment(assignment.work, attempt))
                            continue
                    # The worker goes on while its answer is added up.
                    self._hand_out(queue)
                    yield assignment.work, result
        finally:
            # The consumer stopped half-way: late answers must not be read as new ones.
            if self._busy():
                self._restart()

    def _ready(self) -> list[_PoolWorker]:
        """Return the workers that answer, have died or take too long; none after a while."""
        busy = self._busy()
        begun = time.monotonic()
        pipes = wait([worker.pipe for worker in busy], LOOK_S)
        # A program that was suspended has not waited for its clients.
        waited_s = min(time.monotonic() - begun, LOOK_S)
        for worker in busy:
            worker.waited_s += waited_s
        if pipes:
            self._patience.came()
        else:
            units = [worker.assignment.work for worker in busy if worker.assignment]
            works = [unit if isinstance(unit, tuple) else SCORING for unit in units]
            self._patience.passed(waited_s, works)
        return [w for w in busy if w.pipe in pipes or self._ended_as_late(w)]

    def _ended_as_late(self, worker: _PoolWorker) -> bool:
        """Kill a worker whose clients take longer than they may; return whether they do."""
        assignment = worker.assignment
        # Held-out samples have no client to leave out.
        if not self.client_timeout_s or not assignment:
            return False
        if not isinstance(assignment.work, tuple):
            return False
        # The clients of a stack have the time of all of them.
        limit_s = self.client_timeout_s * len(clients_of(assignment.work))
        if worker.waited_s <= limit_s:
            return False
        worker.process.kill()
        # A second attempt would take as long.
        worker.assignment = replace(assignment, attempt=MAX_ATTEMPTS, late=True)
        return True

    def _busy(self) -> list[_PoolWorker]:
        return [worker for worker in self._workers if worker.assignment is not None]

    def _hand_out(self, queue: deque[_Assignment]) -> None:
        """Give each idle worker an assignment, while there are some."""
        for worker in self._workers:
            if queue and worker.assignment is None:
                self._send(worker, queue.popleft())

    def _send(self, worker: _PoolWorker, assignment: _Assignment) -> None:
        slot = _PAYLOAD if isinstance(assignment.work, tuple) else _STATE
        published = self._published[slot]
        worker.assignment = assignment
        worker.waited_s = 0.0
        worker.units += 1
        message = (
            assignment.work,
            slot,
            published.length,
            published.version,
            worker.units % 2,
        )
        # A worker that died while idle: the next `wait` finds its pipe closed, and the
        # work is tried again.
        with contextlib.suppress(OSError):
            worker.pipe.send(message)

    def _receive(self, worker: _PoolWorker) -> Any:
        """Return a worker's result, with views of the payloads that it left in memory.

        Raises EOFError or OSError when the worker is dead.
        """
        result = worker.pipe.recv()
        if not isinstance(result, list):
            return result
        return worker.answers.read(result, worker.units % 2)

    def _replace_dead(self, worker: _PoolWorker) -> str:
        """Fork a worker in the place of a dead one, and return how that died."""
        worker.pipe.close()
        worker.process.join()
        self._workers[self._workers.index(worker)] = self._fork(worker.answers)
        if worker.assignment and worker.assignment.late:
            limit_s = self.client_timeout_s
            return f"it took longer than engine.client_timeout_s = {limit_s:g}"
        code = worker.process.exitcode or 0
        end = f"ended with code {code}"
        if code < 0:
            end = f"killed by {signal.Signals(-code).name}"
        hint = ""
        if code == -signal.SIGKILL:
            hint = " (out of memory? lower engine.workers or train.batch_size)"
        return f"its worker process was {end} twice{hint}"

    def _restart(self) -> None:
        memories = [worker.answers for worker in self._workers]
        self.close()
        for answers in memories:
            self._workers.append(self._fork(answers))

    def _fork(self, answers: Answers) -> _PoolWorker:
        context = multiprocessing.get_context("fork")
        parent_end, worker_end = context.Pipe()
        siblings = [w.pipe for w in self._workers if not w.pipe.closed]
        process = context.Process(
            target=_serve,
            args=(self, worker_end, answers, [parent_end, *siblings]),
            daemon=True,
        )
        flush_output()
        with warnings.catch_warnings():
            # Python 3.12+ warns of forking beside threads. The only ones here are
            # numpy's idle BLAS threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        # The worker has the only copy of its end, so that its death closes the pipe.
        worker_end.close()
        return _PoolWorker(process, parent_end, answers)

    def _state(self, data: memoryview) -> State:
        """Return a published state; a view."""
        float_bytes = 4 * self.runner.layout.floats
        return State(
            np.frombuffer(data[:float_bytes], np.float32),
            np.frombuffer(data[float_bytes:], np.int64),
        )


def _serve(
    pool: Pool, pipe: Connection, answers: Answers, inherited: Sequence[Connection]
) -> None:
    """Work until the parent closes its end, or dies. inherited: the parent's pipe ends."""
    become_worker(pool.parent, inherited)
    versions = [0, 0]
    payload = memoryview(b"")
    state = State(np.empty(0, np.float32), np.empty(0, np.int64))
    while True:
        try:
            work, slot, length, version, half = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        if versions[slot] != version:
            data = pool._published[slot].read(length)
            versions[slot] = version
            if slot == _PAYLOAD:
                payload = data
            else:
                state = pool._state(data)
        reply: object
        try:
            if slot == _PAYLOAD:
                reply = answers.leave(pool.answer(work, payload), half)
            else:
                reply = pool.runner.score(work, state)
        except RecordError as error:
            reply = error
        except Exception as error:
            # Scoring has no client to blame: the parent ends the run with this reason.
            reply = reason_of(error)
        try:
            pipe.send(reply)
        except OSError:
            os._exit(0)
