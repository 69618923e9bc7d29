"""Layers of two factors: asked for by shapes alone, and equal to the product."""

from typing import Any

import torch

from fedlearn.models import SHAPES, build
from fedlearn.models.factors import FactoredLinear, FactoredRecurrent

SERIES: Any = {"input_shape": (8, 6), "classes": 7, "seed": 0}


def shapes_of(module):
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def test_a_dense_layer_becomes_the_product_of_two():
    plain = build("2nn", {}, input_shape=(4,), classes=3, seed=0)
    shapes = shapes_of(plain)
    weight = shapes.pop("hidden2.weight")
    shapes |= {
        "hidden2.down.weight": [5, weight[1]],
        "hidden2.up.weight": [weight[0], 5],
        "hidden2.up.bias": shapes.pop("hidden2.bias"),
    }
    module: Any = build("2nn", {SHAPES: shapes}, input_shape=(4,), classes=3, seed=0)
    assert isinstance(module.hidden2, FactoredLinear)
    x = torch.rand(2, weight[1])
    with torch.no_grad():
        product = module.hidden2.up.weight @ module.hidden2.down.weight
        expected = x @ product.T + module.hidden2.up.bias
        assert torch.allclose(module.hidden2(x), expected, atol=1e-6)


def test_a_recurrent_layer_gets_narrower_inputs():
    shapes = shapes_of(build("lstm-sensor", {}, **SERIES))
    factored = {"lstm.down.weight": [2, 6]}
    for name, shape in shapes.items():
        moved = name.replace("lstm.", "lstm.up.")
        factored[moved] = [shape[0], 2] if name == "lstm.weight_ih_l0" else shape
    module: Any = build("lstm-sensor", {SHAPES: factored}, **SERIES)
    assert isinstance(module.lstm, FactoredRecurrent)
    assert module.lstm.up.input_size == 2
    assert module(torch.rand(3, 8, 6)).shape == (3, 7)
