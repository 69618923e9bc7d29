"""Parameter counts, shapes, causality, and that each family learns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, linear, max_pool2d

from fedlearn.models import build, layout
from fedlearn.models.transformer import positions, visible

MNIST = (1, 28, 28)
COLOUR = (3, 32, 32)


def make(
    name: str, shape: tuple[int, ...], classes: int, **options: object
) -> nn.Module:
    return build(name, options, input_shape=shape, classes=classes, seed=0)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "options", "parameters"),
    [
        ("logistic", MNIST, 10, {}, 784 * 10 + 10),
        ("logistic", (60,), 10, {}, 610),
        ("2nn", MNIST, 10, {}, 199_210),
        ("cnn", MNIST, 10, {}, 1_663_370),
        ("cnn", (1, 8, 8), 10, {}, 188_810),
        ("cnn", COLOUR, 10, {}, 2_156_490),
        ("cnn-small", MNIST, 10, {}, 105_866),
        ("cnn-small", (1, 8, 8), 10, {}, 13_706),
        ("cnn-small", COLOUR, 10, {}, 136_874),
        ("lenet", MNIST, 10, {}, 44_426),
        ("lstm-rows", MNIST, 10, {}, 214_282),
        ("lstm-char", (80,), 256, {}, 866_560),
        ("lstm-sensor", (64, 6), 7, {}, 18_887),
        (
            "transformer-char",
            (80,),
            256,
            {},
            2 * (12 * 128**2 + 13 * 128) + 2 * 256 * 128 + 256 + 2 * 128,
        ),
        ("transformer-char", (80,), 256, {}, 462_592),
        ("resnet-small", COLOUR, 10, {}, 78_042),
        ("resnet-small", MNIST, 10, {}, 77_754),
        ("resnet-small", COLOUR, 10, {"blocks": 3}, 272_474),
        ("mobilenet-small", COLOUR, 10, {}, 32_522),
        ("mobilenet-small", MNIST, 10, {}, 32_234),
    ],
)
def test_parameter_counts(
    name: str,
    shape: tuple[int, ...],
    classes: int,
    options: dict[str, object],
    parameters: int,
) -> None:
    names = layout(make(name, shape, classes, **options))
    assert names.trained == parameters
    assert (names.floats, names.integers) == (parameters, 0)


def test_batchnorm_adds_statistics_and_counters_only() -> None:
    group, batch = (
        layout(make("resnet-small", MNIST, 10, norm=kind))
        for kind in ("group", "batch")
    )
    assert group.trained == batch.trained
    # stem 16, then three blocks of two norms, two of them with one more on the shortcut
    assert batch.floats - batch.trained == 2 * (16 + 2 * 16 + 3 * 32 + 3 * 64)
    assert batch.integers == 9
    assert (
        layout(make("mobilenet-small", MNIST, 10, norm="batch")).integers
        == 1 + 2 + 4 * 3 + 1
    )


@pytest.mark.parametrize(
    ("name", "scaled"), [("cnn", lambda x: x), ("cnn-small", lambda x: 2 * x - 1)]
)
def test_the_cnns_are_convolution_relu_pool_twice(
    name: str, scaled: Callable[[Tensor], Tensor]
) -> None:
    module = make(name, MNIST, 10)
    weights = dict(module.named_parameters())
    x = torch.rand(2, *MNIST, generator=torch.Generator().manual_seed(0))
    y = scaled(x)
    for layer in ("conv1", "conv2"):
        weight = weights[f"{layer}.weight"].contiguous()
        y = max_pool2d(
            conv2d(
                y, weight, weights[f"{layer}.bias"], padding=weight.shape[2] // 2
            ).relu(),
            2,
        )
    y = linear(y.flatten(1), weights["hidden.weight"], weights["hidden.bias"]).relu()
    torch.testing.assert_close(
        module(x), linear(y, weights["output.weight"], weights["output.bias"])
    )


def test_the_small_cnn_starts_undecided() -> None:
    module = make("cnn-small", MNIST, 10)
    loss = cross_entropy(module(torch.rand(10, *MNIST)), torch.arange(10))
    assert float(loss.detach()) == pytest.approx(2.3026, abs=0.05)  # ln 10
    hidden = module.get_parameter("hidden.weight")
    assert float(hidden.detach().std()) == pytest.approx(
        (2 / 1568) ** 0.5, rel=0.02
    )  # He: sqrt(2 / inputs)
    assert not module.get_parameter("conv1.bias").any()


@pytest.mark.parametrize("name", ["lstm-char", "transformer-char"])
def test_later_bytes_do_not_change_earlier_scores(name: str) -> None:
    module = make(name, (12,), 256, width=16)
    line = torch.randint(1, 256, (1, 12), generator=torch.Generator().manual_seed(0))
    changed = line.clone()
    changed[0, 7:] = torch.tensor([9, 8, 7, 0, 0])
    with torch.no_grad():
        before, after, cut = module(line), module(changed), module(line[:, :7])
    torch.testing.assert_close(after[:, :7], before[:, :7])
    torch.testing.assert_close(cut, before[:, :7])
    assert not torch.allclose(after[:, 7:], before[:, 7:])


@pytest.mark.parametrize("name", ["lstm-char", "transformer-char"])
def test_earlier_bytes_do_change_later_scores(name: str) -> None:
    module = make(name, (6,), 256, width=16)
    with torch.no_grad():
        scores = module(torch.tensor([[1, 5, 5, 5], [2, 5, 5, 5]]))
    assert not torch.allclose(scores[0, 3], scores[1, 3])


def test_what_a_position_sees() -> None:
    seen = visible(torch.tensor([[0, 7, 7, 0]])).int().tolist()
    assert seen == [[[[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]]]


def test_a_line_of_padding_alone_is_finite() -> None:
    module = make("transformer-char", (5,), 256, width=8)
    scores = module(torch.zeros(2, 5, dtype=torch.int64))
    gradients = torch.autograd.grad(scores.sum(), list(module.parameters()))
    assert scores.isfinite().all() and all(g.isfinite().all() for g in gradients)


def test_positions_are_vaswanis() -> None:
    table = positions(3, 4)
    assert table[0].tolist() == [0, 0, 1, 1]
    angles = torch.tensor([2.0, 2.0 / 100])  # rates 10000^0 and 10000^(-2/4)
    torch.testing.assert_close(table[2], torch.cat((angles.sin(), angles.cos())))


def test_dropout_acts_in_training_only() -> None:
    module = make("transformer-char", (5,), 256, width=8, dropout=0.5)
    x = torch.ones(1, 5, dtype=torch.int64)
    with torch.no_grad():
        assert not torch.equal(module(x), module(x))
        module.eval()
        assert torch.equal(module(x), module(x))


def sgd_losses(
    module: nn.Module, x: Tensor, y: Tensor, lr: float, steps: int
) -> list[float]:
    optimiser = torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = cross_entropy(module(x).flatten(0, -2), y.flatten())
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(
    ("name", "options", "lr"),
    [
        ("logistic", {}, 0.05),
        ("2nn", {}, 0.05),
        ("cnn", {}, 0.05),
        ("cnn-small", {}, 0.05),
        ("resnet-small", {}, 0.05),
        ("resnet-small", {"norm": "batch"}, 0.05),
        ("mobilenet-small", {}, 0.05),
        ("mobilenet-small", {"norm": "batch"}, 0.05),
    ],
)
def test_image_models_learn_four_bright_quarters(
    name: str, options: dict[str, object], lr: float
) -> None:
    random = torch.Generator().manual_seed(0)
    y = torch.arange(4).repeat(4)
    x = 0.3 * torch.rand(16, 1, 8, 8, generator=random)
    for i, quarter in enumerate(y.tolist()):
        row, column = 4 * (quarter // 2), 4 * (quarter % 2)
        x[i, 0, row : row + 4, column : column + 4] += 0.7
    losses = sgd_losses(make(name, (1, 8, 8), 4, **options), x, y, lr, 40)
    assert losses[-1] < 0.3 * losses[0]


def test_the_sensor_lstm_learns_rising_from_falling() -> None:
    y = torch.arange(8) % 2
    x = torch.stack(
        [
            (2 * k - 1) * torch.linspace(-1, 1, 20) + 0.1 * i
            for i, k in enumerate(y.tolist())
        ]
    )[:, :, None]
    losses = sgd_losses(make("lstm-sensor", (20, 1), 2, width=16), x, y, 0.1, 80)
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("name", "lr"), [("lstm-char", 1.0), ("transformer-char", 0.1)]
)
def test_text_models_learn_a_line(name: str, lr: float) -> None:
    line = torch.tensor([list(b"to be or not to be")])
    losses = sgd_losses(
        make(name, (17,), 256, width=32), line[:, :-1], line[:, 1:], lr, 60
    )
    assert losses[-1] < 0.3 * losses[0]
