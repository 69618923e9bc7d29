"""The process that runs a Flower app for an agent: ``python -m fedlearn.apps.device``.

The agent starts it by its name with the first message of an app's run, and not before. It
imports no flwr itself: what imports the app, and what runs it, are processes below this one
(`fedlearn.apps.workers`), so that whatever the app does to its process is a failure of that
message. What must outlive it lies in the run's folder on the agent's disk:

    states/0/CLIENT-TURN    what the app kept (``context.state``) after a turn
    copies/DIGEST           records that later messages are differences from
    answers/KEY             an answer that the coordinator does not have yet

A message names the turn that left its state, so the same message again, after any kill,
begins from the same state.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import IO, BinaryIO

from fedlearn.apps.orders import AppBrief, EchoedAnswer, request_of, work_of
from fedlearn.apps.states import state_path, sweep_states
from fedlearn.apps.work import CRASHED, AppSettings, NodeAnswer, Work
from fedlearn.apps.workers import LOOK_S, Workers
from fedlearn.clients.agent import pipe
from fedlearn.clients.agent.attached import Declined, end_with_agent, listen, lock
from fedlearn.clients.agent.modules import check_app
from fedlearn.clients.agent.pipe import WorkReply, WorkRequest, WorkSetup
from fedlearn.clients.agent.store import ANSWERS, write_answer
from fedlearn.errors import ClientError, ConfigError, reason_of
from fedlearn.exchange.exchange_pb2 import Task
from fedlearn.system import files
from fedlearn.system.failpoints import reach

COPIES = "copies"
STATES = "states"

# Python that flwr runs on.
_LEAST_PYTHON = (3, 11)


class _Lacking(Exception):
    """This device does not hold a record that a message is a difference from."""


class AppDesk:
    """Answers the messages of one app's run, of one client."""

    def __init__(
        self, setup: WorkSetup, folder: Path, held: IO[bytes], log: BinaryIO
    ) -> None:
        """Take a run whose app may run here.

        held: the lock of the run's folder. log: takes what the app prints. Raises what
        `checked` raises.
        """
        brief = checked(setup)
        self._rules = setup.rules
        self._client = setup.client
        self._held = held
        self._log = log
        self._settings = AppSettings(
            None,
            brief.clientapp,
            dict(brief.run_config),
            brief.nodes,
            brief.seed,
            folder / COPIES,
            folder / STATES,
            {setup.client: dict(setup.rules.node_config)},
        )
        # None until the first message, and after one that took too long.
        self._workers: Workers | None = None

    def answer(self, task: Task, payloads: Sequence[bytes]) -> bytes:
        """Return the answer to a task, as it travels; the app's own failure is one too.

        Raises _Lacking, FormatError for a task that is none, ClientError for one that this
        device cannot do, Declined where the app cannot be loaded, and OSError.
        """
        if not payloads:
            raise ClientError("the coordinator's message has no payload")
        work = work_of(task.plan, payloads[0])
        # The certificate says who this is, and the state here is that client's.
        if work.partition != self._client:
            raise ClientError(f"the message is for node {work.partition}")
        self._take(payloads[1:])
        self._check(work)
        reach("agent.training")
        answer = self._run(work)
        # The state of this turn is on disk, the answer is not.
        reach("agent.residual-kept")
        return EchoedAnswer(request_of(work), answer).pack()

    def close(self) -> None:
        """End the app's processes."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _take(self, records: Sequence[bytes]) -> None:
        """Keep records that the coordinator has sent because they were missing."""
        for data in records:
            path = self._settings.copies / record_digest(data)
            files.make_folder(path.parent)
            files.replace(path, data)

    def _check(self, work: Work) -> None:
        """Make sure that all is there which a message stands on, and remove the rest."""
        settings = self._settings
        # What it begins from as well: it may be asked again before its answer is stored.
        needed = {*work.bases.values(), *work.keep}
        if settings.copies.is_dir():
            for path in settings.copies.iterdir():
                if path.name not in needed:
                    path.unlink(missing_ok=True)
        for digest in work.bases.values():
            path = settings.copies / digest
            # Read whole: a base with other bits would cost the reply, and not a repair.
            if not path.is_file() or record_digest(path.read_bytes()) != digest:
                raise _Lacking
        path = state_path(settings.states, self._client, work.state)
        # To begin anew without it would be another model, in silence.
        if work.state and not path.is_file():
            raise ClientError(
                f"this device does not hold what its app kept at message {work.state} of "
                "this run (context.state): its folder was changed"
            )
        sweep_states(settings.states, self._client, work.state)

    def _run(self, work: Work) -> NodeAnswer:
        """Have the app answer, within the owner's time."""
        workers = self._ready()
        workers.push(work)
        # In looks and not by a clock: a device that is paused meanwhile is not late.
        looks = round(self._rules.seconds / LOOK_S) or sys.maxsize
        for _ in range(looks):
            # One message is in work, so the first answer is its.
            for answer in workers.answers():
                workers.done(work.node, work.state)
                return answer
        # With the processes its work ends, whatever it does there.
        self.close()
        return NodeAnswer(
            work.number,
            code=CRASHED,
            reason=f"the ClientApp took longer than the {self._rules.seconds:g} s that the "
            "owner of this device allows",
        )

    def _ready(self) -> Workers:
        """Return the processes that run the app, started if need be."""
        if self._workers is None:
            # The lock is held until the last of them has ended.
            passed = (self._held.fileno(),)
            workers = Workers(self._settings, 1, self._log, passed)
            try:
                workers.ready()
            # Tried again with the next message: its owner may have installed it by then.
            except ConfigError as error:
                workers.close()
                raise Declined(str(error)) from None
            self._workers = workers
        return self._workers


