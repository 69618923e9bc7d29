"""Local training: one client, one plan → one update. The readable twin of every fast engine.

Legend: P floats and Q integers of the model's layout, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedlearn.arrays import Layout, State
from fedlearn.clients.augment import augment
from fedlearn.clients.batches import Tensors, batches_per_pass, passes
from fedlearn.clients.micro import Room
from fedlearn.data.samples import IGNORE
from fedlearn.errors import ClientError
from fedlearn.models import read_state, write_state
from fedlearn.plan import Plan
from fedlearn.seeds import derive, generator, torch_generator

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]

HALF_SCALE = 65536.0
"""What a float16 loss is multiplied by at first."""


@dataclass(frozen=True)
class Update:
    """What a client learned: its model minus the model it started from, floats (P,) float32,
    integers (Q,) int64.
    """

    difference: State
    examples: int
    train_loss: float  # mean over the steps taken
    steps: int
    halvings: int = 0  # above 0: mini-batches were computed in parts, for want of memory (see `fedlearn.clients.micro`)


def train(
    module: nn.Module,
    layout: Layout,
    plan: Plan,
    start: State,
    data: Tensors,
    client: int,
    halvings: int = 0,
) -> Update:
    """Train ``module`` from ``start`` on one client's data as ``plan`` asks, and return the
    update.

    The result is a function of its arguments alone: batches, augmentation and dropout draw from
    (plan.seed, purpose, plan.round, client), and torch's global generator is left as it was.
    The module's weights are overwritten. halvings: of mini-batches that are known not to fit
    into memory; more follow when it runs out. Raises ClientError when there is no data or
    training diverges, and NoRoom when no halving helps.
    """
    merge = normalises(module)
    batches = drawn(plan, data, client, merge)
    write_state(module, layout, start)
    module.train()
    count = steps(plan, len(data), merge, client)
    room = Room(halvings)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(
            derive(plan.seed, "dropout", plan.round, client)
        )
        losses = (
            _gradient(module, plan, batches, room)
            if plan.answer == "gradient"
            else _descend(module, plan, batches, count, room)
        )
    end = read_state(module, layout)
    difference = State(end.floats - start.floats, end.integers - start.integers)
    if plan.answer == "gradient":
        difference = with_gradients(module, layout, difference)
    loss = float(torch.stack(losses).mean())
    check_finite(client, plan, loss, difference.floats)
    return Update(difference, len(data), loss, len(losses), room.halvings)


def drawn(plan: Plan, data: Tensors, client: int, merge: bool = False) -> Batches:
    """Return the mini-batches that a client draws in a round, pass after pass; raises
    ClientError when it has no data.

    merge: see `passes`.
    """
    if not len(data):
        raise ClientError(f"client {client} has no samples")
    order = generator(plan.seed, "batches", plan.round, client)
    return _augmented(passes(data, plan.batch_size, order, merge), plan, client)


def normalises(module: nn.Module) -> bool:
    """Tell whether a module normalises over its batches: those of one sample are avoided then."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())


def steps(plan: Plan, samples: int, merge: bool, client: int) -> int:
    """Return the optimiser steps that a client with so many samples takes; merge: see `passes`.
    Raises what `turns` does.
    """
    each = (
        1
        if plan.steps
        else math.ceil(
            batches_per_pass(samples, plan.batch_size, merge) / plan.accumulate
        )
    )
    return turns(plan, client) * each


def turns(plan: Plan, client: int) -> int:
    """Return the epochs that a client takes; its steps, where the plan counts these.

    One of the round's stragglers takes 1 to all of them, each as likely: Li et al., "Federated
    Optimization in Heterogeneous Networks" (MLSys 2020), section 5.2. There a fixed number of
    the cohort are stragglers; here each client is one by itself with that probability. Raises
    ClientError where its work does not count.
    """
    most = plan.steps or plan.epochs
    if plan.stragglers:
        drawn = generator(plan.seed, "straggler", plan.round, client)
        if drawn.random() < plan.stragglers:
            if plan.straggler_work == "none":
                raise ClientError(
                    f"client {client} is a straggler in round {plan.round}, and train.straggler_work is none"
                )
            most = int(drawn.integers(1, most + 1))
    return most


def check_finite(
    client: int, plan: Plan, loss: float, floats: NDArray[np.float32]
) -> None:
    """Raise ClientError for an update that is not finite."""
    if not (math.isfinite(loss) and np.isfinite(floats).all()):
        raise ClientError(
            f"client {client} diverged in round {plan.round}: its loss became {loss:g}; lower train.lr or set train.clip_norm"
        )


