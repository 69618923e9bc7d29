"""The process that works for an agent: `python -m fedlearn.clients.agent.work`, started with its first task and never before.

It alone imports torch. It builds model and data once, as the coordinator's welcome says, and then takes one task after
another from standard input: payloads in, answer out. What must outlive it lies in the run's folder:

    copies/DIGEST.f32      models that a difference may start from, the newest few
    residuals/WORK.f32     what error feedback carries over, by the work that left it
    answers/KEY            an answer that the coordinator does not have yet

Legend: P floats of the model's layout.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import math
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.arrays import Layout, State
from fedlearn.brief import Brief
from fedlearn.clients.agent import pipe
from fedlearn.clients.agent.store import write_answer, write_file
from fedlearn.clients.batches import batches_per_pass
from fedlearn.clients.build import arrive, local_of
from fedlearn.clients.micro import NoRoom, ran_out
from fedlearn.errors import ClientError, ConfigError, FedlearnError
from fedlearn.exchange.exchange_pb2 import Task
from fedlearn.exchange.keys import of, residual_name
from fedlearn.plan import Plan
from fedlearn.system.failpoints import reach
from fedlearn.wire import Header, decode_model, digest

KEPT = 4
"""Models and residuals that are kept: the coordinator may go back to its last checkpoint, or the one before."""


class Lacking(Exception):
    """The model that a difference starts from is not here."""


@dataclass(frozen=True)
class Limits:
    """What the device's owner allows; 0: no limit."""

    epochs: int = 0  # passes over the samples, in whatever words the plan asks for them
    steps: int = 0  # mini-batches
    allow: tuple[str, ...] = ()  # modules that models and data may be imported from


