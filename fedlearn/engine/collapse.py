"""``[engine] collapse``: clients that take one step from the same model, computed as one batch.

Nobody sees the update of one client then, so this is for runs in which nobody asks for it: a mean of updates, sent as they are.
Clients stand in groups that follow from the cohort alone; a group's sum is computed by one worker in slices of fixed size, and
sums of groups are added exactly, so neither the number of workers nor the engine below changes a bit. Against one client at a
time the result differs by the order of float sums.

What clients report and what their payloads would have weighed is as without it. A group whose sum is not finite, or that could
not be computed, is trained client by client, so that the reason is recorded of the client that it lies with.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.serverapp.strategy import Strategy

from fedlearn.arrays import State
from fedlearn.clients.batches import Tensors, tensors
from fedlearn.clients.train import normalises, train
from fedlearn.codec import codec, feedback
from fedlearn.config import Experiment
from fedlearn.engine import together
from fedlearn.engine.protocol import Engine, Layer
from fedlearn.engine.runner import Runner
from fedlearn.engine.task import Group, Outcome, Task
from fedlearn.errors import ConfigError, PayloadError
from fedlearn.models import read_state
from fedlearn.plan import Plan
from fedlearn.seeds import isolated
from fedlearn.strategies.aggregate import check_range
from fedlearn.strategies.fedavg import FedAvg
from fedlearn.strategies.minibatch_sgd import MinibatchSGD
from fedlearn.strategies.plans import plan as plan_of

GROUP = 256
"""Samples of a group, about: each group costs the sum one update."""

TRIAL_SAMPLES = 8
TOLERANCE = 1e-3
"""Of a sum, relative to its largest value: what the order of sums can do, and samples that depend on one another cannot."""


class Collapsed(Layer):
    """An engine whose clients train in groups; all else is the inner engine's."""

    def __init__(self, inner: Engine, runner: Runner, by_examples: bool) -> None:
        """Take the engine that does the work. by_examples: clients weigh their examples; otherwise all alike."""
        super().__init__(inner)
        self.runner = runner
        self.by_examples = by_examples

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task."""
        if not tasks or tasks[0].kind != "train":
            yield from self.inner.run(tasks, payload)
            return
        groups = {group[0].client: group for group in self.groups(tasks)}
        asked = [
            Task(
                first,
                "train",
                group[0].plan,
                group=Group(tuple(task.client for task in group), self.by_examples),
            )
            for first, group in groups.items()
        ]
        apart: list[Task] = []
        for outcome in self.inner.run(asked, payload):
            group = groups[outcome.client]
            if self._sound(outcome, len(tasks)):
                yield from _apiece(group, outcome)
            else:
                apart += group
        if apart:
            yield from self.inner.run(apart, payload)

    def groups(self, tasks: Sequence[Task]) -> list[list[Task]]:
        """Return the tasks in groups of about as many samples each.

        Their number is a power of two, so that cores have equal shares. The largest clients are placed first, each where there is
        least so far.
        """
        sizes = {task.client: self._samples(task) for task in tasks}
        wanted = -(-sum(sizes.values()) // GROUP)
        number = max(1, min(len(tasks), 1 << (wanted - 1).bit_length()))
        groups: list[list[Task]] = [[] for _ in range(number)]
        filled = [0] * number
        for task in sorted(tasks, key=lambda task: (-sizes[task.client], task.client)):
            place = filled.index(min(filled))
            groups[place].append(task)
            filled[place] += sizes[task.client]
        return [group for group in groups if group]

    def _samples(self, task: Task) -> int:
        """Return how many samples a client's step is computed from, at most."""
        own = max(1, self.runner.population.clients.size(task.client))
        return task.plan.accumulate * min(task.plan.batch_size or own, own)

    def _sound(self, outcome: Outcome, cohort: int) -> bool:
        """Tell whether a group's sum can be added, as every other one of the cohort."""
        if outcome.error is not None or outcome.payload is None:
            return False
        try:
            total = State(together.sum_of(outcome.payload), np.empty(0, np.int64))
            check_range(total, 1, cohort)
        except PayloadError:
            return False
        losses = [
            each.summed.header.train_loss for each in outcome.group if each.summed
        ]
        return bool(np.isfinite(np.array(losses, np.float32)).all())


def _apiece(group: Sequence[Task], outcome: Outcome) -> Iterator[Outcome]:
    """Yield what came of each client of a group; the sum stands with the first that has a part in it."""
    downloads = {task.client: task.download for task in group}
    floats: Any = together.sum_of(outcome.payload or together.TAIL)
    for each in outcome.group:
        down, summed = downloads[each.client], each.summed
        if summed:
            summed, floats = replace(summed, floats=floats), None
        yield replace(
            each,
            summed=summed,
            base=outcome.base,
            bytes_down=outcome.bytes_down if down is None else down,
            receive_s=outcome.receive_s / len(group),
        )


def check(experiment: Experiment, strategy: Strategy, app: bool, agents: bool) -> None:
    """Raise ConfigError where a config asks for clients one by one, with the setting at fault and how to change it.

    app: there is a Flower ClientApp or a mod. agents: real ones do the work.
    """
    _refuse(_asked(experiment, strategy, app, agents))


