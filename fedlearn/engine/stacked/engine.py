"""The stacked engine: many clients in one tensor, in as many processes as there are cores.

The clients of a stack follow from the cohort and from `chunk` alone, never from the
number of workers, so a run repeats bit for bit. Against `serial` and `pool` it differs by
the order of float sums, below 1e-5. Payloads are made client by client, as everywhere.

Clients are trained as in `pool`, to the same bits, where one at a time is as fast (text,
whose lines differ in length; float16; a Flower ClientApp; recurrent layers) or the only
way (a model that looks at values).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlearn.arrays import State
from fedlearn.clients import train as alone
from fedlearn.clients.batches import Tensors
from fedlearn.clients.local import Contribution
from fedlearn.engine.patience import looked_at
from fedlearn.engine.pool import Pool, Unit
from fedlearn.engine.runner import Runner
from fedlearn.engine.serial import Serial
from fedlearn.engine.stacked import train
from fedlearn.engine.stacked.stack import NotStackable
from fedlearn.engine.task import Held, Outcome, Task, with_download
from fedlearn.errors import ClientError, FedlearnError, RecordError, reason_of
from fedlearn.models import read_state
from fedlearn.plan import Plan, is_training
from fedlearn.wire import Bytes

# Clients in a stack on a CPU, where the config does not say: with five, a cohort of ten
# keeps two cores busy.
CPU_CHUNK = 5

# Clients in a stack on a GPU: the whole cohort.
GPU_CHUNK = 10_000

# Samples of each of the two clients that are tried.
_TRIAL_SAMPLES = 8

# The largest error of a step, relative to the largest change of a weight. Rounding stays
# below it; a wrong stacking rule does not.
_MAX_ROUNDING_ERROR = 1e-4


class Stacker:
    """Trains stacks in one process.

    not_stacked: why clients are trained one at a time; "" where they are stacked.
    """

    def __init__(self, runner: Runner, chunk: int, plan: Plan) -> None:
        """Take the clients, and try two of them.

        chunk: clients in a stack; 0 = `CPU_CHUNK` or `GPU_CHUNK`. plan: of a first round.
        """
        self.runner = runner
        self.chunk = chunk or GPU_CHUNK
        if not chunk and runner.device == "cpu":
            self.chunk = CPU_CHUNK
        with looked_at(runner.note, "a first step of two clients, as a stack"):
            self.not_stacked = self._obstacle(plan)

    def units(self, tasks: Sequence[Task]) -> list[Unit]:
        """Return the tasks in stacks of clients of like size, the largest first."""
        size = self.runner.population.clients.size
        # Clients of like size need little padding, and the largest stacks start first.
        ordered = sorted(
            tasks, key=lambda t: (t.kind, repr(t.plan), -size(t.client), t.client)
        )
        units: list[Unit] = []
        for (kind, _), group in groupby(ordered, key=lambda t: (t.kind, t.plan)):
            alike = list(group)
            # Evaluation is cheap, and goes client by client.
            length = 1
            if is_training(kind) and not self.not_stacked:
                length = self.chunk
            for first in range(0, len(alike), length):
                units.append(tuple(alike[first : first + length]))
        return units

    def answer(self, unit: Unit, payload: Bytes) -> list[Outcome]:
        """Return the outcomes of tasks. Raises RecordError."""
        if unit[0].trains and not self.not_stacked:
            try:
                return self._train(unit, payload)
            except RecordError:
                raise
            except Exception:
                # Whatever it is: each client by itself shows what is wrong, and whose
                # fault it is.
                pass
        # The same code as in `Pool`, with the same bits.
        return [self.runner.run(task, payload) for task in unit]

    def _train(self, unit: Unit, payload: Bytes) -> list[Outcome]:
        runner = self.runner
        begun = time.perf_counter()
        held = {task.client: runner.receive(task, payload) for task in unit}
        received = time.perf_counter()
        # Nothing of one stack's clients may reach the next.
        runner.refresh()
        clients = [
            train.Client(client, model.state, runner.tensors(client))
            for client, model in held.items()
        ]
        updates = train.train(runner.module, runner.layout, unit[0].plan, clients)
        # A stack's time is shared out among its clients.
        train_s = (time.perf_counter() - received) / len(unit)
        receive_s = (received - begun) / len(unit)
        outcomes = []
        for task, update in zip(unit, updates, strict=True):
            model = held[task.client]
            outcome = replace(self._outcome(task, model, update), train_s=train_s)
            outcomes.append(with_download(outcome, model, receive_s))
        return outcomes

    def _outcome(
        self, task: Task, held: Held, update: alone.Update | ClientError
    ) -> Outcome:
        """Return a client's update as a payload, or the reason why there is none."""
        if isinstance(update, ClientError):
            return Outcome(task.client, error=reason_of(update))
        begun = time.perf_counter()
        try:
            contribution = Contribution(
                update.difference, update.examples, update.train_loss
            )
            payload, kept = self.runner.reply(task, held, contribution)
        except RecordError:
            raise
        except FedlearnError as error:
            return Outcome(task.client, error=reason_of(error))
        encode_s = time.perf_counter() - begun
        return Outcome(task.client, payload, encode_s=encode_s, kept=kept)

    def _obstacle(self, plan: Plan) -> str:
        """Return why clients cannot be stacked; "" where two learn what each learns alone."""
        runner = self.runner
        if runner.app is not None:
            return "a Flower ClientApp trains one client at a time"
        if any(isinstance(layer, nn.RNNBase) for layer in runner.module.modules()):
            return "recurrent layers take one client at a time"
        start = read_state(runner.module, runner.layout)
        try:
            clients = self._trial_clients(start)
        except Exception:
            # Data that cannot be read fails its client, in its round.
            return ""
        try:
            if self._differs(plan, start, clients):
                return "what it computes for two clients at once is not what it computes for each"
        except NotStackable as error:
            return str(error)
        except Exception as error:
            # The model may be a user's code, and may raise anything.
            return reason_of(error)
        return ""

    def _trial_clients(self, start: State) -> list[train.Client]:
        """Return the first two clients, with a few samples each."""
        clients = []
        for client in range(min(2, len(self.runner.population.clients))):
            data = self.runner.tensors(client)
            few = Tensors(
                data.modality, data.x[:_TRIAL_SAMPLES], data.y[:_TRIAL_SAMPLES]
            )
            clients.append(train.Client(client, start, few))
        return clients

    def _differs(
        self, plan: Plan, start: State, clients: Sequence[train.Client]
    ) -> bool:
        """Tell whether a step of a stack is more than rounding away from the clients' own.

        Raises NotStackable, and whatever the model raises.
        """
        runner = self.runner
        # A straggler that does nothing would show nothing.
        trial = replace(plan, steps=1, codec="raw32", stragglers=0.0)
        updates = train.train(runner.module, runner.layout, trial, clients)
        for client, update in zip(clients, updates, strict=True):
            if isinstance(update, ClientError):
                continue
            single = alone.train(
                runner.module,
                runner.layout,
                trial,
                start,
                client.data,
                client.number,
            )
            if not _close(update.difference.floats, single.difference.floats):
                return True
        return False


