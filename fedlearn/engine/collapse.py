"""``[engine] collapse``: clients that take one step from the same model are one batch.

The update of a single client is never formed, so this suits runs that only take the mean
of updates, sent as they are. Groups of clients follow from the cohort alone. One worker
computes a group's sum in slices of fixed size, and groups are added exactly, so neither
the number of workers nor the engine below changes a bit. Against one client at a time,
the result differs by the order of float sums.

What clients report, and the bytes that their payloads would have taken, are as without
it. A group that fails, or whose sum is not finite, is trained client by client, so that
the reason is recorded for the right client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.serverapp.strategy import Strategy

from fedlearn.arrays import State
from fedlearn.config import Experiment
from fedlearn.engine import together
from fedlearn.engine.collapsible import config_fault, first_plan, model_fault
from fedlearn.engine.protocol import Engine, Layer
from fedlearn.engine.runner import Runner
from fedlearn.engine.task import Group, Outcome, Task
from fedlearn.errors import ConfigError, PayloadError
from fedlearn.strategies.aggregate import check_range
from fedlearn.strategies.fedavg import FedAvg

# Samples in a group, about. Each group costs the server's sum as much as one update.
GROUP_SAMPLES = 256


class Collapsed(Layer):
    """An engine whose clients train in groups; all else is the inner engine's."""

    def __init__(self, inner: Engine, runner: Runner, by_examples: bool) -> None:
        """Take the engine that does the work.

        by_examples: an update weighs its client's examples; otherwise all weigh 1.
        """
        super().__init__(inner)
        self.runner = runner
        self.by_examples = by_examples

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task."""
        if not tasks or not tasks[0].trains:
            yield from self.inner.run(tasks, payload)
            return
        groups = {group[0].client: group for group in self.groups(tasks)}
        group_tasks = [self._group_task(group) for group in groups.values()]
        singles: list[Task] = []
        for outcome in self.inner.run(group_tasks, payload):
            group = groups[outcome.client]
            if _summable(outcome, len(tasks)):
                yield from _split(group, outcome)
            else:
                singles += group
        # Client by client, so that a failure is recorded for the client at fault.
        if singles:
            yield from self.inner.run(singles, payload)

    def groups(self, tasks: Sequence[Task]) -> list[list[Task]]:
        """Return the tasks in groups of about as many samples each.

        Their number is a power of two, so that cores have equal shares. The largest
        clients are placed first, each in the group with the fewest samples so far.
        """
        sizes = {task.client: self._samples(task) for task in tasks}
        needed = -(-sum(sizes.values()) // GROUP_SAMPLES)
        power_of_two = 1 << (needed - 1).bit_length()
        number = max(1, min(len(tasks), power_of_two))
        groups: list[list[Task]] = [[] for _ in range(number)]
        filled = [0] * number
        # The client breaks ties, so that the order of the tasks does not matter.
        ordered = sorted(tasks, key=lambda task: (-sizes[task.client], task.client))
        for task in ordered:
            smallest = filled.index(min(filled))
            groups[smallest].append(task)
            filled[smallest] += sizes[task.client]
        return [group for group in groups if group]

    def _samples(self, task: Task) -> int:
        """Return how many samples a client's step is computed from, at most."""
        # An empty client counts as one sample: so that such clients spread too.
        samples = max(1, self.runner.population.clients.size(task.client))
        batch = min(task.plan.batch_size or samples, samples)
        return task.plan.accumulate * batch

    def _group_task(self, tasks: Sequence[Task]) -> Task:
        """Return the task of a group; its client is the group's first."""
        clients = tuple(task.client for task in tasks)
        group = Group(clients, self.by_examples)
        return Task(clients[0], "train", tasks[0].plan, group=group)


def _summable(outcome: Outcome, cohort: int) -> bool:
    """Tell whether a group's sum can be added exactly, in a cohort of so many clients."""
    if outcome.error is not None or outcome.payload is None:
        return False
    # Integers are left out: models that change any are refused by `model_fault`.
    total = State(together.sum_of(outcome.payload), np.empty(0, np.int64))
    try:
        check_range(total, 1, cohort)
    except PayloadError:
        return False
    # In float32, as a payload's header carries them.
    losses = [
        client.summed.header.train_loss for client in outcome.group if client.summed
    ]
    return bool(np.isfinite(np.array(losses, np.float32)).all())


def _split(group: Sequence[Task], outcome: Outcome) -> Iterator[Outcome]:
    """Yield the outcome of each client; the first that has a part in the sum carries it."""
    downloads = {task.client: task.download for task in group}
    floats: Any = together.sum_of(outcome.payload or together.PADDING)
    for client_outcome in outcome.group:
        summed = client_outcome.summed
        if summed:
            # Once, so that the server adds the sum once.
            summed = replace(summed, floats=floats)
            floats = None
        bytes_down = downloads[client_outcome.client]
        if bytes_down is None:
            bytes_down = outcome.bytes_down
        yield replace(
            client_outcome,
            summed=summed,
            base=outcome.base,
            bytes_down=bytes_down,
            receive_s=outcome.receive_s / len(group),
        )


def check(experiment: Experiment, strategy: Strategy, app: bool, agents: bool) -> None:
    """Raise ConfigError where a config needs clients one by one.

    The error names the setting and how to change it. app: there is a Flower ClientApp or
    a mod. agents: real ones do the work.
    """
    _refuse(config_fault(experiment, strategy, app, agents))


def collapsed(
    inner: Engine, experiment: Experiment, strategy: Strategy, runner: Runner
) -> Collapsed:
    """Return an engine behind `Collapsed`.

    Raises ConfigError for a model whose clients have to be computed one by one.
    """
    plan = first_plan(experiment, strategy)
    _refuse(model_fault(runner, plan))
    by_examples = isinstance(strategy, FedAvg) and strategy.weighted
    return Collapsed(inner, runner, by_examples)


def _refuse(fault: str) -> None:
    if fault:
        raise ConfigError(
            "[engine] collapse = true computes clients together, "
            f"but {fault}, or leave out collapse"
        )