def collapsed(
    inner: Engine, experiment: Experiment, strategy: Strategy, runner: Runner
) -> Collapsed:
    """Return an engine behind `Collapsed`.

    Raises ConfigError for a model whose clients have to be computed one by one.
    """
    _refuse(_found(runner, plan_of(experiment, 1, _asks(strategy))))
    by_examples = isinstance(strategy, FedAvg) and strategy.weighted
    return Collapsed(inner, runner, by_examples)


def _refuse(wrong: str) -> None:
    if wrong:
        raise ConfigError(
            f"[engine] collapse = true computes clients together, but {wrong}, or leave out collapse"
        )


def _asks(strategy: Strategy) -> dict[str, int | float | str]:
    return strategy.asks() if isinstance(strategy, FedAvg | MinibatchSGD) else {}


def _asked(experiment: Experiment, strategy: Strategy, app: bool, agents: bool) -> str:
    """Return what of the config asks for clients one by one, and how to change it; "" if nothing does."""
    if agents:
        return "agents work each for itself: take a simulation"
    if app:
        return (
            "a Flower ClientApp or a mod sees each client by itself: leave out [client]"
        )
    if type(strategy) not in (
        FedAvg,
        MinibatchSGD,
    ):  # a subclass may do anything with an update
        return f'strategy "{experiment.strategy.name}" may look at each update: take "fedavg" or "minibatch-sgd"'
    if (groups := getattr(strategy, "groups", 1)) > 1:
        return f"strategy.groups = {groups} compares updates: set groups = 1"
    if feedback(experiment.codec.up) != (False, "raw32"):
        return f'codec.up = "{experiment.codec.up}" encodes each update: set codec.up = "raw32"'
    coarse = codec(experiment.codec.down).for_differences
    if experiment.codec.downlink == "shadow" or (
        coarse and experiment.codec.downlink == "auto"
    ):
        return f'codec.down = "{experiment.codec.down}" leaves each client a model of its own: set codec.downlink = "cast"'
    if experiment.devices.deadline_s and experiment.devices.simulated:
        return "devices.deadline_s leaves out single clients: set it to 0"
    asked = plan_of(experiment, 1, _asks(strategy))
    if (
        asked.answer == "update"
        and (asked.steps or (asked.epochs if asked.batch_size == 0 else 0)) != 1
    ):
        return "clients take more than one step: set train.steps = 1, or train.epochs = 1 and train.batch_size = 0"
    if asked.stragglers:
        return f"train.stragglers = {asked.stragglers:g} has clients do less than others: set it to 0"
    if getattr(strategy, "methods", None):
        return "strategy.methods bend each client's steps: leave them out"
    if asked.clip_norm:
        return (
            f"clip_norm = {asked.clip_norm:g} clips each client's gradient: set it to 0"
        )
    if asked.precision != "float32":
        return f'train.precision = "{asked.precision}" rounds each client\'s gradient: set it to "float32"'
    return ""


def _found(runner: Runner, plan: Plan) -> str:
    """Return what of the model asks for clients one by one, and how to change it; "" if nothing does.

    Two clients are made of held-out samples, and their sum is compared with what `train` makes of each.
    """
    other = "take another model"
    narrow = [
        e
        for e in runner.layout.entries
        if e.trained and e.dtype not in ("float32", "float64")
    ]
    if narrow:
        return f"'{narrow[0].name}' rounds each client's step to {narrow[0].dtype}: {other}"
    if normalises(runner.module):
        return 'BatchNorm normalises over each client\'s batch: set norm = "group" where [model] has that, or take another model'
    try:
        start, halves = read_state(runner.module, runner.layout), _halves(runner)
        if _draws(runner, halves[0]):
            return f"the model draws random numbers in training, as dropout does, and each client has its own: set dropout = 0, or {other}"
        short = replace(plan, answer="gradient", codec="raw32")
        shares = [
            together.share(short, client, data, True)
            for client, data in enumerate(halves)
        ]
        found, _ = together.summed(runner.module, runner.layout, short, start, shares)
        updates = [
            train(runner.module, runner.layout, short, start, data, client)
            for client, data in enumerate(halves)
        ]
    except (
        Exception
    ):  # a model that fails here fails in the rounds, where it is told of whom
        return ""
    wanted = sum(
        np.float64(update.examples) * update.difference.floats for update in updates
    )
    apart = np.abs(found - wanted).max(initial=0) > TOLERANCE * max(
        1e-6, np.abs(wanted).max(initial=0)
    )
    if apart or any(update.difference.integers.any() for update in updates):
        return f"what the model computes for a sample depends on the others of its batch, or it keeps count of them: {other}"
    return ""


def _halves(runner: Runner) -> list[Tensors]:
    """Return two clients of different sizes, of held-out samples."""
    test = runner.population.test
    few = [np.arange(len(test))[:3], np.arange(len(test))[3:TRIAL_SAMPLES]]
    return [
        tensors(test.take(places), runner.population.modality, runner.device)
        for places in few
        if places.size
    ]


def _draws(runner: Runner, data: Tensors) -> bool:
    """Tell whether the model draws random numbers in training: a generator's next number is another one then."""
    runner.module.train()

    def after(work: Callable[[], object]) -> list[float]:
        with isolated(0), torch.no_grad():
            work()
            return [
                random.random(),
                float(np.random.random()),
                float(torch.rand(())),
                float(torch.rand((), device=runner.device)),
            ]

    return after(lambda: runner.module(data.x)) != after(lambda: None)