def _close(stacked: NDArray[np.float32], single: NDArray[np.float32]) -> bool:
    """Tell whether two changes (P,) of a model differ by rounding only."""
    error = np.abs(stacked - single).max(initial=0)
    # A model that hardly changes is compared with 1e-6: relative errors mean little there.
    largest = max(1e-6, np.abs(single).max(initial=0))
    return bool(error <= _MAX_ROUNDING_ERROR * largest)


class StackedPool(Pool):
    """Stacks in worker processes."""

    def __init__(
        self, stacker: Stacker, workers: int = 0, client_timeout_s: float = 0.0
    ) -> None:
        """Fork the workers. Raises RunError, as `Pool`, and has its arguments."""
        self.stacker = stacker
        self.not_stacked = stacker.not_stacked
        if not stacker.not_stacked:
            clients = len(stacker.runner.population.clients)
            self.unit_size = min(stacker.chunk, clients)
        super().__init__(stacker.runner, workers, client_timeout_s)

    def units(self, tasks: Sequence[Task]) -> list[Unit]:
        """Return the tasks in stacks."""
        return self.stacker.units(tasks)

    def answer(self, unit: Unit, payload: Bytes) -> list[Outcome]:
        """Return the outcomes of a stack; called in a worker."""
        return self.stacker.answer(unit, payload)


class StackedSerial(Serial):
    """Stacks one after another in this process, on any device."""

    def __init__(self, stacker: Stacker) -> None:
        """Take what trains."""
        super().__init__(stacker.runner)
        self.stacker = stacker
        self.not_stacked = stacker.not_stacked

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task."""
        for unit in self.stacker.units(tasks):
            yield from self.watched(unit, payload)

    def answer(self, unit: Unit, payload: Bytes) -> list[Outcome]:
        """Return the outcomes of a stack."""
        return self.stacker.answer(unit, payload)


def stacked_engine(
    runner: Runner,
    workers: int,
    chunk: int,
    plan: Plan,
    client_timeout_s: float = 0.0,
) -> StackedPool | StackedSerial:
    """Return the engine for the runner's device. Arguments as in `Stacker` and `Pool`."""
    stacker = Stacker(runner, chunk, plan)
    if runner.device == "cpu":
        return StackedPool(stacker, workers, client_timeout_s)
    return StackedSerial(stacker)