class Desk:
    """Where one client's tasks are done."""

    def __init__(
        self, folder: Path, client: int, experiment: str, data: str, limits: Limits
    ) -> None:
        """Build what the experiment names. data: "auto", a file.npz, or an import path. Raises UserError."""
        brief = Brief.from_json(experiment)
        self.folder, self.client, self.limits = folder, client, limits
        self.spent: dict[
            str, float
        ] = {}  # on the last task: its steps, their seconds, and how often its mini-batches were halved
        _check_experiment(brief, data, limits)
        self.local = local_of(brief, client, data)
        self.layout: Layout = self.local.layout
        for name in ("copies", "residuals"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        first = folder / "first.f32"
        if (
            first.exists()
        ):  # the coordinator's, where what is built here differs in a bit
            self.local.initial = np.frombuffer(first.read_bytes(), "<f4").astype(
                np.float32
            )

    def do(self, task: Task, payloads: list[bytes], halvings: int = 0) -> bytes:
        """Return the answer to a task; halvings: of mini-batches that are known not to fit into memory.

        Raises Lacking when a difference starts from a model that is not here, ClientError when the work fails or is not
        allowed, and PayloadError for payloads that cannot be read.
        """
        plan = Plan.from_json(task.plan)
        if task.key.kind == "train":
            self._check(plan)
        header, state = self._arrive(task, payloads)
        if task.keep:
            self._keep("copies", state.floats, digest(state.floats))
            reach("agent.model-kept")
        self.spent = {}
        with self.local.alone(task.key.kind, plan, self.client):
            if task.key.kind != "train":
                return json.dumps(self.local.evaluate(self.client, state)).encode()
            lost = (
                self._residual(task.residual)
                if task.feedback and task.residual
                else None
            )
            reach("agent.training")
            answer = self.local.train(self.client, plan, header, state, lost, halvings)
        if answer.residual is not None:
            name = residual_name(of(task.key))
            self._keep("residuals", answer.residual, name)
            reach("agent.residual-kept")
        self.spent = {
            "steps": answer.steps,
            "train_s": answer.train_s,
            "halvings": answer.halvings,
        }
        return answer.payload

    def _check(self, plan: Plan) -> None:
        """Raise Declined for more work than is allowed: steps of many mini-batches are many steps, and enough of them an epoch."""
        per_pass = batches_per_pass(
            self.local.population.clients.size(self.client), max(0, plan.batch_size)
        )
        each = 1 if plan.task == "gradient" else plan.steps
        steps = each * plan.accumulate or plan.epochs * per_pass
        for name, asked in (
            ("epochs", math.ceil(steps / max(1, per_pass))),
            ("steps", steps),
        ):
            most = getattr(self.limits, name)
            if most and asked > most:
                raise Declined(
                    f"the plan asks for {asked} {name}; the owner of this device allows {most}"
                )

    def _arrive(self, task: Task, payloads: list[bytes]) -> tuple[Header, State]:
        """Return the model that the payloads lead to, one after another."""
        if task.repair:
            _, state = decode_model(self.layout, payloads[0])
            write_file(self.folder / "first.f32", state.floats.astype("<f4").tobytes())
            self.local.initial, payloads = state.floats, payloads[1:]
        elif digest(self.local.initial) != task.initial.to_bytes(8, "little"):
            raise Lacking
        base = self.local.initial
        if task.base:
            name = task.base.to_bytes(8, "little")
            kept = self._kept("copies", name)
            if kept is None or digest(kept) != name:
                raise Lacking
            base = kept
        return arrive(self.layout, payloads, base, self.local.initial)

    def _residual(self, name: int) -> NDArray[np.float32] | None:
        return self._kept("residuals", name.to_bytes(8, "little"))

    def _kept(self, kind: str, name: bytes) -> NDArray[np.float32] | None:
        """Return a vector (P,) that was kept under a name; None: it is not here, or not what it was."""
        try:
            data = (self.folder / kind / f"{name.hex()}.f32").read_bytes()
            found = np.frombuffer(data[8:], "<f4").astype(np.float32)
        except (OSError, ValueError):
            return None
        return found if digest(found) == data[:8] else None

    def _keep(self, kind: str, vector: NDArray[np.float32], name: bytes) -> None:
        """Bring a vector (P,) and its digest to disk, and remove all but the newest few."""
        folder = self.folder / kind
        write_file(
            folder / f"{name.hex()}.f32",
            digest(vector) + vector.astype("<f4").tobytes(),
        )
        for old in sorted(
            folder.glob("*.f32"), key=lambda path: path.stat().st_mtime_ns, reverse=True
        )[KEPT:]:
            old.unlink(missing_ok=True)


class Declined(ClientError):
    """The device's owner does not allow this."""


def _check_experiment(brief: Brief, data: str, limits: Limits) -> None:
    """Raise ConfigError for what the device's owner does not allow the coordinator to name."""
    _check_allowed("model", brief.model, limits.allow)
    if data == "auto":
        _check_allowed("data", brief.data, limits.allow)
        if (
            brief.data == "dir" and "dir" not in limits.allow
        ):  # the coordinator would choose which of this device's files are read
            raise ConfigError(
                "the experiment's data is a folder of this device; to allow it: --allow dir, or name your own by --data"
            )
        _check_allowed("partition", brief.partition.get("kind", ""), limits.allow)


def _check_allowed(what: str, name: str, allow: tuple[str, ...]) -> None:
    """Refuse to import what the coordinator names, unless the device's owner allows its module: no code comes from outside."""
    module = name.partition(":")[0]
    if ":" in name and not any(
        module == known or module.startswith(f"{known}.") for known in allow
    ):
        raise ConfigError(
            f"the coordinator asks for the {what} '{name}' of this device; to allow it: --allow {module}"
        )


def _listen(
    source: IO[bytes], messages: SimpleQueue[tuple[dict[str, Any], list[bytes]]]
) -> None:
    """Put the agent's messages in a queue, and end this process with the agent, also in the middle of its work.

    Nobody waits for that work any more, and an agent that starts again has it done by a process of its own.
    """
    try:
        while (message := pipe.read(source)) is not None:
            messages.put(message)
    finally:
        os._exit(0)


def _end_with_parent() -> None:
    """Have the kernel kill this process with the agent, also while it is paused, and before the agent when memory runs out."""
    with contextlib.suppress(OSError, AttributeError):  # not on Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        Path("/proc/self/oom_score_adj").write_text("500")


def _alone(folder: Path) -> IO[bytes]:
    """Wait until no other process works in the run's folder: that of an agent that was killed may not have ended yet."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / ".lock", "wb")  # noqa: SIM115  # held as long as this process
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def main() -> int:
    """Answer tasks from standard input until it ends; the first message says what to build."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a model prints must not stand among the answers
    _end_with_parent()
    torch.set_num_threads(1)
    messages: SimpleQueue[tuple[dict[str, Any], list[bytes]]] = SimpleQueue()
    threading.Thread(
        target=_listen, args=(sys.stdin.buffer, messages), daemon=True
    ).start()
    told, _ = messages.get()
    lock = _alone(Path(told["folder"]))
    desk: Desk | None = None
    while not lock.closed:  # for ever: `_listen` ends this
        (asked, (task_bytes, *payloads)) = messages.get()
        task = Task.FromString(task_bytes)
        try:
            if desk is None:
                limits = Limits(told["epochs"], told["steps"], tuple(told["allow"]))
                desk = Desk(
                    Path(told["folder"]),
                    told["client"],
                    told["experiment"],
                    told["data"],
                    limits,
                )
            answer = desk.do(task, payloads, asked.get("halvings", 0))
            write_answer(
                Path(told["folder"]) / "answers" / asked["name"], task_bytes, answer
            )
            reply = pipe.pack({"result": "answer", "spent": desk.spent}, [answer])
        except Lacking:
            reply = pipe.pack({"result": "lacking"})
        except (Declined, NoRoom) as error:
            reply = pipe.pack({"result": "declined", "text": str(error)})
        except FedlearnError as error:
            reply = pipe.pack({"result": "failed", "text": str(error)})
        except OSError as error:
            reply = pipe.pack(
                {
                    "result": "failed",
                    "text": f"this device's disk: {error.strerror or error}",
                }
            )
        except (
            Exception,
            SystemExit,
        ) as error:  # model and data may be the user's code
            if ran_out(
                error
            ):  # beside the mini-batches: the model itself, or what is kept of it
                reply = pipe.pack({"result": "declined", "text": "memory: it ran out"})
            else:
                reply = pipe.pack(
                    {"result": "failed", "text": f"{type(error).__name__}: {error}"}
                )
        for part in reply:
            out.write(part)
        out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
