"""Local training of many clients at once: the fast twin of `fedlearn.clients.train`.

Clients are ordered by their steps, so that those that still train are always the first ones of every tensor, and a step is
taken on a view of them. A client's last, smaller batch is filled up with samples that do not count; a model that normalises
over its batch takes batches of one size at a time instead.

Legend: K clients, B batch, P floats of the model's layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from fedlearn.arrays import Layout, State
from fedlearn.clients.augment import augment
from fedlearn.clients.batches import Tensors, places
from fedlearn.clients.train import Update, check_finite, normalises, steps
from fedlearn.data.samples import IGNORE
from fedlearn.engine.stacked import rules
from fedlearn.engine.stacked.lowrank import Steps
from fedlearn.engine.stacked.stack import (
    SHARED,
    Chance,
    NotStackable,
    Stack,
    as_dense,
    chances,
    dense,
)
from fedlearn.errors import ClientError
from fedlearn.plan import Plan
from fedlearn.seeds import derive, generator, torch_generator

__all__ = ["Client", "rules", "train"]

WIDE = 1 << 18
"""Weights of a dense layer from which on it is worth while not to form it for each client."""

THIN = 3
"""By how much the rows of all steps must be fewer than such a layer's inputs and outputs."""


@dataclass(frozen=True)
class Client:
    """One client of a stack: its number, the state that it starts from, and its samples."""

    number: int
    start: State
    data: Tensors


@dataclass(frozen=True)
class _Turn:
    """What some clients do in one step: those from ``first`` up to ``last``, and each one's samples."""

    first: int
    last: int
    places: list[NDArray[np.int64]]


def train(
    module: nn.Module, layout: Layout, plan: Plan, clients: Sequence[Client]
) -> list[Update | ClientError]:
    """Return what `fedlearn.clients.train.train` returns for each client, or the error that it raises.

    The module's own weights are not touched. Raises NotStackable for what only one client at a time can do.
    """
    check(layout, plan, clients)
    found: dict[int, Update | ClientError] = {}
    merge, counts = normalises(module), dict[int, int]()
    for client in clients:
        try:
            counts[client.number] = _steps(plan, client, merge)
        except ClientError as error:
            found[client.number] = error
    able = sorted(
        (c for c in clients if c.number in counts),
        key=lambda c: (-counts[c.number], -len(c.data), c.number),
    )
    if able:
        module.train()
        with torch.random.fork_rng(devices=[]):
            found |= _Training(
                module, layout, plan, able, [counts[c.number] for c in able], merge
            ).go()
    return [found[c.number] for c in clients]


def check(layout: Layout, plan: Plan, clients: Sequence[Client]) -> None:
    """Raise NotStackable for models, plans and data that only one client at a time can do, or is as good at."""
    if any(entry.is_float and entry.dtype != "float32" for entry in layout.entries):
        raise NotStackable("the model has other floats than float32")
    if plan.methods:
        names = ", ".join(plan.methods)
        raise NotStackable(f"the method {names} bends one client's steps at a time")
    if plan.precision == "float16":
        raise NotStackable("float16 scales each client's loss by itself")
    if clients and clients[0].data.modality == "text":
        raise NotStackable("lines of text differ in length")


def _steps(plan: Plan, client: Client, merge: bool) -> int:
    if not len(client.data):
        raise ClientError(f"client {client.number} has no samples")
    count = steps(plan, len(client.data), merge, client.number)
    return 1 if plan.answer == "gradient" else count


