"""The first step of many clients at once: their weighted updates from one pass over all their samples, as one sum.

At the same weights, a sum of gradients is the gradient of a sum. So every sample's loss has the factor that it has in its
client's mean, times its client's weight, and one gradient is the weighted sum of all clients'. What a client draws is what it
draws by itself. (FedSGD of McMahan et al., AISTATS 2017, is where clients take such a step.)

Legend: K clients, N samples of all their mini-batches, T targets of a sample, P floats of the model's layout.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from fedlearn.arrays import Layout, State
from fedlearn.clients.batches import Tensors
from fedlearn.clients.local import Local, answer_header
from fedlearn.clients.train import mini_batches, with_gradients
from fedlearn.data.samples import IGNORE
from fedlearn.engine.task import (
    Group,
    Held,
    Outcome,
    Summed,
    Task,
    failure_reason,
)
from fedlearn.errors import RecordError
from fedlearn.models import write_state
from fedlearn.plan import Plan
from fedlearn.wire import Bytes, raw_length

SLICE = 256
"""Samples in one forward pass. CPU time of a gradient on one core of a Xeon, ms: small CNN, 360 digits: 12.1 in slices of 32,
7.8 of 64, 5.0 of 256; McMahan's CNN, 600 pictures: 356, 335, 320, and 346 of 512."""

RECURRENT_SLICE = 32
"""The same where a layer is recurrent: characters, 320 lines: 1,083 in slices of 32, 1,194 of 64, 1,266 of 256; a sensor's series,
1,000 windows: 195, 206, 403. Small slices stay in the cache from one time step to the next."""

TAIL = bytes(5)
"""After a group's floats: the pool places what comes from its workers so that floats lie aligned that five bytes follow."""


@dataclass(frozen=True)
class Share:
    """What one client brings to the sum: its mini-batches of the round, and its weight."""

    client: int
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]]
    examples: int
    weight: int


def work(runner: Local, task: Task, group: Group, held: Held) -> Outcome:
    """Return the sum of a group's updates and what came of each client; one whose data cannot be had has its reason."""
    begun = time.perf_counter()
    plan, shares, failed = task.plan, [], []
    for client in group.clients:
        try:
            with runner.alone("train", plan, client):
                shares.append(
                    share(plan, client, runner.tensors(client), group.by_examples)
                )
        except RecordError:
            raise
        except (Exception, SystemExit) as error:  # the data is the user's code
            failed.append(Outcome(client, error=failure_reason(error)))
    floats, losses = summed(runner.module, runner.layout, plan, held.state, shares)
    each_s = (time.perf_counter() - begun) / len(group.clients)
    found = []
    for part, loss in zip(shares, losses.tolist(), strict=True):
        header = answer_header(part.client, plan, held.header, part.examples, loss)
        found.append(
            Outcome(
                part.client,
                train_s=each_s,
                summed=Summed(header, raw_length(runner.layout, header)),
            )
        )
    return Outcome(task.client, floats.tobytes() + TAIL, group=(*found, *failed))


def sum_of(payload: Bytes) -> NDArray[np.float32]:
    """Return the floats (P,) of what `work` gives as the payload of a group; a view."""
    return np.frombuffer(payload, np.float32, (len(payload) - len(TAIL)) // 4)


def share(plan: Plan, client: int, data: Tensors, by_examples: bool) -> Share:
    """Return a client's share: the same mini-batches as in `train`. Raises ClientError when it has no data."""
    batches = mini_batches(plan, data, client)
    return Share(
        client,
        [next(batches) for _ in range(plan.accumulate)],
        len(data),
        len(data) if by_examples else 1,
    )


def summed(
    module: nn.Module, layout: Layout, plan: Plan, start: State, shares: Sequence[Share]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the sum of weight × update over some clients, (P,) float32, and each client's mean loss, (K,) float32.

    An update is what `train` makes of the plan: a first step, or minus a gradient. The module's weights are overwritten.
    """
    nothing = State(
        np.zeros(layout.floats, np.float32), np.zeros(layout.integers, np.int64)
    )
    if not shares:
        return nothing.floats, np.empty(0, np.float32)
    write_state(module, layout, start)
    module.train()
    weights: list[torch.Tensor] = [p for p in module.parameters() if p.requires_grad]
    gradients, losses = _gradients(module, weights, plan, shares)
    if plan.answer == "update":
        with torch.no_grad():
            # FedProx's pull is zero at the start, and momentum's first velocity is the gradient itself.
            if plan.weight_decay:
                torch._foreach_add_(
                    gradients,
                    weights,
                    alpha=plan.weight_decay * sum(s.weight for s in shares),
                )
            torch._foreach_mul_(
                gradients, plan.lr * (1.0 + plan.momentum * plan.nesterov)
            )
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    return with_gradients(module, layout, nothing).floats, losses


def _gradients(
    module: nn.Module, weights: list[torch.Tensor], plan: Plan, shares: Sequence[Share]
) -> tuple[list[torch.Tensor], NDArray[np.float32]]:
    """Return the gradient of the sum over clients of weight × mean loss, and each client's mean loss (K,)."""
    x, y, parts, owners = _joined(plan, shares)
    factors = parts * np.array([s.weight for s in shares])[owners]
    total = [torch.zeros_like(w) for w in weights]
    losses = np.zeros(len(shares))
    for rows in np.array_split(np.arange(len(y)), -(-len(y) // _slice(module))):
        at = slice(int(rows[0]), int(rows[-1]) + 1)
        scores = module(x[at]).float().flatten(0, -2)
        each = F.cross_entropy(
            scores,
            y[at].flatten(),
            ignore_index=IGNORE,
            reduction="none",
            label_smoothing=plan.label_smoothing,
        )
        sample = each.view(len(rows), -1).sum(1)
        loss = (
            sample * torch.from_numpy(factors[at].astype(np.float32)).to(sample.device)
        ).sum()
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        torch._foreach_add_(
            total,
            [
                torch.zeros_like(w) if g is None else g
                for g, w in zip(found, weights, strict=True)
            ],
        )
        losses += np.bincount(
            owners[at], parts[at] * sample.detach().cpu().numpy(), len(shares)
        )
    return total, losses.astype(np.float32)


def _joined(
    plan: Plan, shares: Sequence[Share]
) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.float64], NDArray[np.int64]]:
    """Return all inputs (N, …) and targets (N,) or (N, T), what part of its client's mean loss each target of a sample is (N,), and
    whose sample it is (N,), 0 to K − 1. Lines of text are padded to the longest.
    """
    batches = [
        (place, x, y) for place, each in enumerate(shares) for x, y in each.batches
    ]
    if batches[0][2].dim() > 1:
        longest = max(y.shape[1] for _, _, y in batches)
        batches = [
            (
                k,
                F.pad(x, (0, longest - x.shape[1])),
                F.pad(y, (0, longest - y.shape[1]), value=IGNORE),
            )
            for k, x, y in batches
        ]
    parts = [
        np.full(len(y), 1.0 / (plan.accumulate * max(1, int((y != IGNORE).sum()))))
        for _, _, y in batches
    ]
    owners = [np.full(len(y), k) for k, _, y in batches]
    return (
        torch.cat([x for _, x, _ in batches]),
        torch.cat([y for _, _, y in batches]),
        np.concatenate(parts),
        np.concatenate(owners),
    )


def _slice(module: nn.Module) -> int:
    return (
        RECURRENT_SLICE
        if any(isinstance(layer, nn.RNNBase) for layer in module.modules())
        else SLICE
    )
