"""`Stacked`: many clients in one tensor, in as many processes as there are cores.

What is trained together follows from the cohort and from `chunk` alone, never from the number of workers, so a run repeats
bit for bit; against `serial` and `pool` it differs by the order of float sums, below 1e-5. Payloads are made client by
client, as everywhere.

Where a client at a time is as good (text, whose lines differ in length; float16; a Flower ClientApp; recurrent layers) or the
only way (a model that looks at values), clients are trained as in `pool`, to the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
from torch import nn

from fedlearn.clients import train as one
from fedlearn.clients.batches import Tensors
from fedlearn.engine.pool import Pool, Unit
from fedlearn.engine.runner import Runner
from fedlearn.engine.serial import Serial
from fedlearn.engine.stacked import train
from fedlearn.engine.stacked.stack import NotStackable
from fedlearn.engine.task import Held, Outcome, Task, with_download
from fedlearn.errors import ClientError, FedlearnError, RecordError
from fedlearn.models import read_state
from fedlearn.plan import Plan
from fedlearn.wire import Bytes

CHUNK = 5
"""Clients in a stack on a CPU where nothing else is said: a cohort of ten keeps two cores busy. On a GPU it is the whole cohort."""

WHOLE = 10_000

TRIAL_SAMPLES = 8
TOLERANCE = 1e-4
"""Of a step's change of a weight, relative to the largest one: what the order of sums can do, and a wrong rule cannot."""


class Stacker:
    """Trains stacks in one process."""

    def __init__(self, runner: Runner, chunk: int, plan: Plan) -> None:
        """Take the clients, and try two of them: ``why`` says why clients are not stacked, where they are not."""
        self.runner, self.chunk = (
            runner,
            chunk or (CHUNK if runner.device == "cpu" else WHOLE),
        )
        self.why = self._try(plan)

    def units(self, tasks: Sequence[Task]) -> list[Unit]:
        """Return the tasks in stacks of clients of like size, the largest first."""
        size = self.runner.population.clients.size
        ordered = sorted(
            tasks, key=lambda t: (t.kind, repr(t.plan), -size(t.client), t.client)
        )
        units: list[Unit] = []
        for (kind, _), group in groupby(ordered, key=lambda t: (t.kind, t.plan)):
            alike = list(group)
            most = 1 if kind != "train" or self.why else self.chunk
            units += [tuple(alike[at : at + most]) for at in range(0, len(alike), most)]
        return units

    def answer(self, unit: Unit, payload: Bytes) -> list[Outcome]:
        """Return what comes of tasks."""
        if unit[0].kind == "train" and not self.why:
            try:
                return self._train(unit, payload)
            except RecordError:
                raise
            except Exception:  # whatever it is: by itself each client shows what is wrong, and whose it is
                pass
        return [self.runner.run(task, payload) for task in unit]

    def _train(self, unit: Unit, payload: Bytes) -> list[Outcome]:
        runner, plan = self.runner, unit[0].plan
        begun = time.perf_counter()
        held = {task.client: runner.receive(task, payload) for task in unit}
        received = time.perf_counter()
        runner.refresh()
        clients = [train.Client(c, h.state, runner.tensors(c)) for c, h in held.items()]
        updates = train.train(runner.module, runner.layout, plan, clients)
        train_s = (time.perf_counter() - received) / len(unit)
        receive_s = (received - begun) / len(unit)
        return [
            self._outcome(task, held[task.client], update, receive_s, train_s)
            for task, update in zip(unit, updates, strict=True)
        ]

    def _outcome(
        self,
        task: Task,
        held: Held,
        update: one.Update | ClientError,
        receive_s: float,
        train_s: float,
    ) -> Outcome:
        begun = time.perf_counter()
        try:
            if isinstance(update, ClientError):
                raise update
            payload, kept = self.runner.reply(
                task, held, update.difference, update.examples, update.train_loss, {}
            )
            found = Outcome(
                task.client,
                payload,
                encode_s=time.perf_counter() - begun,
                kept=kept,
            )
        except RecordError:
            raise
        except FedlearnError as error:
            found = Outcome(task.client, error=str(error))
        return with_download(replace(found, train_s=train_s), held, receive_s)

    def _try(self, plan: Plan) -> str:
        """Return why clients cannot be stacked; "" where they can, and two give what each gives by itself."""
        runner = self.runner
        if runner.app is not None:
            return "a Flower ClientApp trains one client at a time"
        if any(isinstance(layer, nn.RNNBase) for layer in runner.module.modules()):
            return "recurrent layers take one client at a time"
        start = read_state(runner.module, runner.layout)
        try:
            clients = [
                train.Client(c, start, _few(runner.tensors(c)))
                for c in range(min(2, len(runner.population.clients)))
            ]
        except Exception:  # data that cannot be read fails its client, in its round
            return ""
        short = replace(
            plan, steps=1, codec="raw32", stragglers=0.0
        )  # one that fails shows nothing
        try:
            found = train.train(runner.module, runner.layout, short, clients)
            for client, update in zip(clients, found, strict=True):
                if isinstance(update, ClientError):
                    continue
                wanted = one.train(
                    runner.module,
                    runner.layout,
                    short,
                    start,
                    client.data,
                    client.number,
                ).difference.floats
                if np.abs(update.difference.floats - wanted).max(
                    initial=0
                ) > TOLERANCE * max(1e-6, np.abs(wanted).max(initial=0)):
                    return "what it computes for two clients at once is not what it computes for each"
        except NotStackable as error:
            return str(error)
        except (
            Exception
        ) as error:  # the model may be a user's code, and may do anything
            return f"{type(error).__name__}: {error}"
        return ""


def _few(data: Tensors) -> Tensors:
    return Tensors(data.modality, data.x[:TRIAL_SAMPLES], data.y[:TRIAL_SAMPLES])


class StackedPool(Pool):
    """Stacks in worker processes."""

    def __init__(self, stacker: Stacker, workers: int = 0) -> None:
        """Fork the workers."""
        self.stacker = stacker
        self.not_stacked = stacker.why
        self.most = (
            1
            if stacker.why
            else min(stacker.chunk, len(stacker.runner.population.clients))
        )
        super().__init__(stacker.runner, workers)

    def units(self, tasks: Sequence[Task]) -> list[Unit]:
        """Return the tasks in stacks."""
        return self.stacker.units(tasks)

    def answer(self, unit: Unit, payload: Bytes) -> list[Outcome]:
        """Return what comes of a stack."""
        return self.stacker.answer(unit, payload)


class StackedSerial(Serial):
    """Stacks one after another in this process, on any device."""

    def __init__(self, stacker: Stacker) -> None:
        """Take what trains."""
        super().__init__(stacker.runner)
        self.stacker = stacker
        self.not_stacked = stacker.why

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task."""
        for unit in self.stacker.units(tasks):
            yield from self.stacker.answer(unit, payload)


def Stacked(
    runner: Runner, workers: int, chunk: int, plan: Plan
) -> StackedPool | StackedSerial:  # a choice of classes
    """Return the engine for the runner's device.

    chunk: clients in a stack; 0 = `CHUNK`, on other devices than the CPU the cohort. plan: of a first round.
    """
    stacker = Stacker(runner, chunk, plan)
    return (
        StackedPool(stacker, workers)
        if runner.device == "cpu"
        else StackedSerial(stacker)
    )
