"""The worker processes of a run, as the run sees them: work goes out, answers come back.

Messages of one node are answered one after another, in their order; those of different
nodes by whichever worker is free. A message whose worker dies is tried once more, so that a
worker killed by chance costs nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import send_handle
from typing import BinaryIO

from fedlearn.apps.nursery import ENDED, FORK
from fedlearn.apps.work import CRASHED, AppSettings, NodeAnswer, Work
from fedlearn.errors import ConfigError, RunError
from fedlearn.system.own_path import environment

# With two a worker that is killed by chance costs nothing, and an app that always ends its
# worker costs one message its reply.
_MAX_ATTEMPTS = 2

# Libraries that would take all cores in each worker.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# Seconds between two looks at what the app prints.
LOOK_S = 0.5


@dataclass
class _AppWorker:
    """A worker process.

    work: what it answers; None while it is idle. begun_s: when it took that, of the
    monotonic clock.
    """

    process: int
    connection: Connection
    work: Work | None = None
    begun_s: float = 0.0

    def left_s(self) -> float:
        """Return the seconds that are left to it, below 0 for none; infinite: no limit."""
        if self.work is None or self.work.limit is None:
            return math.inf
        return self.begun_s + self.work.limit.seconds - time.monotonic()


class Workers:
    """The workers of one run."""

    def __init__(
        self,
        settings: AppSettings,
        count: int,
        log: BinaryIO,
        passed: Sequence[int] = (),
    ) -> None:
        """Start the process that loads the app; `ready` waits for it.

        log: an open file that takes what the app's processes print. passed: descriptors
        that these processes hold open as long as they live.
        """
        self._settings = settings
        self._count = count
        self._workers: list[_AppWorker] = []
        # Of each node that has some: its messages, of which the first may be in work.
        self._queues: dict[int, deque[Work]] = {}
        # Nodes whose next message may go out, in the order in which they became so.
        self._free: deque[int] = deque()
        # The second attempts: message → 2.
        self._attempts: dict[int, int] = {}
        own_end, other_end = socket.socketpair()
        self._control = Connection(own_end.detach())
        self._nursery = _started(other_end, log, passed)
        other_end.close()
        self._control.send(settings)

    def ready(self) -> None:
        """Wait until the app is loaded, and start the workers; raises ConfigError."""
        try:
            reason = self._control.recv()
        except EOFError:
            code = self._nursery.wait()
            log = "the agent's log" if self._settings.folder is None else "app.log"
            raise ConfigError(
                f"clientapp '{self._settings.clientapp}': its process ended while it was "
                f"imported ({_end(code)}); what it printed is in {log}"
            ) from None
        if reason:
            raise ConfigError(reason)
        while len(self._workers) < self._count:
            self._workers.append(self._fork())

    def push(self, work: Work) -> None:
        """Take a message; it goes out when its node and a worker are free."""
        queue = self._queues.setdefault(work.node, deque())
        queue.append(work)
        if len(queue) == 1:
            self._free.append(work.node)
        self._hand_out()

    def answers(self) -> Iterator[NodeAnswer]:
        """Yield the answers that are there within `LOOK_S`: at once when there is one."""
        busy = {w.connection: w for w in self._workers if w.work is not None}
        left_s = min((w.left_s() for w in busy.values()), default=LOOK_S)
        ready = wait(list(busy), min(LOOK_S, max(0.0, left_s)))
        for connection in ready:
            answer = self._received(busy[connection])  # type: ignore[index]
            if answer is not None:
                yield answer
        for connection, worker in busy.items():
            # What is there counts, however late it was looked for.
            if connection not in ready and worker.left_s() <= 0:
                yield self._late(worker)

    def done(self, node: int, state: int) -> None:
        """Let the next message of a node go out, as its last answer is taken.

        state: the turn that left what its app keeps; 0: nothing.
        """
        queue = self._queues[node]
        queue.popleft()
        if queue:
            queue[0] = replace(queue[0], state=state)
            self._free.append(node)
        else:
            del self._queues[node]
        self._hand_out()

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.connection.close()
        self._workers = []
        self._control.close()
        # Killed by the kernel, its workers end with it.
        self._nursery.kill()
        self._nursery.wait()

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.work is None and self._free:
                node = self._free.popleft()
                self._send(worker, self._queues[node][0])

    def _send(self, worker: _AppWorker, work: Work) -> None:
        worker.work = work
        worker.begun_s = time.monotonic()
        try:
            worker.connection.send(work)
        except OSError:
            # It died while it was idle: its closed end is found by the next look.
            return

    def _received(self, worker: _AppWorker) -> NodeAnswer | None:
        """Return a worker's answer; None: it died, and its message is tried again."""
        work = worker.work
        assert work is not None
        try:
            answer: NodeAnswer = worker.connection.recv()
        except (EOFError, OSError):
            return self._of_dead(worker, work)
        worker.work = None
        self._attempts.pop(work.number, None)
        return answer

    def _late(self, worker: _AppWorker) -> NodeAnswer:
        """End a worker whose time is over, and return the answer of its message."""
        work = worker.work
        assert work is not None and work.limit is not None
        # It may be in code that hears nothing else.
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.process, signal.SIGKILL)
        self._replace(worker)
        self._attempts.pop(work.number, None)
        limit = work.limit
        reason = f"no answer within {limit.name} = {limit.seconds:g}"
        return NodeAnswer(work.number, code=limit.code, reason=reason)

    def _replace(self, worker: _AppWorker) -> str:
        """Have a new worker in the place of one that ended, and return how that did."""
        worker.connection.close()
        self._control.send((ENDED, worker.process))
        end = _end(self._control.recv())
        self._workers[self._workers.index(worker)] = self._fork()
        return end

    def _of_dead(self, worker: _AppWorker, work: Work) -> NodeAnswer | None:
        place = self._workers.index(worker)
        end = self._replace(worker)
        attempt = self._attempts.get(work.number, 1)
        if attempt < _MAX_ATTEMPTS:
            self._attempts[work.number] = attempt + 1
            self._send(self._workers[place], work)
            return None
        self._attempts.pop(work.number, None)
        reason = f"the ClientApp's process {end}, twice"
        return NodeAnswer(work.number, code=CRASHED, reason=reason)

    def _fork(self) -> _AppWorker:
        own_end, other_end = socket.socketpair()
        try:
            self._control.send((FORK, None))
            send_handle(self._control, other_end.fileno(), self._nursery.pid)
            process: int = self._control.recv()
        except (EOFError, OSError) as error:
            own_end.close()
            raise RunError(
                f"the process that loads the app has ended ({_end(self._nursery.wait())}); "
                "--resume goes on from the last reply"
            ) from error
        finally:
            other_end.close()
        return _AppWorker(process, Connection(own_end.detach()))


def _started(
    end: socket.socket, log: BinaryIO, passed: Sequence[int]
) -> subprocess.Popen[bytes]:
    variables = environment()
    command = [sys.executable]
    # As isolated as this process is, but for the variable below: -I would not read it.
    if sys.flags.isolated:
        command += ["-P", "-s"]
        variables = {k: v for k, v in variables.items() if not k.startswith("PYTHON")}
    if sys.dont_write_bytecode:
        command.append("-B")
    for name in _ONE_THREAD:
        variables.setdefault(name, "1")
    # Sets of texts in the app then have one order in every run.
    variables.setdefault("PYTHONHASHSEED", "0")
    number = str(end.fileno())
    return subprocess.Popen(
        [*command, "-m", "fedlearn.apps.nursery", number, str(os.getpid())],
        pass_fds=[end.fileno(), *passed],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=variables,
    )


def _end(code: int) -> str:
    """Return how a process ended, in words."""
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"