def checked(setup: WorkSetup) -> AppBrief:
    """Return the description of a run's app; nothing of the app, or of flwr, is imported.

    Raises Declined for an app that may not, or cannot, run here, and FormatError for a
    description that is none.
    """
    brief = AppBrief.of_json(setup.experiment)
    try:
        check_app(brief.clientapp, setup.rules.apps)
    except ConfigError as error:
        raise Declined(str(error)) from None
    check_flower(brief.clientapp)
    return brief


def check_flower(clientapp: str) -> None:
    """Raise Declined where this device has no Flower to run an app with."""
    if sys.version_info >= _LEAST_PYTHON and find_spec("flwr") is not None:
        return
    raise Declined(
        f"the ClientApp '{clientapp}' needs Flower, which this device does not have: "
        "pip install 'fedlearn[flower]' (Python 3.11 or newer)"
    )


def record_digest(data: bytes) -> str:
    """Return the digest of a record's file: name, a zero byte, and the record's bytes."""
    # Of the record alone, as at the other end; its name ends at the first zero byte.
    record = data.partition(b"\0")[2]
    return hashlib.sha256(record).hexdigest()[:32]


def failure(error: BaseException) -> WorkReply:
    """Return the reply to a task that has no answer."""
    if isinstance(error, _Lacking):
        return WorkReply("lacking")
    if isinstance(error, Declined):
        return WorkReply("declined", reason_of(error))
    if isinstance(error, OSError):
        return WorkReply("failed", f"this device's disk: {error.strerror or error}")
    return WorkReply("failed", reason_of(error))


class _Attendant:
    """Takes the agent's requests; at the first one it takes the folder and the app."""

    def __init__(self, setup: WorkSetup) -> None:
        self._setup = setup
        self._folder = Path(setup.folder).absolute()
        # Held as long as the process, and those below it.
        self._lock: IO[bytes] | None = None
        self._desk: AppDesk | None = None

    def reply(self, request: WorkRequest, blobs: Sequence[bytes]) -> list[bytes]:
        """Return the reply to a request as a message; its answer is on disk already."""
        task_bytes, *payloads = blobs
        try:
            if self._lock is None:
                self._lock = lock(self._folder, (COPIES, ANSWERS))
            if self._desk is None:
                log = sys.stderr.buffer
                self._desk = AppDesk(self._setup, self._folder, self._lock, log)
            answer = self._desk.answer(Task.FromString(task_bytes), payloads)
            write_answer(self._folder / ANSWERS / request.name, task_bytes, answer)
        # A task comes from outside: whatever it makes of this is that task's failure.
        except Exception as error:
            return pipe.pack(failure(error).to_dict())
        return pipe.pack(WorkReply("answer").to_dict(), [answer])


def main() -> int:
    """Answer requests from standard input until it ends; the first message is the setup."""
    # A descriptor of its own for the pipe, as number 1 is given away below.
    out = os.fdopen(os.dup(1), "wb")
    # What an app prints must not stand among the answers.
    os.dup2(2, 1)
    end_with_agent()
    messages: SimpleQueue[pipe.Message] = SimpleQueue()
    # A thread reads, so that the agent's end is noticed in the middle of the work.
    threading.Thread(
        target=listen, args=(sys.stdin.buffer, messages), daemon=True
    ).start()
    attendant = _Attendant(WorkSetup.from_dict(messages.get()[0]))
    # `listen` ends this process.
    while True:
        head, blobs = messages.get()
        out.writelines(attendant.reply(WorkRequest.from_dict(head), blobs))
        out.flush()


if __name__ == "__main__":
    sys.exit(main())
