"""Local training against torch's own optimiser, and its promises: determinism, failures,
buffers.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedlearn.arrays import State
from fedlearn.clients.batches import Tensors, passes, tensors
from fedlearn.clients.train import train
from fedlearn.data.samples import IGNORE, Samples
from fedlearn.errors import ClientError
from fedlearn.models import layout, read_state
from fedlearn.plan import Plan
from fedlearn.seeds import generator

PLAN = Plan(round=2, seed=5, epochs=2, batch_size=4, lr=0.1)


def data(samples: int = 14) -> Tensors:
    random = np.random.default_rng(0)
    return tensors(
        Samples(
            random.normal(size=(samples, 6)).astype(np.float32),
            random.integers(0, 3, samples),
        ),
        "features",
    )


def model(*layers: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), *layers, nn.ReLU(), nn.Linear(8, 3))


def update(
    module: nn.Module,
    plan: Plan = PLAN,
    samples: Tensors | None = None,
    client: int = 3,
):
    shape = layout(module)
    return train(
        module,
        shape,
        plan,
        read_state(module, shape),
        data() if samples is None else samples,
        client,
    )


def twin(module: nn.Module, plan: Plan, samples: Tensors, client: int = 3) -> State:
    """The slow twin: the same batches through `torch.optim.SGD`, in plain torch."""
    shape = layout(module)
    start = read_state(module, shape)
    anchor = [p.detach().clone() for p in module.parameters()]
    optimiser = torch.optim.SGD(
        module.parameters(),
        plan.lr,
        plan.momentum,
        weight_decay=plan.weight_decay,
        nesterov=plan.nesterov,
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=plan.label_smoothing)
    batches = passes(
        samples, plan.batch_size, generator(plan.seed, "batches", plan.round, client)
    )
    batches_a_pass = math.ceil(len(samples) / (plan.batch_size or len(samples)))
    for _ in range(
        plan.steps or plan.epochs * math.ceil(batches_a_pass / plan.accumulate)
    ):
        optimiser.zero_grad()
        for _ in range(plan.accumulate):
            x, y = next(batches)
            (criterion(module(x), y) / plan.accumulate).backward()
        if plan.clip_norm:
            nn.utils.clip_grad_norm_(module.parameters(), plan.clip_norm)
        for p, a in zip(module.parameters(), anchor, strict=True):
            assert p.grad is not None
            p.grad += plan.proximal_mu * (p.detach() - a)
        optimiser.step()
    end = read_state(module, shape)
    return State(end.floats - start.floats, end.integers - start.integers)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1, "momentum": 0.5},
        {"clip_norm": 0.3},
        {"label_smoothing": 0.2},
        {"proximal_mu": 1.0},
        {"accumulate": 2},
        {"steps": 5},
        {"batch_size": 0},
    ],
    ids=str,
)
def test_equals_torchs_own_optimiser(changes):
    plan = replace(PLAN, **changes)
    ours, theirs = (
        update(model(), plan).difference.floats,
        twin(model(), plan, data()).floats,
    )
    assert np.abs(ours - theirs).max() < 2e-6
    assert np.abs(ours).max() > 0.01
    if changes:
        assert np.abs(ours - update(model()).difference.floats).max() > 1e-4


def test_a_gradient_is_minus_the_gradient_of_the_batches():
    plan = replace(PLAN, answer="gradient", accumulate=2, lr=99.0)
    one_step = update(
        model(), replace(PLAN, steps=1, accumulate=2, lr=1.0)
    ).difference.floats
    assert np.abs(update(model(), plan).difference.floats - one_step).max() < 1e-6


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_stays_close_to_float32(precision):
    plain, mixed = update(model()), update(model(), replace(PLAN, precision=precision))
    assert 0 < np.abs(plain.difference.floats - mixed.difference.floats).max() < 0.02
    assert mixed.difference.floats.dtype == np.float32


def test_the_result_is_a_function_of_seed_round_and_client():
    module = model(nn.Dropout(0.5))
    base = update(module).difference.floats
    shape = layout(module)
    start = State(read_state(module, shape).floats - base, np.empty(0, np.int64))
    torch.manual_seed(123)
    again = train(module, shape, PLAN, State(start.floats, start.integers), data(), 3)
    others = [
        update(model(nn.Dropout(0.5)), p, client=c)
        for p, c in ((replace(PLAN, seed=6), 3), (replace(PLAN, round=3), 3), (PLAN, 4))
    ]
    assert np.abs(again.difference.floats - base).max() < 1e-6
    assert all(np.abs(o.difference.floats - base).max() > 1e-3 for o in others)


def late(plan: Plan, client: int) -> str:
    """Return why a client did nothing; "" for one that did all."""
    try:
        assert update(model(), plan, client=client).steps == 4 * plan.epochs
    except ClientError as error:
        return str(error)
    return ""


def test_stragglers_do_a_part_of_their_epochs_or_nothing():
    plan = replace(PLAN, epochs=5, stragglers=0.6)
    taken = [update(model(), plan, client=client).steps for client in range(40)]
    passes_made = [steps / 4 for steps in taken]  # 14 samples are four batches
    assert set(passes_made) == {1, 2, 3, 4, 5}
    assert (
        0.6 * 0.8 * 40 - 10
        < sum(made < 5 for made in passes_made)
        < 0.6 * 0.8 * 40 + 10
    )
    assert {
        update(model(), replace(plan, stragglers=0.0), client=client).steps
        for client in range(3)
    } == {20}
    told = [late(replace(plan, straggler_work="none"), client) for client in range(40)]
    assert 14 < sum(map(bool, told)) < 34
    assert all(
        f"client {client} is a straggler" in text
        for client, text in enumerate(told)
        if text
    )
    by_steps = {
        update(model(), replace(plan, steps=3), client=client).steps
        for client in range(20)
    }
    assert by_steps == {1, 2, 3}


def test_the_global_generator_stays_as_it_was():
    torch.manual_seed(7)
    expected = torch.rand(1).item()
    torch.manual_seed(7)
    update(model(nn.Dropout(0.5)))
    assert torch.rand(1).item() == expected


def test_batchnorm_statistics_and_counters_travel_and_a_last_batch_of_one_does_not_fail():
    module = model(nn.BatchNorm1d(8))
    found = update(module, samples=data(13)).difference
    shape = layout(module)
    views = shape.split(found)
    assert (
        views["1.num_batches_tracked"] == 6
    )  # 13 samples in batches of 4, 4 and 5, twice
    assert np.abs(views["1.running_mean"]).max() > 0


def test_frozen_weights_do_not_move_and_the_loss_is_of_the_steps():
    module: Any = model()
    module[0].weight.requires_grad_(False)
    found = update(module)
    assert layout(module).split(found.difference)["0.weight"].any() == np.False_
    assert (found.examples, found.steps) == (14, 8)
    assert 0.5 < found.train_loss < 1.5


def test_text_loss_skips_padding():
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(256, 256)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table(x)

    y = np.full((4, 8), IGNORE, np.int16)
    y[:, :3] = 65
    short = tensors(Samples(np.full((4, 8), 65, np.uint8), y), "text")
    cut = tensors(Samples(np.full((4, 3), 65, np.uint8), y[:, :3]), "text")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Bytes()
    shape = layout(module)
    start = read_state(module, shape)
    assert np.array_equal(
        train(module, shape, PLAN, start, short, 0).difference.floats,
        train(module, shape, PLAN, start, cut, 0).difference.floats,
    )


def test_divergence_and_empty_clients_are_failures_with_a_reason():
    with pytest.raises(
        ClientError, match=r"client 3 diverged in round 2: .*lower train\.lr"
    ):
        update(model(), replace(PLAN, lr=1e30, epochs=5))
    with pytest.raises(ClientError, match="client 3 has no samples"):
        update(model(), samples=data(0))
