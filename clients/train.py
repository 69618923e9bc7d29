"""Local training: one client and one plan give one update. The readable twin of every fast engine.

Legend: P floats and Q integers of the model's layout, B batch, K classes, T characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from fedlearn.arrays import Layout, State
from fedlearn.clients.augment import augment
from fedlearn.clients.batches import Tensors, batches_per_pass, passes
from fedlearn.clients.finite import check_finite
from fedlearn.clients.micro import Room
from fedlearn.clients.normal import normalises, single_samples_named
from fedlearn.clients.optimizers import optimizer_of
from fedlearn.clients.optimizers.clipping import clip
from fedlearn.data.samples import IGNORE
from fedlearn.errors import ClientError
from fedlearn.models import read_state, write_state
from fedlearn.plan import Plan
from fedlearn.seeds import derive, generator, torch_generator

Batch = tuple[torch.Tensor, torch.Tensor]
Batches = Iterator[Batch]

# What a float16 loss is multiplied by at first: torch.amp.GradScaler's initial value.
HALF_SCALE = 65536.0


@dataclass(frozen=True)
class Update:
    """What a client learned."""

    # Its model minus the model it started from, floats (P,) float32, integers (Q,) int64.
    difference: State
    examples: int
    # Mean over the steps taken.
    train_loss: float
    steps: int
    # Above 0, mini-batches were computed in parts for want of memory: see `fedlearn.clients.micro`.
    halvings: int = 0


def train(
    module: nn.Module,
    layout: Layout,
    plan: Plan,
    start: State,
    data: Tensors,
    client: int,
    halvings: int = 0,
) -> Update:
    """Train ``module`` from ``start`` on one client's data as ``plan`` asks.

    The result is a function of its arguments alone: batches, augmentation and dropout draw from
    (plan.seed, purpose, plan.round, client), and torch's global generator is left as it was.
    The module's weights are overwritten.

    halvings: of mini-batches that are known not to fit into memory; more follow when it runs
    out. Raises ClientError when there is no data or training diverges, and NoRoom when no
    halving helps.
    """
    merge = normalises(module)
    batches = mini_batches(plan, data, client, merge)
    write_state(module, layout, start)
    module.train()
    gradients = _Gradients(module, plan, Room(halvings))
    # Dropout draws from torch's global generator, which is the caller's.
    with torch.random.fork_rng(devices=[]), single_samples_named(module, client):
        dropout_seed = derive(plan.seed, "dropout", plan.round, client)
        torch.default_generator.manual_seed(dropout_seed)
        if plan.answer == "gradient":
            losses = [_leave_gradient(gradients, plan, batches)]
        else:
            count = steps(plan, len(data), merge, client)
            losses = _descend(gradients, plan, batches, count)
    end = read_state(module, layout)
    # Of buffers too: BatchNorm's statistics and counters travel as differences.
    difference = State(end.floats - start.floats, end.integers - start.integers)
    if plan.answer == "gradient":
        difference = with_gradients(module, layout, difference)
    step_losses = torch.stack(losses)
    check_finite(client, plan, step_losses, difference.floats)
    loss = float(step_losses.mean())
    return Update(difference, len(data), loss, len(losses), gradients.room.halvings)


def mini_batches(
    plan: Plan, data: Tensors, client: int, merge: bool = False
) -> Batches:
    """Return the mini-batches that a client draws in a round, pass after pass, augmented.

    merge: see `passes`. Raises ClientError when the client has no data.
    """
    if not len(data):
        raise ClientError(f"client {client} has no samples")
    # Numpy's generator here, torch's below: neither depends on how much the other drew.
    order = generator(plan.seed, "batches", plan.round, client)
    batches = passes(data, plan.batch_size, order, merge)
    if not plan.augment:
        return batches
    random = torch_generator(plan.seed, "augment", plan.round, client)
    return ((augment(plan.augment, x, random), y) for x, y in batches)


def steps(plan: Plan, samples: int, merge: bool, client: int) -> int:
    """Return the optimiser steps that a client with so many samples takes.

    merge: see `passes`. Raises ClientError as `turns` does.
    """
    count = turns(plan, client)
    if plan.steps:
        return count
    batches = batches_per_pass(samples, plan.batch_size, merge)
    return count * math.ceil(batches / plan.accumulate)


def turns(plan: Plan, client: int) -> int:
    """Return the epochs that a client takes, or its steps where the plan counts these.

    A straggler of the round takes 1 to all of them, each number with the same probability: Li
    et al., "Federated Optimization in Heterogeneous Networks" (MLSys 2020), section 5.2. There
    a fixed number of the cohort are stragglers; here each client is one with that probability,
    independently. Raises ClientError for a straggler whose work does not count.
    """
    count = plan.steps or plan.epochs
    if not plan.stragglers:
        return count
    random = generator(plan.seed, "straggler", plan.round, client)
    if random.random() >= plan.stragglers:
        return count
    if plan.straggler_work == "none":
        raise ClientError(
            f"client {client} is a straggler in round {plan.round}, "
            "and train.straggler_work is none"
        )
    return int(random.integers(1, count + 1))


class _Gradients:
    """Losses and gradients of a module, at the weights that it has at the moment.

    In float16 the loss is multiplied by a scale so that small gradients do not vanish. Where
    that overflows, the same batches are tried with half of it, which later steps keep. Source:
    Micikevicius et al., "Mixed Precision Training" (ICLR 2018). They skip the step instead, as
    torch.amp.GradScaler does; a client takes too few steps for that.
    """

    def __init__(self, module: nn.Module, plan: Plan, room: Room) -> None:
        self.module = module
        self.plan = plan
        self.room = room
        self.weights: list[torch.Tensor] = [
            p for p in module.parameters() if p.requires_grad
        ]
        self.scale = HALF_SCALE if plan.precision == "float16" else 1.0

    def of_step(self, batches: Batches) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the mean loss and gradients over the next ``plan.accumulate`` batches."""
        # Drawn once: a step that is tried again must see the same samples.
        step_batches = [next(batches) for _ in range(self.plan.accumulate)]
        while True:
            loss, gradients = self.room.within(
                self.module, step_batches, lambda: self._mean(step_batches)
            )
            # A scale of 1 is no scale: overflow is the model's own then.
            if self.scale < 2 or all(bool(g.isfinite().all()) for g in gradients):
                return loss, gradients
            self.scale /= 2

    def _mean(
        self, batches: Sequence[Batch]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the mean loss and gradients over batches, in as many parts as memory needs."""
        total: list[torch.Tensor] = []
        mean_loss = torch.zeros(())
        for batch in batches:
            for x, y, share in self.room.parts(*batch):
                loss = self._loss(x, y)
                # On the CPU in float32, so the mean does not overflow in float16.
                mean_loss = mean_loss + loss.detach().float().cpu() * share / len(
                    batches
                )
                gradients = self._backward(loss * (self.scale * share / len(batches)))
                if total:
                    torch._foreach_add_(total, gradients)
                else:
                    total = gradients
        # Back to the true gradients: clipping and decay come after this.
        if self.scale != 1.0:
            torch._foreach_div_(total, self.scale)
        return mean_loss, total

    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with _autocast(self.plan.precision, x.device.type):
            return loss_of(self.module(x), y, self.plan.label_smoothing)

    def _backward(self, loss: torch.Tensor) -> list[torch.Tensor]:
        """Return the gradient of a loss with respect to each weight."""
        gradients = torch.autograd.grad(loss, self.weights, allow_unused=True)
        # A weight that this batch does not reach has a zero gradient.
        return [
            torch.zeros_like(weight) if gradient is None else gradient
            for gradient, weight in zip(gradients, self.weights, strict=True)
        ]


def _descend(
    gradients: _Gradients, plan: Plan, batches: Batches, count: int
) -> list[torch.Tensor]:
    """Take the optimiser's steps in place, and return their losses."""
    optimizer = optimizer_of(plan, gradients.weights)
    losses = []
    for _ in range(count):
        loss, step_gradients = gradients.of_step(batches)
        losses.append(loss)
        optimizer.step(step_gradients)
    return losses


def _leave_gradient(
    gradients: _Gradients, plan: Plan, batches: Batches
) -> torch.Tensor:
    """Leave the mean gradient over ``plan.accumulate`` batches, clipped, in each weight's ``grad``.

    Returns the mean loss.
    """
    loss, step_gradients = gradients.of_step(batches)
    if plan.clip_norm:
        clip(step_gradients, plan.clip_norm)
    for weight, gradient in zip(gradients.weights, step_gradients, strict=True):
        weight.grad = gradient
    return loss


def with_gradients(module: nn.Module, layout: Layout, difference: State) -> State:
    """Return the difference with minus its ``grad`` in the place of every trained weight."""
    views = layout.split(difference)
    # A tied weight has two names.
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.grad is not None:
            views[name][...] = parameter.grad.neg().float().cpu().numpy()
    for parameter in module.parameters():
        parameter.grad = None
    return difference


def loss_of(
    scores: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the mean cross-entropy of scores (B, K) or (B, T, K); padding targets do not count.

    A batch of empty lines, with nothing to predict, has loss 0.
    """
    if targets.dim() > 1 and not bool((targets != IGNORE).any()):
        # A sum, not a constant: its gradient is a zero for every weight.
        return scores.float().sum() * 0.0
    return nn.functional.cross_entropy(
        scores.float().flatten(0, -2),
        targets.flatten(),
        ignore_index=IGNORE,
        label_smoothing=label_smoothing,
    )


def _autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """Return the context for a forward pass; precision: "float32", "bfloat16" or "float16"."""
    if precision == "float32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float16
    return torch.autocast(device, dtype)
