"""A low-rank cut: exact where a weight has that rank, and the nearest product elsewhere."""

from typing import Any

import pytest
import torch

from fedlearn.compress.lowrank import cut_rank, factors, rank_of
from fedlearn.errors import ModelError
from fedlearn.models import SHAPES, build

DIGITS: Any = {"input_shape": (1, 8, 8), "classes": 10, "seed": 0}


def test_a_weight_of_low_rank_is_the_product_of_its_factors():
    weight = torch.rand(20, 3) @ torch.rand(3, 30)
    up, down = factors(weight, 3)
    assert (tuple(up.shape), tuple(down.shape)) == ((20, 3), (3, 30))
    assert torch.allclose(up @ down, weight, atol=1e-5)


def test_no_other_rank_1_product_is_nearer():
    weight = torch.diag(torch.tensor([3.0, 2.0]))
    up, down = factors(weight, 1)
    assert torch.allclose(up @ down, torch.diag(torch.tensor([3.0, 0.0])), atol=1e-6)


@pytest.mark.parametrize(
    # 100 × 100 weights, of which two factors of rank r have 200 · r.
    ("share", "rank"),
    [(0.5, 25), (0.98, 1), (0.99, 0)],
)
def test_the_factors_have_so_much_fewer_weights(share, rank):
    assert rank_of(torch.zeros(100, 100), share) == rank


def test_a_cut_model_is_built_again_from_its_shapes_and_keeps_its_output_layer():
    module = build("2nn", {}, **DIGITS).eval()
    x = torch.rand(3, 1, 8, 8)
    cut = cut_rank(module, x, 0.5)
    shapes = {name: list(t.shape) for name, t in cut.state_dict().items()}
    assert shapes["hidden1.down.weight"] == [24, 64]
    assert shapes["output.weight"] == [10, 200]
    again = build("2nn", {SHAPES: shapes}, **DIGITS).eval()
    again.load_state_dict(cut.state_dict())
    with torch.no_grad():
        assert torch.equal(again(x), cut(x))


def test_the_inputs_of_a_recurrent_layer_are_cut():
    module: Any = build("lstm-rows", {}, **DIGITS).eval()
    with torch.no_grad():
        weight = torch.rand(512, 2) @ torch.rand(2, 8)
        module.lstm.weight_ih_l0.copy_(weight)
    x = torch.rand(3, 1, 8, 8)
    cut: Any = cut_rank(module, x, 0.7)
    assert cut.lstm.down.weight.shape == (2, 8)
    with torch.no_grad():
        assert torch.allclose(cut(x), module(x), atol=1e-5)


def test_a_model_without_layers_to_cut_is_refused():
    with pytest.raises(ModelError, match="nothing of Logistic can be cut"):
        cut_rank(build("logistic", {}, **DIGITS), torch.rand(2, 1, 8, 8), 0.5)
