"""What pruning takes away: the weakest, with all that hangs on them, and nothing else."""

from typing import Any

import pytest
import torch

from fedlearn.compress.pruning import prune
from fedlearn.compress.recurrent import prune_recurrent, remaining
from fedlearn.errors import ModelError
from fedlearn.models import SHAPES, build

IMAGE = (1, 8, 8)


def built(name, shape=IMAGE, options=None, classes=10):
    return build(name, options or {}, input_shape=shape, classes=classes, seed=0).eval()


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def shapes_of(module):
    return {name: tuple(t.shape) for name, t in module.state_dict().items()}


def same(first, second, x):
    with torch.no_grad():
        return torch.allclose(first(x), second(x), atol=1e-5)


def test_filters_that_do_nothing_go_and_the_scores_stay():
    module = built("cnn-small")
    with torch.no_grad():
        # Half of each layer's filters, in any place, and what reads them.
        module.conv1.weight[::2] = 0
        module.conv2.weight[:, ::2] = 0
        module.conv2.weight[1::2] = 0
        module.hidden.weight.view(64, 32, -1)[:, 1::2] = 0
        module.hidden.weight[32:] = 0
        module.output.weight[:, 32:] = 0
    x = torch.rand(3, *IMAGE)
    pruned: Any = prune(module, x, 0.5)
    assert (pruned.conv1.out_channels, pruned.conv2.out_channels) == (8, 16)
    assert pruned.hidden.out_features == 32
    assert pruned.output.out_features == 10
    assert same(module, pruned, x)


def test_units_that_do_nothing_go_and_the_scores_stay():
    module = built("lstm-rows", options={"width": 32})
    gates = torch.arange(128) % 32 < 16
    with torch.no_grad():
        for level in ("l0", "l1"):
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(module.lstm, f"{kind}_{level}")[gates] = 0
            getattr(module.lstm, f"weight_hh_{level}")[:, :16] = 0
        module.lstm.weight_ih_l1[:, :16] = 0
        module.output.weight[:, :16] = 0
    x = torch.rand(3, *IMAGE)
    pruned: Any = prune(module, x, 0.5)
    assert pruned.lstm.hidden_size == 16
    assert same(module, pruned, x)


def test_a_unit_that_is_read_strongly_stays_though_its_gates_are_weak():
    module = built("lstm-sensor", (8, 6), {"width": 16}, classes=7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1.0)
        for parameter in module.lstm.parameters():
            # The gates of unit 3 alone.
            parameter.view(4, 16, -1)[:, 3] = 0.5
        module.output.weight[:, 3] = 100.0
    pruned: Any = prune_recurrent(module, torch.rand(2, 8, 6), 0.5, 8)
    assert (pruned.output.weight == 100.0).sum() == 7


@pytest.mark.parametrize(
    ("hidden", "share", "expected"),
    [(64, 0.25, 48), (64, 0.5, 32), (64, 0.9, 8), (20, 0.5, 8), (6, 0.5, 6)],
)
def test_units_that_stay_are_a_multiple_of_8(hidden, share, expected):
    assert remaining(hidden, share, 8) == expected


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cnn-small", {}),
        ("2nn", {}),
        ("resnet-small", {}),
        ("resnet-small", {"norm": "batch"}),
        ("mobilenet-small", {"norm": "batch"}),
    ],
)
def test_a_pruned_model_is_built_again_from_its_shapes(name, options):
    module = built(name, options=options)
    x = torch.rand(3, *IMAGE)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    pruned: Any = prune(module, x, 0.5)
    again = built(name, options={**options, SHAPES: shapes_of(pruned)})
    again.load_state_dict(pruned.state_dict())
    assert parameters(pruned) < 0.6 * parameters(module)
    assert same(pruned, again, x)
    # The original is as it was.
    after = module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_what_an_attention_counts_on_stays():
    module = built("transformer-char", (12,), {"layers": 1, "width": 32}, 256)
    x = torch.randint(1, 255, (2, 12))
    pruned: Any = prune(module, x, 0.5)
    assert pruned.blocks[0].qkv.out_features == 96
    assert pruned.blocks[0].wide.out_features == 64


def test_a_model_of_its_output_alone_cannot_be_pruned():
    with pytest.raises(ModelError, match="nothing can be pruned of Logistic"):
        prune(built("logistic"), torch.rand(2, *IMAGE), 0.5)


class ByHand(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(64, 10))

    def forward(self, x):
        return x.flatten(1) @ self.weight


def test_a_model_without_layers_of_torch_cannot_be_pruned():
    with pytest.raises(ModelError, match="ByHand cannot be pruned: it has no dense"):
        prune(ByHand(), torch.rand(2, *IMAGE), 0.5)


class TwoWays(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.output = torch.nn.Linear(16, 7)

    def forward(self, x):
        return self.output(self.lstm(x)[0][:, -1])


def test_a_recurrent_layer_of_two_directions_is_refused():
    with pytest.raises(ModelError, match="'lstm' works in two directions"):
        prune(TwoWays(), torch.rand(2, 8, 6), 0.5)