def _descend(
    module: nn.Module, plan: Plan, batches: Batches, count: int, room: Room
) -> list[torch.Tensor]:
    """Take SGD steps in place; the update rule is `torch.optim.SGD`'s, without its per-step
    overhead.
    """
    weights: list[torch.Tensor] = [p for p in module.parameters() if p.requires_grad]
    start = [w.detach().clone() for w in weights] if plan.proximal_mu else []
    velocity: list[torch.Tensor] = []
    scale = HALF_SCALE
    losses = []
    for _ in range(count):
        loss, gradients, scale = _loss_and_gradients(
            module, weights, plan, batches, scale, room
        )
        losses.append(loss)
        with torch.no_grad():
            if plan.clip_norm:
                _clip(gradients, plan.clip_norm)
            if plan.weight_decay:
                torch._foreach_add_(gradients, weights, alpha=plan.weight_decay)
            if plan.proximal_mu:
                for gradient, weight, anchor in zip(
                    gradients, weights, start, strict=True
                ):
                    gradient.add_(weight - anchor, alpha=plan.proximal_mu)
            if plan.momentum:
                if not velocity:
                    velocity = [g.clone() for g in gradients]
                else:
                    torch._foreach_mul_(velocity, plan.momentum)
                    torch._foreach_add_(velocity, gradients)
                if plan.nesterov:
                    torch._foreach_add_(gradients, velocity, alpha=plan.momentum)
                else:
                    gradients = velocity
            torch._foreach_add_(weights, gradients, alpha=-plan.lr)
    return losses


def _gradient(
    module: nn.Module, plan: Plan, batches: Batches, room: Room
) -> list[torch.Tensor]:
    """Leave the mean gradient over ``plan.accumulate`` batches, clipped, in each weight's
    ``grad``.
    """
    weights: list[torch.Tensor] = [p for p in module.parameters() if p.requires_grad]
    loss, gradients, _ = _loss_and_gradients(
        module, weights, plan, batches, HALF_SCALE, room
    )
    if plan.clip_norm:
        _clip(gradients, plan.clip_norm)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    return [loss]


def with_gradients(module: nn.Module, layout: Layout, difference: State) -> State:
    """Return the difference with minus the gradient, each weight's ``grad``, in the place of
    every trained weight.
    """
    views = layout.split(difference)
    for name, parameter in module.named_parameters(
        remove_duplicate=False
    ):  # a tied weight has two names
        if parameter.grad is not None:
            views[name][...] = parameter.grad.neg().float().cpu().numpy()
    for parameter in module.parameters():
        parameter.grad = None
    return difference


def _loss_and_gradients(
    module: nn.Module,
    weights: list[torch.Tensor],
    plan: Plan,
    batches: Batches,
    scale: float,
    room: Room,
) -> tuple[torch.Tensor, list[torch.Tensor], float]:
    """Return the mean loss and gradients over ``plan.accumulate`` batches, and the scale that
    carried them.

    In float16 the loss is multiplied by ``scale`` so that small gradients do not vanish; where
    that overflows, the same batches are tried with half of it. (Micikevicius et al., "Mixed
    Precision Training", ICLR 2018, skip the step instead, as torch.amp.GradScaler does; a
    client takes too few steps for that.)
    """
    drawn = [next(batches) for _ in range(plan.accumulate)]
    half = plan.precision == "float16"
    while True:
        summed = partial(
            _summed, module, weights, plan, drawn, scale if half else 1.0, room
        )
        loss, gradients = room.within(module, drawn, summed)
        if not half or scale < 2 or all(bool(g.isfinite().all()) for g in gradients):
            return loss, gradients, scale
        scale /= 2


def _summed(
    module: nn.Module,
    weights: list[torch.Tensor],
    plan: Plan,
    drawn: list[tuple[torch.Tensor, torch.Tensor]],
    scale: float,
    room: Room,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    total: list[torch.Tensor] = []
    mean_loss = torch.zeros(())
    for x, y, share in (part for batch in drawn for part in room.parts(*batch)):
        with _autocast(plan.precision, x.device.type):
            loss = loss_of(module(x), y, plan.label_smoothing)
        mean_loss = mean_loss + loss.detach().float().cpu() * share / len(drawn)
        # A weight that this batch does not reach has a zero gradient.
        found = torch.autograd.grad(
            loss * (scale * share / len(drawn)), weights, allow_unused=True
        )
        gradients = [
            torch.zeros_like(w) if g is None else g
            for g, w in zip(found, weights, strict=True)
        ]
        if total:
            torch._foreach_add_(total, gradients)
        else:
            total = gradients
    if scale != 1.0:
        torch._foreach_div_(total, scale)
    return mean_loss, total


def loss_of(
    scores: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the mean cross-entropy of scores (B, K) or (B, T, K); padding targets do not count.

    A batch of empty lines, with nothing to predict, has loss 0.
    """
    if targets.dim() > 1 and not bool((targets != IGNORE).any()):
        return scores.float().sum() * 0.0
    return nn.functional.cross_entropy(
        scores.float().flatten(0, -2),
        targets.flatten(),
        ignore_index=IGNORE,
        label_smoothing=label_smoothing,
    )


def _clip(gradients: list[torch.Tensor], limit: float) -> None:
    """Scale the gradients in place so that their joint L2 norm is at most ``limit``."""
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
    if norm > limit:
        torch._foreach_mul_(gradients, limit / norm)


def _autocast(precision: str, device: str) -> AbstractContextManager[object]:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(
        device, torch.bfloat16 if precision == "bfloat16" else torch.float16
    )


def _augmented(batches: Batches, plan: Plan, client: int) -> Batches:
    if not plan.augment:
        return batches
    random = torch_generator(plan.seed, "augment", plan.round, client)
    return ((augment(plan.augment, x, random), y) for x, y in batches)
