"""The process that works for an agent: ``python -m fedlearn.clients.agent.work``.

An agent starts it with its first task and not before, since it alone imports torch. It builds
model and data once, as the coordinator's welcome describes them. It then takes one task after
another from standard input: payloads in, answer out. What must outlive it lies in the run's
folder:

    first.f32, copies/, residuals/    see `fedlearn.clients.held`
    answers/KEY                       an answer that the coordinator does not have yet
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import IO

import torch

from fedlearn.brief import Brief
from fedlearn.clients.agent import pipe
from fedlearn.clients.agent.allowed import check_brief, check_name
from fedlearn.clients.agent.attached import Declined, end_with_agent, listen, lock
from fedlearn.clients.agent.pipe import (
    Limits,
    WorkCost,
    WorkReply,
    WorkRequest,
    WorkSetup,
)
from fedlearn.clients.agent.store import ANSWERS, write_answer
from fedlearn.clients.batches import batches_per_pass
from fedlearn.clients.build import local_of
from fedlearn.clients.held import (
    COPIES,
    RESIDUALS,
    FileStorage,
    Holdings,
    MissingModel,
)
from fedlearn.clients.local import EncodedUpdate
from fedlearn.clients.micro import NoRoom, ran_out
from fedlearn.errors import ConfigError, reason_of
from fedlearn.exchange.exchange_pb2 import Task
from fedlearn.plan import Plan
from fedlearn.system.failpoints import reach

# Models and residuals that are held: the coordinator may go back to its last checkpoint, or to the
# one before.
NEWEST = 4

# Folders of a run's folder in which files are written.
_PARTS = (COPIES, RESIDUALS, ANSWERS)


class Desk:
    """Does one client's tasks."""

    def __init__(
        self, folder: Path, client: int, experiment: str, data: str, limits: Limits
    ) -> None:
        """Build what the experiment describes.

        experiment: a brief as JSON. folder: of the run. data: "auto", a file.npz, or an import
        path. Raises UserError.
        """
        brief = Brief.from_json(experiment)
        # Before anything is built: a build imports the code that the brief names.
        check_brief(brief, data, limits.allow)
        self.client = client
        self.limits = limits
        # Of the last task; told with its answer.
        self.cost = WorkCost()
        self.local = local_of(brief, client, data)
        self.layout = self.local.layout
        self.holdings = Holdings(FileStorage(folder), NEWEST)

    def do(self, task: Task, payloads: list[bytes], halvings: int = 0) -> bytes:
        """Return the answer to a task.

        halvings: of mini-batches, known to be needed for want of memory.

        Raises MissingModel when a difference starts from a model that is not here, ClientError
        when the work fails or is not allowed, and PayloadError for payloads that cannot be
        read.
        """
        plan = Plan.from_json(task.plan)
        kind = task.key.kind
        if kind == "train":
            self._check(plan)
        # After the check: what the owner does not allow is declined before it is
        # decoded.
        start = self.holdings.arrive(self.local, task, payloads)
        # Before the work: the next task may be a difference from this model, whatever comes of it.
        if task.keep:
            self.holdings.keep_model(start.state.floats)
            reach("agent.model-kept")
        # Work that fails, or is an evaluation, has no cost to tell.
        self.cost = WorkCost()
        with self.local.alone(kind, plan, self.client):
            if kind != "train":
                metrics = self.local.evaluate(self.client, start.state)
                return json.dumps(metrics).encode()
            residual = self.holdings.residual(task)
            reach("agent.training")
            update = self.local.train(self.client, plan, start, residual, halvings)
        self._settle(task, update)
        return update.payload

    def _settle(self, task: Task, update: EncodedUpdate) -> None:
        """Keep what the training for a task left."""
        if update.residual is not None:
            self.holdings.keep_residual(task, update.residual)
            reach("agent.residual-kept")
        self.cost = WorkCost(update.steps, update.train_s, update.halvings)

    def _check(self, plan: Plan) -> None:
        """Raise Declined for more work than the owner allows, and for code that is not.

        A step of several mini-batches counts as so many steps, and as many steps as a pass has
        count as an epoch: otherwise a plan could hide work from either limit.
        """
        try:
            check_name("optimizer", plan.optimizer, self.limits.allow)
        except ConfigError as error:
            raise Declined(str(error)) from error
        samples = self.local.population.clients.size(self.client)
        per_pass = batches_per_pass(samples, max(0, plan.batch_size))
        steps = plan.epochs * per_pass
        if plan.answer == "gradient":
            steps = plan.accumulate or steps
        else:
            steps = plan.steps * plan.accumulate or steps
        _check_limit("epochs", math.ceil(steps / max(1, per_pass)), self.limits.epochs)
        _check_limit("steps", steps, self.limits.steps)


