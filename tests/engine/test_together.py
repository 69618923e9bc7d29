"""The sum of many clients' updates from one pass is the sum of what each learns by itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedlearn import models
from fedlearn.arrays import State
from fedlearn.clients.batches import tensors
from fedlearn.clients.local import answer_header
from fedlearn.clients.train import train
from fedlearn.data.samples import IGNORE, Samples
from fedlearn.engine import together
from fedlearn.errors import ClientError
from fedlearn.plan import Plan
from fedlearn.wire import GRADIENT, Header, encode, raw_length

RANDOM = np.random.default_rng(4)

STEP = Plan(round=2, seed=5, batch_size=0, lr=0.1)
GRADIENT_PLAN = replace(STEP, answer="gradient", batch_size=4)

PLANS = {
    "full batch": STEP,
    "one mini-batch": replace(STEP, steps=1, batch_size=4),
    "momentum": replace(STEP, momentum=0.9),
    "nesterov": replace(STEP, momentum=0.5, nesterov=True, weight_decay=0.05),
    "proximal": replace(STEP, proximal_mu=0.3),
    "smoothed": replace(STEP, label_smoothing=0.1),
    "augmented": replace(STEP, augment="flip-shift"),
    "gradient": GRADIENT_PLAN,
    "accumulated": replace(GRADIENT_PLAN, accumulate=3),
}

SHAPES = {
    **dict.fromkeys(
        ("logistic", "2nn", "cnn", "cnn-small", "resnet-small", "mobilenet-small"),
        ("image", (1, 12, 12)),
    ),
    "lstm-sensor": ("series", (20, 3)),
    "lstm-char": ("text", (9,)),
    "transformer-char": ("text", (9,)),
}
SIZES = (11, 4, 14, 1, 9)


def samples(modality, shape, count):
    if modality == "text":  # lines of two to nine characters
        x, y = (
            RANDOM.integers(1, 90, (count, *shape)).astype(np.uint8),
            RANDOM.integers(1, 90, (count, *shape)).astype(np.int16),
        )
        past = np.arange(shape[0]) >= RANDOM.integers(2, shape[0] + 1, (count, 1))
        x[past], y[past] = 0, IGNORE
        return Samples(x, y)
    pixels, numbers = (
        RANDOM.integers(0, 256, (count, *shape)).astype(np.uint8),
        RANDOM.standard_normal((count, *shape), np.float32),
    )
    return Samples(
        pixels if modality == "image" else numbers, RANDOM.integers(0, 3, count)
    )


def compare(
    module, plan, modality="image", shape=(1, 12, 12), by_examples=True, most=1e-6
):
    """Check a sum against the clients one by one; ``most``: of the largest value."""
    layout = models.layout(module)
    start = models.read_state(module, layout)
    data = [tensors(samples(modality, shape, size), modality) for size in SIZES]
    shares = [
        together.share(plan, 7 + k, each, by_examples) for k, each in enumerate(data)
    ]
    found, losses = together.summed(module, layout, plan, start, shares)
    updates = [
        train(module, layout, plan, start, each, 7 + k) for k, each in enumerate(data)
    ]
    wanted = sum(
        (
            np.float64(u.examples if by_examples else 1) * u.difference.floats
            for u in updates
        ),
        np.zeros(layout.floats),
    )
    assert found.dtype == np.float32
    # A client's own update is what float32 leaves of w − lr·g − w, so a model's largest
    # weight counts too.
    scale = max(np.abs(wanted).max(), plan.lr * np.abs(start.floats).max() * sum(SIZES))
    assert np.abs(wanted).max() > 1e-3
    assert np.abs(found - wanted).max() <= most * scale
    assert losses == pytest.approx([u.train_loss for u in updates], rel=1e-5)


@pytest.mark.parametrize("by_examples", [True, False], ids=["by examples", "alike"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_plan_of_one_step(plan, by_examples):
    module = models.build(
        "cnn-small", {}, input_shape=(1, 12, 12), classes=3, seed=0, modality="image"
    )
    compare(module, plan, by_examples=by_examples)


@pytest.mark.parametrize(("name", "data"), SHAPES.items(), ids=SHAPES)
def test_every_shipped_model(name, data):
    modality, shape = data
    module = models.build(
        name,
        {},
        input_shape=shape,
        classes=90 if modality == "text" else 3,
        seed=0,
        modality=modality,
    )
    compare(module, STEP, modality, shape)


@pytest.mark.parametrize(
    "plan", [STEP, PLANS["accumulated"]], ids=["step", "accumulated"]
)
def test_slices_do_not_show(plan, monkeypatch):
    monkeypatch.setattr(together, "SLICE", 3)
    module = models.build(
        "cnn-small", {}, input_shape=(1, 12, 12), classes=3, seed=0, modality="image"
    )
    compare(module, plan)


class Tied(nn.Module):
    """One weight under two names, one that is frozen, and one that no sample reaches."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.frozen = (
            nn.Linear(144, 144),
            nn.Linear(144, 144),
            nn.Linear(144, 3),
        )
        self.second.weight = self.first.weight
        self.frozen.weight.requires_grad_(False)
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.frozen(self.second(torch.relu(self.first(x.flatten(1)))))


@pytest.mark.parametrize(
    "plan", [STEP, GRADIENT_PLAN, PLANS["nesterov"]], ids=["step", "gradient", "decay"]
)
def test_tied_frozen_and_idle_weights(plan):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = Tied()
    compare(module, plan)


def test_a_client_without_samples_has_no_share():
    none = tensors(samples("image", (1, 12, 12), 0), "image")
    with pytest.raises(ClientError, match="client 3 has no samples"):
        together.share(STEP, 3, none, True)


@pytest.mark.parametrize("name", ["logistic", "mobilenet-small"])
@pytest.mark.parametrize("plan", [STEP, GRADIENT_PLAN], ids=["update", "gradient"])
def test_the_length_of_a_payload_that_is_never_made(name, plan):
    options = (
        {"norm": "batch"} if name == "mobilenet-small" else {}
    )  # statistics and counters travel too
    layout = models.layout(
        models.build(
            name, options, input_shape=(1, 12, 12), classes=3, seed=0, modality="image"
        )
    )
    start = Header(GRADIENT, round=3, digest=bytes(8), codec="raw32")
    for client, (examples, loss) in enumerate(
        [(1, 2.5), (127, 0.0), (128, 1e-9), (70_000, 3.0)]
    ):
        header = answer_header(client, plan, start, examples, loss)
        change = State(
            RANDOM.standard_normal(layout.floats).astype(np.float32),
            RANDOM.integers(-9, 9, layout.integers),
        )
        assert raw_length(layout, header) == len(encode(layout, header, change))
