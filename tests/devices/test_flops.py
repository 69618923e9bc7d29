"""Operations per sample, against counts by hand and torch's own."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedlearn import models
from fedlearn.devices.flops import Flops, count


def test_two_layers_by_hand():
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    forward = 2 * (4 * 3 + 3 * 2)
    assert count(module, (4,)) == Flops(
        forward, 3 * forward - 2 * 4 * 3
    )  # no gradient of the data


@pytest.mark.parametrize(
    ("name", "shape"), [("cnn-small", (1, 28, 28)), ("resnet-small", (3, 32, 32))]
)
def test_as_torch_counts_both_passes(name, shape):
    module = models.build(name, {}, input_shape=shape, classes=10, seed=0)
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(2, *shape)).sum().backward()
    assert count(module, shape).training == counter.get_total_flops() / 2


def test_an_lstm_by_hand():
    module = models.build("lstm-char", {}, input_shape=(80,), classes=256, seed=0)
    cells = 4 * 256 * (8 + 256) + 4 * 256 * (256 + 256)
    assert count(module, (80,), text=True).forward == 2 * 80 * (cells + 256 * 256)


def test_grouped_convolutions_cost_what_they_multiply():
    module = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    assert count(module, (8, 5, 5)).forward == 2 * 8 * 9 * 25


def test_the_module_is_left_as_it_was():
    module = models.build(
        "resnet-small", {"norm": "batch"}, input_shape=(3, 32, 32), classes=10, seed=0
    ).eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    count(module, (3, 32, 32))
    assert not module.training
    assert all(
        torch.equal(value, before[key]) for key, value in module.state_dict().items()
    )


class Looks(nn.Module):
    """A model that looks at values, which tensors without any do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if float(x.sum()) >= 0 else x


def test_a_model_that_cannot_be_counted_is_estimated_by_its_parameters():
    assert count(Looks(), (4,)) == Flops(20, 60)
