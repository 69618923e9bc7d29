"""`Pool`: one process per core, one torch thread each, clients handed out one by one.

Workers are forked once the data is loaded, so they share it. Models reach them, and payloads come back, through memory
that both processes see; pipes carry what is small. A worker has its next client before its last answer is added up.
Every client runs the same code as in `Serial` on one thread, and sums are exact, so neither the number of workers nor
their speed changes a bit.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import signal
import sys
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
from fedlearn.engine.protocol import EveryClient, whole_score
from fedlearn.engine.runner import Runner, single_thread
from fedlearn.engine.task import Outcome, Task
from fedlearn.errors import RecordError, RunError
from fedlearn.system.malloc import keep_pages
from fedlearn.wire import Bytes
from fedlearn.wire.payload import MARGIN

TRIES = 2
"""How often a client is tried whose worker dies: a worker killed by chance costs nothing, a deadly client one round."""


Unit = tuple[Task, ...]
"""Tasks that go to a worker together."""


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    answers: (
        mmap.mmap
    )  # payloads, in two halves: one is read while the other is written
    given: int = 0  # units so far: which half is next
    task: Any = None  # what it is working on


class Pool(EveryClient):
    """A pool of worker processes; see the module."""

    most = 1
    """Tasks in a unit."""

    def __init__(self, runner: Runner, workers: int = 0) -> None:
        """Fork the workers. workers: their number, 0 = one per core that this process may use."""
        single_thread()
        keep_pages()
        self.runner = runner
        self.workers = workers or len(os.sched_getaffinity(0))
        self.room = (
            2 * runner.layout.raw_bytes + MARGIN + 4
        )  # no payload of this model takes more, wherever it is placed
        self._models = (
            mmap.mmap(-1, self.room),
            mmap.mmap(-1, self.room),
        )  # the payload of the cohort; the state to score
        self._lengths = [0, 0]
        self._sent = [
            0,
            0,
        ]  # how often each was written: a worker reads it anew when this changes
        self._pool: list[_Worker] = []
        try:
            for _ in range(self.workers):
                self._pool.append(self._fork(mmap.mmap(-1, 2 * self.most * self.room)))
        except OSError as error:
            self.close()
            lower = (
                "engine.workers" if self.most == 1 else "engine.workers or engine.chunk"
            )
            raise RunError(
                f"cannot start {self.workers} worker processes: {error.strerror or error}; lower {lower}"
            ) from error

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task, as they come; the largest clients start first."""
        self._publish(0, payload)
        units = self.units(tasks)
        while units:
            apart: list[
                Unit
            ] = []  # once all else is done: the workers do one list of units at a time
            for unit, found in self._work(units):
                if isinstance(
                    found, RecordError
                ):  # the disk's failure, not the client's
                    raise found
                if (
                    isinstance(found, str) and len(unit) > 1
                ):  # which of them it was shows when each has a worker to itself
                    apart += [(task,) for task in unit]
                    continue
                yield from (
                    found
                    if isinstance(found, list)
                    else (Outcome(task.client, error=str(found)) for task in unit)
                )
            units = apart

    def units(self, tasks: Sequence[Task]) -> list[Unit]:
        """Return the tasks as they are handed out."""
        size = self.runner.population.clients.size
        return [(task,) for task in sorted(tasks, key=lambda t: -size(t.client))]

    def answer(self, unit: Unit, payload: Bytes) -> list[Outcome]:
        """Return what comes of a unit; called in a worker."""
        return [self.runner.run(task, payload) for task in unit]

    def score(self, state: State) -> Score:
        """Return the score of a model on the server's held-out samples; raises RunError when a part fails twice."""
        self._publish(1, state.floats.data, state.integers.data)
        return whole_score(self._work(list(range(self.runner.parts))))

    def close(self) -> None:
        """End the workers."""
        for worker in self._pool:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._pool:
            worker.process.join()
        self._pool = []

    def _publish(self, slot: int, *parts: bytes | memoryview) -> None:
        """Show the workers a payload (slot 0) or a state to score (slot 1); none of them is at work on the one before."""
        length = sum(memoryview(part).nbytes for part in parts)
        at = _placed(0, length) if slot == 0 else 0
        for part in parts:
            self._models[slot][at : at + memoryview(part).nbytes] = part
            at += memoryview(part).nbytes
        self._lengths[slot] = length
        self._sent[slot] += 1

    def _work(self, tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield (task, result); a task whose worker dies twice has the reason, a string, as its result."""
        queue = deque((task, 1) for task in tasks)
        for worker in self._pool:
            worker.given = (
                0  # where one unit is all that it gets, the same half serves each time
            )
        try:
            while queue or any(w.task for w in self._pool):
                self._give_all(queue)
                ready = wait([w.pipe for w in self._pool if w.task])
                for worker in [w for w in self._pool if w.pipe in ready]:
                    task, tries = worker.task
                    try:
                        result = self._take(worker)
                        worker.task = None
                    except (EOFError, OSError):
                        result = self._bury(worker)
                        if tries < TRIES:
                            queue.append((task, tries + 1))
                            continue
                    self._give_all(queue)  # it goes on while its answer is added up
                    yield task, result
        finally:
            if any(
                w.task for w in self._pool
            ):  # the consumer stopped half-way: late answers must not be read as new ones
                self._restart()

    def _give_all(self, queue: deque[tuple[Any, int]]) -> None:
        for worker in self._pool:
            if queue and worker.task is None:
                self._give(worker, queue.popleft())

    def _give(self, worker: _Worker, task: tuple[Any, int]) -> None:
        slot = 0 if isinstance(task[0], tuple) else 1
        worker.task = task
        worker.given += 1
        with contextlib.suppress(
            OSError
        ):  # it died while idle: the next wait finds its pipe closed and tries the task again
            worker.pipe.send(
                (task[0], slot, self._lengths[slot], self._sent[slot], worker.given % 2)
            )

    def _take(self, worker: _Worker) -> Any:
        """Return a worker's result, with the payloads that it left in memory."""
        result = worker.pipe.recv()
        if not isinstance(result, list):
            return result
        at, out = (worker.given % 2) * self.most * self.room, []
        for outcome, length in result:
            if length is not None:
                at = _placed(at, length)
                outcome = replace(
                    outcome,
                    payload=memoryview(worker.answers)[at : at + length].toreadonly(),
                )
                at += length
            out.append(outcome)
        return out

    def _leave(
        self, outcomes: Sequence[Outcome], answers: mmap.mmap, half: int
    ) -> list[tuple[Outcome, int | None]]:
        """Leave payloads where the parent finds them, and return what goes by the pipe; called in a worker."""
        at, out = half * self.most * self.room, []
        for outcome in outcomes:
            length = None
            if outcome.payload is not None:
                length = len(outcome.payload)
                at = _placed(at, length)
                answers[at : at + length] = outcome.payload
                at += length
            out.append((replace(outcome, payload=None), length))
        return out

    def _bury(self, worker: _Worker) -> str:
        """Replace a dead worker and return how it died."""
        worker.pipe.close()
        worker.process.join()
        code = worker.process.exitcode or 0
        how = (
            f"killed by {signal.Signals(-code).name}"
            if code < 0
            else f"ended with code {code}"
        )
        hint = (
            " (out of memory? lower engine.workers or train.batch_size)"
            if code == -signal.SIGKILL
            else ""
        )
        self._pool[self._pool.index(worker)] = self._fork(worker.answers)
        return f"its worker process was {how} twice{hint}"

    def _restart(self) -> None:
        answers = [worker.answers for worker in self._pool]
        self.close()
        for each in answers:
            self._pool.append(self._fork(each))

    def _fork(self, answers: mmap.mmap) -> _Worker:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        others = [w.pipe for w in self._pool if not w.pipe.closed]
        process = context.Process(
            target=_serve, args=(self, theirs, answers, [ours, *others]), daemon=True
        )
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python 3.12+ warns of forking beside threads; numpy's idle BLAS threads are the only ones here.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        return _Worker(process, ours, answers)

    def _read(self, slot: int, length: int) -> memoryview:
        at = _placed(0, length) if slot == 0 else 0
        return memoryview(self._models[slot])[at : at + length].toreadonly()


def _placed(at: int, length: int) -> int:
    """Return the first place from ``at`` on where a payload's float32 values, which its last five bytes follow, lie aligned."""
    return at + (5 - at - length) % 4


def _serve(
    pool: Pool, pipe: Connection, answers: mmap.mmap, inherited: Sequence[Connection]
) -> None:
    """Work until the parent closes its end, or dies."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent decides what it means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(
        os, "SCHED_BATCH"
    ):  # a worker that wakes must not hold up the parent, which has the others to wake
        with contextlib.suppress(
            OSError
        ):  # from an idle class, or in a sandbox, it is refused: it is only a matter of speed
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    for other in inherited:
        other.close()  # or a dead parent's pipes would stay open in its children, and they would wait for ever
    single_thread()
    seen = [0, 0]
    payload, state = (
        memoryview(b""),
        State(np.empty(0, np.float32), np.empty(0, np.int64)),
    )
    while True:
        try:
            task, slot, length, sent, half = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        if seen[slot] != sent:
            data = pool._read(slot, length)
            seen[slot] = sent
            if slot == 0:
                payload = data
            else:
                cut = 4 * pool.runner.layout.floats
                state = State(
                    np.frombuffer(data[:cut], np.float32),
                    np.frombuffer(data[cut:], np.int64),
                )
        try:
            pipe.send(
                pool._leave(pool.answer(task, payload), answers, half)
                if slot == 0
                else pool.runner.score(task, state)
            )
        except OSError:
            os._exit(0)
        except RecordError as error:
            pipe.send(error)
        except Exception as error:  # scoring has no client to blame: the parent turns the reason into the run's error
            pipe.send(f"{type(error).__name__}: {error}")