def _check_limit(unit: str, count: int, limit: int) -> None:
    """Raise Declined for a count above the owner's limit; a limit of 0 allows any."""
    if limit and count > limit:
        raise Declined(
            f"the plan asks for {count} {unit}; the owner of this device allows {limit}"
        )


def _failure(error: BaseException) -> WorkReply:
    """Return the reply to a task whose work raised an error."""
    # The coordinator can repair this one: it sends the models again.
    if isinstance(error, MissingModel):
        return WorkReply("lacking")
    if isinstance(error, Declined | NoRoom):
        return WorkReply("declined", reason_of(error))
    # Beside the mini-batches, which are halved: the model itself, or what is kept of it.
    if ran_out(error):
        return WorkReply("declined", "memory: it ran out")
    if isinstance(error, OSError):
        return WorkReply("failed", f"this device's disk: {error.strerror or error}")
    return WorkReply("failed", reason_of(error))


class _Worker:
    """Does the requests of one agent; at the first one it takes the folder and builds the desk."""

    def __init__(self, setup: WorkSetup) -> None:
        self.setup = setup
        self.folder = Path(setup.folder)
        # Held as long as the process.
        self.lock: IO[bytes] | None = None
        self.desk: Desk | None = None

    def answer(
        self, request: WorkRequest, task_bytes: bytes, payloads: list[bytes]
    ) -> list[bytes]:
        """Return the reply to a request as a message; the answer is on disk before it is told."""
        task = Task.FromString(task_bytes)
        try:
            # Inside of the handler, both: a disk that fails and a model that cannot be built
            # are replies, not crashes.
            if self.lock is None:
                self.lock = lock(self.folder, _PARTS)
            if self.desk is None:
                self.desk = self._build()
            answer = self.desk.do(task, payloads, request.halvings)
            write_answer(self.folder / ANSWERS / request.name, task_bytes, answer)
        # Model and data may be the user's code, which raises anything.
        except (Exception, SystemExit) as error:
            return pipe.pack(_failure(error).to_dict())
        reply = WorkReply("answer", cost=self.desk.cost)
        return pipe.pack(reply.to_dict(), [answer])

    def _build(self) -> Desk:
        setup = self.setup
        desk = Desk(
            self.folder, setup.client, setup.experiment, setup.data, setup.limits
        )
        # Of the experiment's own data the coordinator tells.
        if setup.data != "auto":
            for sentence in desk.local.population.notes:
                print(f"warning: {sentence}", file=sys.stderr, flush=True)
        return desk


def main() -> int:
    """Answer requests from standard input until it ends; the first message is the setup."""
    # A descriptor of its own for the pipe, as number 1 is given away below.
    out = os.fdopen(os.dup(1), "wb")
    # What a model prints must not stand among the answers.
    os.dup2(2, 1)
    end_with_agent()
    # A second thread would change low bits.
    torch.set_num_threads(1)
    messages: SimpleQueue[pipe.Message] = SimpleQueue()
    # A thread reads, so that the agent's end is noticed in the middle of the work.
    threading.Thread(
        target=listen, args=(sys.stdin.buffer, messages), daemon=True
    ).start()
    setup = WorkSetup.from_dict(messages.get()[0])
    worker = _Worker(setup)
    # `listen` ends this process.
    while True:
        head, (task_bytes, *payloads) = messages.get()
        request = WorkRequest.from_dict(head)
        out.writelines(worker.answer(request, task_bytes, payloads))
        out.flush()


if __name__ == "__main__":
    sys.exit(main())