class _Training:
    """The tensors of one cohort while it trains; clients in order of their steps, the longest first."""

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        plan: Plan,
        clients: Sequence[Client],
        steps: Sequence[int],
        merge: bool,
    ) -> None:
        self.module, self.layout, self.plan, self.clients, self.merge = (
            module,
            layout,
            plan,
            clients,
            merge,
        )
        self.steps = steps
        device = clients[0].data.y.device
        self.starts = _starts(layout, clients, device)
        trained = {name for name, p in module.named_parameters() if p.requires_grad}
        self.ties = {entry.same_as for entry in layout.entries}
        self.shared = self._shared(trained)
        self.whole = {
            entry.name: (start := self.starts[entry.name])
            .expand(len(clients), *start.shape[1:])
            .clone()
            for entry in layout.entries
            if entry.name not in self.shared and not entry.same_as
        }
        self.trained = [name for name in self.whole if name in trained]
        self.unsaved = {
            n: b.expand(len(clients), *b.shape).clone()
            for n, b in module.named_buffers()
            if n not in self.starts
        }
        self.velocity: dict[str, torch.Tensor] = {}
        self.losses = torch.zeros(max(self.steps), len(clients))
        self.last = any(
            p.dim() == 4 and not p.is_contiguous() for p in module.parameters()
        )
        self.random: list[int | torch.Tensor] = [
            derive(plan.seed, "dropout", plan.round, c.number) for c in clients
        ]
        self.augment = (
            [
                torch_generator(plan.seed, "augment", plan.round, c.number)
                for c in clients
            ]
            if plan.augment
            else []
        )
        self.offsets = np.cumsum([0, *(len(c.data) for c in clients)])
        self.x = torch.cat([c.data.x for c in clients])
        self.y = torch.cat([c.data.y for c in clients])

    def go(self) -> dict[int, Update | ClientError]:
        """Train, and return each client's update."""
        plan = self.plan
        batches = [
            places(
                c.data,
                plan.batch_size,
                generator(plan.seed, "batches", plan.round, c.number),
                self.merge,
            )
            for c in self.clients
        ]
        gradients: dict[str, torch.Tensor] = {}
        for step in range(max(self.steps)):
            active = sum(count > step for count in self.steps)
            drawn = [
                [next(each) for each in batches[:active]]
                for _ in range(plan.accumulate)
            ]
            gradients = self._gradients(step, active, drawn)
            if plan.clip_norm:
                _clip(gradients, plan.clip_norm)
            if plan.answer != "gradient":
                self._descend(active, gradients)
        return self._updates(gradients if plan.answer == "gradient" else {})

    def _gradients(
        self, step: int, active: int, drawn: Sequence[Sequence[NDArray[np.int64]]]
    ) -> dict[str, torch.Tensor]:
        """Return the mean gradients over mini-batches, (active, …) each."""
        total = (
            {name: torch.zeros_like(self.whole[name][:active]) for name in self.trained}
            if self._turns(drawn)
            else {}
        )
        for batch in drawn:
            for turn in self._cut(batch):
                found = self._one(step, turn, len(drawn))
                if not total:
                    return found
                for name, gradient in found.items():
                    total[name][turn.first : turn.last].add_(gradient)
        return total

    def _turns(self, drawn: Sequence[Sequence[NDArray[np.int64]]]) -> bool:
        """Tell whether a step takes more than one call."""
        return len(drawn) > 1 or len(self._cut(drawn[0])) > 1

    def _cut(self, batch: Sequence[NDArray[np.int64]]) -> list[_Turn]:
        """Return the calls of a mini-batch: one, but for models that normalise over it."""
        if not self.merge:
            return [_Turn(0, len(batch), list(batch))]
        turns, at = [], 0
        for _, each in groupby(batch, key=len):
            same = list(each)
            turns.append(_Turn(at, at + len(same), same))
            at += len(same)
        return turns

    def _one(self, step: int, turn: _Turn, of: int) -> dict[str, torch.Tensor]:
        """Return the gradients of one mini-batch of each client, of so many in a step."""
        first, last = turn.first, turn.last
        leaves = {
            name: self.whole[name][first:last].detach().requires_grad_()
            for name in self.trained
        }
        stacks = {
            name: dense(leaves.get(name, whole[first:last]))
            for name, whole in (self.whole | self.unsaved).items()
        }
        for name, shared in self.shared.items():
            stacks[name] = Stack(
                SHARED, self.starts[name][0], clients=last - first, steps=shared
            )
        x, y = self._batch(turn)
        chance = Chance(
            self.random[first:last], [len(found) for found in turn.places], self.last
        )
        with swapped(self.module, stacks), chances(chance):
            if self.plan.precision == "bfloat16":
                with torch.autocast(x.device.type, torch.bfloat16):
                    scores = self.module(dense(x))
            else:
                scores = self.module(dense(x))
        self.random[first:last] = chance.states
        losses = loss_of(scores, y, self.plan.label_smoothing)
        self.losses[step, first:last] += losses.detach().cpu() / of
        wanted = list(leaves.values())
        found = torch.autograd.grad(
            losses.sum() / of if of > 1 else losses.sum(), wanted, allow_unused=True
        )
        return {
            n: torch.zeros_like(leaves[n]) if g is None else g
            for n, g in zip(leaves, found, strict=True)
        }

    def _batch(self, turn: _Turn) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs (K, B, …) and targets (K, B); what fills up a client's batch has nothing to predict."""
        most = max(map(len, turn.places))
        rows = np.zeros((len(turn.places), most), np.int64)
        counts = np.ones((len(turn.places), most), bool)
        for k, found in enumerate(turn.places):
            rows[k, : len(found)] = found
            counts[k, len(found) :] = False
        rows += self.offsets[turn.first : turn.last, None]
        index = torch.from_numpy(rows).to(self.y.device)
        x, y = self.x[index], self.y[index]
        if not counts.all():
            y = torch.where(torch.from_numpy(counts).to(y.device), y, IGNORE)
        if self.augment:
            for k, found in enumerate(turn.places):
                x[k, : len(found)] = augment(
                    self.plan.augment, x[k, : len(found)], self.augment[turn.first + k]
                )
        return x, y

    def _descend(self, active: int, gradients: dict[str, torch.Tensor]) -> None:
        """Take an SGD step in place, as `fedlearn.clients.train` does."""
        plan = self.plan
        weights = [self.whole[name][:active] for name in gradients]
        found = list(gradients.values())
        with torch.no_grad():
            if plan.weight_decay:
                torch._foreach_add_(found, weights, alpha=plan.weight_decay)
            if plan.proximal_mu:
                for name, gradient, weight in zip(
                    gradients, found, weights, strict=True
                ):
                    gradient.add_(
                        weight - self._anchor(name, active), alpha=plan.proximal_mu
                    )
            if plan.momentum:
                found = self._momentum(active, dict(zip(gradients, found, strict=True)))
            torch._foreach_add_(weights, found, alpha=-plan.lr)

    def _anchor(self, name: str, active: int) -> torch.Tensor:
        start = self.starts[name]
        return start if len(start) == 1 else start[:active]

    def _momentum(
        self, active: int, gradients: dict[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        found = list(gradients.values())
        if not self.velocity:
            self.velocity = {
                name: gradient.clone() for name, gradient in gradients.items()
            }
            velocity = list(self.velocity.values())
        else:
            velocity = [self.velocity[name][:active] for name in gradients]
            torch._foreach_mul_(velocity, self.plan.momentum)
            torch._foreach_add_(velocity, found)
        if not self.plan.nesterov:
            return velocity
        torch._foreach_add_(found, velocity, alpha=self.plan.momentum)
        return found

    def _shared(self, trained: set[str]) -> dict[str, Steps]:
        """Return room for the steps of the dense layers whose weights are not formed for each client."""
        plan, module = self.plan, self.module
        plain = not (
            plan.momentum
            or plan.weight_decay
            or plan.clip_norm
            or plan.proximal_mu
            or self.merge
        )
        if (
            not plain
            or plan.accumulate > 1
            or plan.answer == "gradient"
            or plan.precision != "float32"
        ):
            return {}
        rows = max(self.steps) * min(
            plan.batch_size or max(len(c.data) for c in self.clients),
            max(len(c.data) for c in self.clients),
        )
        found = {}
        for place, layer in module.named_modules():
            name = f"{place}.weight" if place else "weight"
            if (
                type(layer) is not nn.Linear
                or name not in trained
                or len(self.starts[name]) != 1
                or name in self.ties
            ):
                continue
            weight = self.starts[name][0]
            if weight.numel() >= WIDE and THIN * rows <= min(weight.shape):
                found[name] = Steps.room(len(self.clients), rows, weight, plan.lr)
        return found

    def _updates(
        self, gradients: Mapping[str, torch.Tensor]
    ) -> dict[int, Update | ClientError]:
        floats = np.empty((len(self.clients), self.layout.floats), np.float32)
        integers = np.empty((len(self.clients), self.layout.integers), np.int64)
        at = {True: 0, False: 0}
        for entry in self.layout.entries:
            out = floats if entry.is_float else integers
            columns = out[:, at[entry.is_float] : at[entry.is_float] + entry.size]
            at[entry.is_float] += entry.size
            self._difference(
                entry.same_as or entry.name, entry.name, gradients, columns
            )
        found: dict[int, Update | ClientError] = {}
        for k, client in enumerate(self.clients):
            loss = float(self.losses[: self.steps[k], k].mean())
            try:
                check_finite(client.number, self.plan, loss, floats[k])
            except ClientError as error:
                found[client.number] = error
                continue
            found[client.number] = Update(
                State(floats[k], integers[k]), len(client.data), loss, self.steps[k]
            )
        return found

    def _difference(
        self,
        name: str,
        entry: str,
        gradients: Mapping[str, torch.Tensor],
        out: NDArray[Any],
    ) -> None:
        """Write what became of a tensor of the model to ``out`` (K, values). entry: its name, or the one that it is tied to it by."""
        if name in self.shared:
            for k in range(len(self.clients)):
                out[k] = self.shared[name].change(k).flatten().cpu().numpy()
            return
        found = (
            gradients[name].neg()
            if name in gradients
            else self.whole[name] - self.starts[entry]
        )
        out[...] = found.reshape(len(self.clients), -1).cpu().numpy()


def _starts(
    layout: Layout, clients: Sequence[Client], device: torch.device
) -> dict[str, torch.Tensor]:
    """Return the tensors that clients start from: (1, …) where all start from the same, (K, …) otherwise."""
    states = (
        [clients[0].start]
        if all(c.start is clients[0].start for c in clients)
        else [c.start for c in clients]
    )
    split = [layout.split(state) for state in states]
    return {
        entry.name: torch.from_numpy(np.stack([each[entry.name] for each in split])).to(
            device
        )
        for entry in layout.entries
    }


@contextmanager
def swapped(module: nn.Module, stacks: Mapping[str, Stack]) -> Iterator[None]:
    """Put stacks in the place of a module's parameters and buffers, tied ones too."""
    names: dict[int, str] = {
        id(t): n for n, t in (*module.named_parameters(), *module.named_buffers())
    }
    kept: list[tuple[dict[str, Any], str, Any]] = []
    flat: list[tuple[nn.RNNBase, Any]] = []
    try:
        for layer in module.modules():
            tables: tuple[dict[str, Any], ...] = (layer._parameters, layer._buffers)
            for table in tables:
                for key, value in table.items():
                    if value is not None and names[id(value)] in stacks:
                        kept.append((table, key, value))
            if isinstance(layer, nn.RNNBase):
                flat.append((layer, layer._flat_weights))
        for table, key, value in kept:
            table[key] = stacks[names[id(value)]]
        for recurrent, weights in flat:
            recurrent._flat_weights = [stacks[names[id(w)]] for w in weights]
        yield
    finally:
        for table, key, value in kept:
            table[key] = value
        for recurrent, weights in flat:
            recurrent._flat_weights = weights


def loss_of(scores: Any, targets: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return each client's mean cross-entropy (K,) of scores (K, B, classes) and targets (K, B) that count."""
    if not isinstance(scores, Stack):
        raise NotStackable("the model's scores do not depend on its weights and inputs")
    whole = as_dense(scores).float()
    clients = whole.shape[0]
    each = F.cross_entropy(
        whole.reshape(-1, whole.shape[-1]),
        targets.reshape(-1),
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return each.view(clients, -1).sum(1) / (targets != IGNORE).sum(1)


def _clip(gradients: Mapping[str, torch.Tensor], limit: float) -> None:
    """Scale each client's gradients in place so that their joint L2 norm is at most ``limit``."""
    squares = torch.stack(
        [g.flatten(1).square().sum(1) for g in gradients.values()]
    ).sum(0)
    factors = (limit / squares.sqrt()).clamp(max=1.0)
    for gradient in gradients.values():
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
