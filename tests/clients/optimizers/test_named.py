"""The clients' optimisers against torch's own, in plain torch, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedlearn.clients.batches import passes, tensors
from fedlearn.clients.train import train
from fedlearn.data.samples import Samples
from fedlearn.errors import ClientError, FormatError
from fedlearn.models import layout, read_state
from fedlearn.plan import Plan
from fedlearn.seeds import generator

PLAN = Plan(round=2, seed=5, epochs=3, batch_size=4, lr=0.02)

RULES = [
    ("adam", {}, {}),
    ("adam", {"betas": [0.8, 0.95], "eps": 1e-4, "amsgrad": True}, {}),
    ("adam", {}, {"weight_decay": 0.1}),
    ("adamw", {}, {"weight_decay": 0.1}),
    ("adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.2}, {}),
    ("rmsprop", {"alpha": 0.9}, {}),
    ("rmsprop", {"centered": True}, {"momentum": 0.9, "weight_decay": 0.01}),
]

CLASSES = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}


class Halving(torch.optim.SGD):
    """An optimiser of a user's own: half of SGD's steps."""

    def step(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                for weight in group["params"]:
                    weight.add_(weight.grad, alpha=-group["lr"] / 2)


def samples():
    random = np.random.default_rng(0)
    x = random.normal(size=(14, 6)).astype(np.float32)
    return tensors(Samples(x, random.integers(0, 3, 14)), "features")


def model():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def update(plan):
    module = model()
    shape = layout(module)
    return train(module, shape, plan, read_state(module, shape), samples(), 3)


def twin(plan, optimizer_class, options):
    """The slow twin: the same batches through a plain loop of torch."""
    module = model()
    shape = layout(module)
    start = read_state(module, shape).floats
    anchors = [weight.detach().clone() for weight in module.parameters()]
    optimizer = optimizer_class(module.parameters(), lr=plan.lr, **options)
    order = generator(plan.seed, "batches", plan.round, 3)
    batches = passes(samples(), plan.batch_size, order)
    for _ in range(plan.epochs * 4):
        x, y = next(batches)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        if plan.clip_norm:
            nn.utils.clip_grad_norm_(module.parameters(), plan.clip_norm)
        for weight, anchor in zip(module.parameters(), anchors, strict=True):
            weight.grad += plan.proximal_mu * (weight.detach() - anchor)
        optimizer.step()
    return read_state(module, shape).floats - start


@pytest.mark.parametrize(("name", "options", "keys"), RULES, ids=str)
def test_equals_torchs_own_bit_for_bit(name, options, keys):
    plan = replace(PLAN, optimizer=name, optimizer_options=options, **keys)
    ours = update(plan).difference.floats
    theirs = twin(plan, CLASSES[name], options | keys)
    assert ours.tobytes() == theirs.tobytes()
    assert np.abs(ours).max() > 0.01
    assert np.abs(ours - update(PLAN).difference.floats).max() > 1e-3


def test_the_plan_says_which():
    plan = replace(PLAN, optimizer="adam", optimizer_options={"betas": [0.8, 0.9]})
    assert Plan.from_json(plan.to_json()) == plan
    # Agents of earlier versions read a plan of SGD, and refuse this one.
    assert "optimizer" not in PLAN.to_json()
    assert '"optimizer":"adam"' in plan.to_json()


@pytest.mark.parametrize("options", [{"betas": {"a": 1}}, {"eps": None}, [], 1])
def test_options_that_are_none_are_refused(options):
    text = replace(PLAN, optimizer="adam", optimizer_options=options).to_json()
    with pytest.raises(FormatError, match="optimizer_options"):
        Plan.from_json(text)


def test_gradients_are_clipped_before():
    plan = replace(PLAN, optimizer="adagrad", clip_norm=0.05)
    ours = update(plan).difference.floats
    theirs = twin(plan, torch.optim.Adagrad, {})
    assert np.abs(ours - theirs).max() < 1e-5
    bound = replace(plan, clip_norm=0.0)
    assert np.abs(ours - update(bound).difference.floats).max() > 1e-4


def test_fedprox_pulls_adams_gradient():
    plan = replace(PLAN, optimizer="adam", proximal_mu=5.0)
    ours = update(plan).difference.floats
    assert np.abs(ours - twin(plan, torch.optim.Adam, {})).max() < 1e-5
    free = update(replace(plan, proximal_mu=0.0)).difference.floats
    assert np.abs(ours - free).max() > 1e-3


def test_an_optimiser_of_ones_own():
    plan = replace(PLAN, optimizer=f"{__name__}:Halving")
    half = update(plan).difference.floats
    sgd = update(replace(PLAN, lr=PLAN.lr / 2)).difference.floats
    assert np.abs(half - sgd).max() < 1e-6


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"optimizer": "adan"}, "Did you mean 'adam'"),
        ({"optimizer": "adam", "optimizer_options": {"beta": 1}}, "beta"),
        ({"optimizer": "adam", "optimizer_options": {"betas": [2.0, 0.9]}}, "beta"),
        ({"optimizer": f"{__name__}:samples"}, "cannot be built with lr = 0.02"),
        ({"optimizer": "builtins:dict"}, "cannot be built|gave a dict"),
    ],
)
def test_what_cannot_be_built_is_the_clients_failure(changes, reason):
    with pytest.raises(ClientError, match=reason):
        update(replace(PLAN, **changes))
