"""Local training of many clients at once: the fast twin of `fedlearn.clients.train`.

Clients are ordered by their steps, so that those that still train are always the first
of every tensor, and a step is taken on a view of them. A client's smaller mini-batch is
padded with samples that do not count; a model that normalises over its mini-batch takes
those of one size at a time instead.

Legend: K clients, B batch, P floats and Q integers of the model's layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from fedlearn.arrays import Entry, Layout, State
from fedlearn.clients.batches import Tensors
from fedlearn.clients.finite import check_finite
from fedlearn.clients.normal import normalises
from fedlearn.clients.optimizers.named import CLASSES
from fedlearn.clients.train import Update, steps
from fedlearn.data.samples import IGNORE

# Importing the rules enters them into `stack.RULES`.
from fedlearn.engine.stacked import lowrank, rules
from fedlearn.engine.stacked.batches import ForwardPass, StackedBatches
from fedlearn.engine.stacked.chance import Chance, chances
from fedlearn.engine.stacked.lowrank import LowRankSteps
from fedlearn.engine.stacked.named import StackedNamed
from fedlearn.engine.stacked.sgd import StackedSgd, clip
from fedlearn.engine.stacked.stack import (
    SHARED,
    NotStackable,
    StackedTensor,
    as_dense,
    dense,
)
from fedlearn.engine.stacked.swap import swapped
from fedlearn.errors import ClientError
from fedlearn.plan import Plan
from fedlearn.seeds import derive

__all__ = ["Client", "check", "loss_of", "rules", "train"]


@dataclass(frozen=True)
class Client:
    """One client of a stack: its number, the state that it starts from, and its samples."""

    number: int
    start: State
    data: Tensors


def train(
    module: nn.Module, layout: Layout, plan: Plan, clients: Sequence[Client]
) -> list[Update | ClientError]:
    """Return each client's `fedlearn.clients.train.train`: its update, or the error.

    The module's own weights are not touched. Raises NotStackable for what only one client
    at a time can do.
    """
    check(layout, plan, clients)
    merge = normalises(module)
    results: dict[int, Update | ClientError] = {}
    counts: dict[int, int] = {}
    for client in clients:
        try:
            counts[client.number] = _steps(plan, client, merge)
        except ClientError as error:
            results[client.number] = error
    # Those with most steps first: whoever still trains is at the front of every tensor.
    # Of like steps, those with like mini-batches stand together.
    able = [client for client in clients if client.number in counts]
    able.sort(key=lambda c: (-counts[c.number], -len(c.data), c.number))
    if able:
        module.train()
        able_counts = [counts[client.number] for client in able]
        with torch.random.fork_rng(devices=[]):
            training = _Training(module, layout, plan, able, able_counts, merge)
            results |= training.run()
    return [results[client.number] for client in clients]


def check(layout: Layout, plan: Plan, clients: Sequence[Client]) -> None:
    """Raise NotStackable for models, plans and data that are not to be stacked.

    Only one client at a time can do them, or is as fast.
    """
    if any(entry.is_float and entry.dtype != "float32" for entry in layout.entries):
        raise NotStackable("the model has other floats than float32")
    if plan.methods:
        names = ", ".join(plan.methods)
        raise NotStackable(f"the method {names} bends one client's steps at a time")
    if plan.optimizer not in ("sgd", *CLASSES):
        raise NotStackable(
            f"the optimizer {plan.optimizer} is not known to compute each value by itself"
        )
    if plan.precision == "float16":
        raise NotStackable("float16 scales each client's loss by itself")
    if clients and clients[0].data.modality == "text":
        raise NotStackable("lines of text differ in length")


def loss_of(scores: Any, targets: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return each client's mean cross-entropy (K,) over the targets that count.

    scores: a StackedTensor of (K, B, classes); targets: (K, B). Raises NotStackable.
    """
    if not isinstance(scores, StackedTensor):
        raise NotStackable("the model's scores do not depend on its weights and inputs")
    values = as_dense(scores).float()
    losses = F.cross_entropy(
        values.reshape(-1, values.shape[-1]),
        targets.reshape(-1),
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    sums = losses.view(values.shape[0], -1).sum(1)
    return sums / (targets != IGNORE).sum(1)


def _steps(plan: Plan, client: Client, merge: bool) -> int:
    """Return the steps that a client takes; it takes one for a gradient."""
    if not len(client.data):
        raise ClientError(f"client {client.number} has no samples")
    count = steps(plan, len(client.data), merge, client.number)
    if plan.answer == "gradient":
        return 1
    return count


class _Training:
    """The tensors of a stack while it trains; clients with more steps come first."""

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        plan: Plan,
        clients: Sequence[Client],
        counts: Sequence[int],
        merge: bool,
    ) -> None:
        self.module = module
        self.layout = layout
        self.plan = plan
        self.clients = clients
        # Each client's steps.
        self.counts = counts
        # What each tensor of the layout starts from: (K, …), or (1, …) for all.
        self.starts = _starts(layout, clients)
        trained = {name for name, p in module.named_parameters() if p.requires_grad}
        # Dense layers whose weights clients share, by the weight's name.
        self.shared: dict[str, LowRankSteps] = {}
        if lowrank.plain_sgd(plan) and not merge:
            self.shared = self._shared(trained)
        # Each client's other parameters and buffers, (K, …).
        self.stacked = self._stacked()
        self.trained = [name for name in self.stacked if name in trained]
        # Buffers that no state holds, (K, …).
        self.unsaved = self._unsaved()
        numbers = [client.number for client in clients]
        data = [client.data for client in clients]
        self.batches = StackedBatches(plan, numbers, data, merge)
        self.optimizer = self._optimizer()
        # (steps, K)
        self.losses = torch.zeros(max(counts), len(clients))
        # Such a model has its pictures' channels last in memory.
        self.channels_last = any(
            p.dim() == 4 and not p.is_contiguous() for p in module.parameters()
        )
        # Of each client's generator for dropout: a seed at first.
        self.random: list[int | torch.Tensor] = [
            derive(plan.seed, "dropout", plan.round, number) for number in numbers
        ]

    def run(self) -> dict[int, Update | ClientError]:
        """Train, and return each client's update by its number."""
        plan = self.plan
        gradients: dict[str, torch.Tensor] = {}
        for step in range(max(self.counts)):
            # The clients that still train are the first ones.
            active = sum(count > step for count in self.counts)
            gradients = self._gradients(step, active)
            if plan.clip_norm:
                clip(gradients, plan.clip_norm)
            if plan.answer != "gradient":
                self.optimizer.step(active, gradients)
        if plan.answer != "gradient":
            gradients = {}
        return self._updates(gradients)

    def _optimizer(self) -> StackedSgd | StackedNamed:
        if self.plan.optimizer == "sgd":
            return StackedSgd(self.plan, self.stacked, self.starts)
        trained = {name: self.stacked[name] for name in self.trained}
        return StackedNamed(self.plan, trained, self.starts)

    def _shared(self, trained: set[str]) -> dict[str, LowRankSteps]:
        """Return room for the steps of the dense layers whose weights clients share."""
        samples = [len(client.data) for client in self.clients]
        rows = lowrank.rows_of(self.plan, max(self.counts), samples)
        ties = {entry.same_as for entry in self.layout.entries}
        # Clients that start from models of their own cannot share a weight.
        names = {name for name in trained - ties if len(self.starts[name]) == 1}
        shared = {}
        for name in lowrank.shared_layers(self.module, names, rows):
            weight = self.starts[name][0]
            shared[name] = LowRankSteps.empty(
                len(self.clients), rows, weight, self.plan.lr
            )
        return shared

    def _stacked(self) -> dict[str, torch.Tensor]:
        stacked = {}
        for entry in self.layout.entries:
            if entry.name in self.shared or entry.same_as:
                continue
            start = self.starts[entry.name]
            expanded = start.expand(len(self.clients), *start.shape[1:])
            # A copy, which is trained in place.
            stacked[entry.name] = expanded.clone()
        return stacked

    def _unsaved(self) -> dict[str, torch.Tensor]:
        unsaved = {}
        for name, buffer in self.module.named_buffers():
            if name not in self.starts:
                expanded = buffer.expand(len(self.clients), *buffer.shape)
                unsaved[name] = expanded.clone()
        return unsaved

    def _gradients(self, step: int, active: int) -> dict[str, torch.Tensor]:
        """Return the mean gradients of a step over its mini-batches, (active, …) each."""
        passes = self.batches.passes(active)
        # Nothing is to be added up, so no zeros are made.
        if len(passes) == 1:
            return self._pass_gradients(step, passes[0])
        total = {
            name: torch.zeros_like(self.stacked[name][:active]) for name in self.trained
        }
        for forward in passes:
            gradients = self._pass_gradients(step, forward)
            for name, gradient in gradients.items():
                total[name][forward.first : forward.last].add_(gradient)
        return total

    def _pass_gradients(
        self, step: int, forward: ForwardPass
    ) -> dict[str, torch.Tensor]:
        """Return the gradients of one mini-batch of each client, as a share of the step's."""
        first = forward.first
        last = forward.last
        # Views of this pass's clients, whose gradients are asked for.
        leaves = {
            name: self.stacked[name][first:last].detach().requires_grad_()
            for name in self.trained
        }
        x, y = self.batches.tensors(forward)
        scores = self._scores(forward, leaves, x)
        losses = loss_of(scores, y, self.plan.label_smoothing)
        batches = self.plan.accumulate
        # Each client's own loss, and the sum of all: its gradients do not mix clients.
        self.losses[step, first:last] += losses.detach().cpu() / batches
        loss = losses.sum()
        if batches > 1:
            loss = loss / batches
        anchors = [shared.anchor for shared in self.shared.values()]
        inputs = [*leaves.values(), *anchors]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        # A weight that these mini-batches do not reach has a zero gradient.
        return {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(leaves.items(), gradients, strict=False)
        }

    def _scores(
        self, forward: ForwardPass, leaves: Mapping[str, torch.Tensor], x: torch.Tensor
    ) -> Any:
        """Return what the module makes of inputs (K, B, …), with each client's weights."""
        first = forward.first
        last = forward.last
        stacks = {}
        for name, values in (self.stacked | self.unsaved).items():
            stacks[name] = dense(leaves.get(name, values[first:last]))
        for name, shared in self.shared.items():
            weight = self.starts[name][0]
            stacks[name] = StackedTensor(
                SHARED, weight, clients=last - first, steps=shared
            )
        rows = [len(positions) for positions in forward.positions]
        chance = Chance(self.random[first:last], rows, self.channels_last)
        with swapped(self.module, stacks), chances(chance), self._autocast(x):
            scores = self.module(dense(x))
        self.random[first:last] = chance.states
        return scores

    def _autocast(self, x: torch.Tensor) -> AbstractContextManager[object]:
        if self.plan.precision == "bfloat16":
            return torch.autocast(x.device.type, torch.bfloat16)
        return nullcontext()

    def _updates(
        self, gradients: Mapping[str, torch.Tensor]
    ) -> dict[int, Update | ClientError]:
        """Return each client's update. gradients: in the place of what was learned."""
        clients = len(self.clients)
        floats = np.empty((clients, self.layout.floats), np.float32)
        integers = np.empty((clients, self.layout.integers), np.int64)
        for entry, start in self.layout.starts():
            columns: NDArray[Any] = integers
            if entry.is_float:
                columns = floats
            self._write(entry, gradients, columns[:, start : start + entry.size])
        updates: dict[int, Update | ClientError] = {}
        for k, client in enumerate(self.clients):
            losses = self.losses[: self.counts[k], k]
            loss = float(losses.mean())
            try:
                check_finite(client.number, self.plan, losses, floats[k])
            except ClientError as error:
                updates[client.number] = error
                continue
            difference = State(floats[k], integers[k])
            updates[client.number] = Update(
                difference, len(client.data), loss, self.counts[k]
            )
        return updates

    def _write(
        self, entry: Entry, gradients: Mapping[str, torch.Tensor], out: NDArray[Any]
    ) -> None:
        """Write the difference of a tensor of the layout to ``out`` (K, values)."""
        # A tied tensor is trained under the name of the first.
        name = entry.same_as or entry.name
        if name in self.shared:
            for k in range(len(self.clients)):
                out[k] = self.shared[name].change(k).flatten().cpu().numpy()
            return
        if name in gradients:
            difference = gradients[name].neg()
        else:
            difference = self.stacked[name] - self.starts[entry.name]
        out[...] = difference.reshape(len(self.clients), -1).cpu().numpy()


def _starts(layout: Layout, clients: Sequence[Client]) -> dict[str, torch.Tensor]:
    """Return the tensors that clients start from: (K, …), or (1, …) where all share them."""
    device = clients[0].data.y.device
    states = [client.start for client in clients]
    # Clients that were sent the cohort's model share the object.
    if all(state is states[0] for state in states):
        states = states[:1]
    split = [layout.split(state) for state in states]
    starts = {}
    for entry in layout.entries:
        stacked = np.stack([arrays[entry.name] for arrays in split])
        starts[entry.name] = torch.from_numpy(stacked).to(device)
    return starts
