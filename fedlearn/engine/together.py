"""The first step of many clients at once: the sum of their weighted updates, in one pass.

At the same weights, a sum of gradients is the gradient of a sum. So every sample's loss
gets the factor that it has in its client's mean, times the client's weight, and one
gradient is the weighted sum over all clients. Each client draws the mini-batches that it
draws when it trains by itself. (Clients take such a single step in FedSGD: McMahan et
al., AISTATS 2017.)

Legend: K clients, N samples of all their mini-batches, T targets of a sample, P floats
of the model's layout.
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
from fedlearn.errors import RecordError, pass_on_signal
from fedlearn.models import write_state
from fedlearn.plan import Plan
from fedlearn.wire import Bytes, raw_length

# Samples in one forward pass. CPU time of a gradient on one core of a Xeon, in ms:
# small CNN, 360 digits: 12.1 in slices of 32, 7.8 of 64, 5.0 of 256;
# McMahan's CNN, 600 pictures: 356 of 32, 335 of 64, 320 of 256, 346 of 512.
SLICE = 256

# The same for models with a recurrent layer: small slices stay in the cache from one
# time step to the next. In ms: characters, 320 lines: 1,083 in slices of 32, 1,194 of 64,
# 1,266 of 256; a sensor's series, 1,000 windows: 195, 206, 403.
RECURRENT_SLICE = 32

# Five bytes after a group's floats. The pool aligns payloads for float32 values that five
# bytes follow, so a bare vector needs them too.
PADDING = bytes(5)


@dataclass(frozen=True)
class Share:
    """What one client brings to the sum: its mini-batches of the round, and its weight."""

    client: int
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]]
    examples: int
    weight: int


@dataclass(frozen=True)
class _Joined:
    """The mini-batches of K clients as one."""

    # Inputs (N, …).
    x: torch.Tensor
    # Targets (N,), or (N, T) for text.
    y: torch.Tensor
    # (N,): what part of its client's mean loss each target of a sample is.
    parts: NDArray[np.float64]
    # (N,): the client of each sample, 0 to K - 1.
    owners: NDArray[np.int64]


def work(runner: Local, task: Task, group: Group, held: Held) -> Outcome:
    """Return the sum of a group's updates, and the outcome of each client.

    A client whose data cannot be read fails with its reason; the others count. Raises
    RecordError.
    """
    begun = time.perf_counter()
    plan = task.plan
    shares, failures = _shares(runner, plan, group)
    floats, losses = summed(runner.module, runner.layout, plan, held.state, shares)
    # The time of the pass is shared out evenly.
    client_s = (time.perf_counter() - begun) / len(group.clients)
    outcomes = []
    for part, loss in zip(shares, losses.tolist(), strict=True):
        # No payload is made; a run still records the bytes that it would have taken.
        header = answer_header(part.client, plan, held.header, part.examples, loss)
        bytes_up = raw_length(runner.layout, header)
        outcomes.append(
            Outcome(part.client, train_s=client_s, summed=Summed(header, bytes_up))
        )
    payload = floats.tobytes() + PADDING
    return Outcome(task.client, payload, group=(*outcomes, *failures))


def sum_of(payload: Bytes) -> NDArray[np.float32]:
    """Return the sum (P,) in the payload of a group's outcome; a view."""
    float_bytes = len(payload) - len(PADDING)
    return np.frombuffer(payload, np.float32, float_bytes // 4)


def share(plan: Plan, client: int, data: Tensors, by_examples: bool) -> Share:
    """Return a client's share, with the mini-batches that `train` draws.

    Raises ClientError when the client has no samples.
    """
    batches = mini_batches(plan, data, client)
    weight = 1
    if by_examples:
        weight = len(data)
    return Share(
        client, [next(batches) for _ in range(plan.accumulate)], len(data), weight
    )


def summed(
    module: nn.Module, layout: Layout, plan: Plan, start: State, shares: Sequence[Share]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the sum of weight × update over clients (P,), and their mean losses (K,).

    Both are float32. An update is what `train` makes of the plan: a first step, or minus
    a gradient. The module's weights are overwritten.
    """
    zero = State(
        np.zeros(layout.floats, np.float32), np.zeros(layout.integers, np.int64)
    )
    if not shares:
        return zero.floats, np.empty(0, np.float32)
    write_state(module, layout, start)
    module.train()
    weights: list[torch.Tensor] = [p for p in module.parameters() if p.requires_grad]
    gradients, losses = _gradients(module, weights, plan, shares)
    if plan.answer == "update":
        _first_step(plan, weights, gradients, sum(s.weight for s in shares))
    # `with_gradients` negates, and puts them in the place of trained weights.
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    return with_gradients(module, layout, zero).floats, losses


def _shares(
    runner: Local, plan: Plan, group: Group
) -> tuple[list[Share], list[Outcome]]:
    """Return the clients' shares, and the outcomes of those whose data cannot be read."""
    shares = []
    failures = []
    for client in group.clients:
        try:
            with runner.alone("train", plan, client):
                data = runner.tensors(client)
                shares.append(share(plan, client, data, group.by_examples))
        except RecordError:
            raise
        except (Exception, SystemExit) as error:
            pass_on_signal(error)
            # The data is the user's code, and may raise anything.
            failures.append(Outcome(client, error=failure_reason(error)))
    return shares, failures


def _first_step(
    plan: Plan, weights: list[torch.Tensor], gradients: list[torch.Tensor], total: int
) -> None:
    """Turn a sum of gradients into a sum of steps, in place. total: of the clients' weights.

    FedProx adds nothing, since its pull is zero at the start. Momentum's first velocity is
    the gradient itself.
    """
    with torch.no_grad():
        if plan.weight_decay:
            decay = plan.weight_decay * total
            torch._foreach_add_(gradients, weights, alpha=decay)
        scale = plan.lr * (1.0 + plan.momentum * plan.nesterov)
        torch._foreach_mul_(gradients, scale)


def _gradients(
    module: nn.Module, weights: list[torch.Tensor], plan: Plan, shares: Sequence[Share]
) -> tuple[list[torch.Tensor], NDArray[np.float32]]:
    """Return the gradient of the sum of weight × mean loss, and each client's mean loss (K,)."""
    joined = _joined(plan, shares)
    factors = joined.parts * np.array([s.weight for s in shares])[joined.owners]
    total = [torch.zeros_like(w) for w in weights]
    losses = np.zeros(len(shares))
    samples = np.arange(len(joined.y))
    slices = -(-len(samples) // _slice(module))
    # Slices of like size, whatever process computes them: their number fixes the bits.
    for rows in np.array_split(samples, slices):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        scores = module(joined.x[part]).float().flatten(0, -2)
        sample_losses = _losses(scores, joined.y[part], plan.label_smoothing)
        factor = torch.from_numpy(factors[part].astype(np.float32))
        loss = (sample_losses * factor.to(sample_losses.device)).sum()
        _add_gradients(total, loss, weights)
        losses += np.bincount(
            joined.owners[part],
            joined.parts[part] * sample_losses.detach().cpu().numpy(),
            len(shares),
        )
    return total, losses.astype(np.float32)


def _losses(
    scores: torch.Tensor, targets: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """Return the cross-entropy of each sample (N,), summed over its targets."""
    losses = F.cross_entropy(
        scores,
        targets.flatten(),
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses.view(len(targets), -1).sum(1)


def _add_gradients(
    total: list[torch.Tensor], loss: torch.Tensor, weights: list[torch.Tensor]
) -> None:
    """Add the gradients of a loss to ``total``, in place."""
    gradients = []
    computed = torch.autograd.grad(loss, weights, allow_unused=True)
    for gradient, weight in zip(computed, weights, strict=True):
        # A weight that no sample reaches has a zero gradient.
        if gradient is None:
            gradient = torch.zeros_like(weight)
        gradients.append(gradient)
    torch._foreach_add_(total, gradients)


def _joined(plan: Plan, shares: Sequence[Share]) -> _Joined:
    """Return all mini-batches as one. Lines of text are padded to the longest."""
    xs: list[torch.Tensor] = []
    ys: list[torch.Tensor] = []
    parts = []
    owners = []
    for owner, client in enumerate(shares):
        for x, y in client.batches:
            xs.append(x)
            ys.append(y)
            # A batch of empty lines has no targets, and loss 0.
            targets = max(1, int((y != IGNORE).sum()))
            parts.append(np.full(len(y), 1.0 / (plan.accumulate * targets)))
            owners.append(np.full(len(y), owner))
    if ys[0].dim() > 1:
        longest = max(y.shape[1] for y in ys)
        xs = [F.pad(x, (0, longest - x.shape[1])) for x in xs]
        ys = [F.pad(y, (0, longest - y.shape[1]), value=IGNORE) for y in ys]
    return _Joined(
        torch.cat(xs), torch.cat(ys), np.concatenate(parts), np.concatenate(owners)
    )


def _slice(module: nn.Module) -> int:
    if any(isinstance(layer, nn.RNNBase) for layer in module.modules()):
        return RECURRENT_SLICE
    return SLICE
