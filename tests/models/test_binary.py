"""Binary weights: what a layer computes with, how it learns, and how few bits it takes."""

from typing import Any

import numpy as np
import pytest
import torch

from fedlearn.errors import FormatError, ModelError
from fedlearn.models import BINARY, bits, build
from fedlearn.models.binary import (
    BinaryConv2d,
    BinaryLinear,
    binary,
    binary_names,
    settle,
)

DIGITS: Any = {"input_shape": (1, 8, 8), "classes": 10, "seed": 0}


def test_a_filter_keeps_its_signs_and_its_mean_magnitude():
    weight = torch.tensor([[1.0, -3.0], [0.25, 0.75], [0.0, -1.0]])
    expected = torch.tensor([[2.0, -2.0], [0.5, 0.5], [0.5, -0.5]])
    assert torch.equal(binary(weight), expected)


def test_binary_weights_stay_the_same_bit_for_bit():
    weight = torch.randn(16, 1001, generator=torch.Generator().manual_seed(1))
    once = binary(weight)
    assert torch.equal(binary(once), once)


def test_gradients_pass_straight_through_up_to_1():
    layer = BinaryLinear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -0.5, 1.5]]))
    layer(torch.tensor([[1.0, 2.0, 3.0]])).sum().backward()
    gradient = layer.weight.grad
    assert gradient is not None
    assert torch.equal(gradient, torch.tensor([[1.0, 2.0, 0.0]]))


def test_layers_between_the_first_and_the_last_are_binary():
    module: Any = build("cnn-small", {BINARY: True}, **DIGITS)
    assert binary_names(module) == ["conv2", "hidden"]
    assert type(module.conv2) is BinaryConv2d
    assert type(module.conv1) is torch.nn.Conv2d
    assert type(module.output) is torch.nn.Linear


def test_training_begins_with_the_weights_of_the_seed():
    plain = build("cnn-small", {}, **DIGITS).state_dict()
    module = build("cnn-small", {BINARY: True}, **DIGITS).state_dict()
    assert all(torch.equal(plain[name], module[name]) for name in plain)
    assert list(plain) == list(module)


def test_a_settled_model_computes_the_same_with_ordinary_layers():
    module: Any = build("cnn-small", {BINARY: True}, **DIGITS).eval()
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        before = module(x)
        settle(module)
        assert torch.equal(module(x), before)
    assert type(module.conv2) is torch.nn.Conv2d
    assert module.hidden.weight.abs().unique(dim=1).shape[1] == 1


@pytest.mark.parametrize(
    ("name", "shape"), [("logistic", (1, 8, 8)), ("lstm-sensor", (8, 6))]
)
def test_a_model_without_inner_layers_is_refused(name, shape):
    with pytest.raises(ModelError, match="no dense layer or convolution between"):
        build(name, {BINARY: True}, input_shape=shape, classes=7, seed=0)


def test_bits_are_signs_from_the_highest_on():
    weight = np.array([[2, -2, 2, 2, -2]], np.float32)
    packed = bits.pack({"a.weight": weight, "a.bias": weight[0]}, ["a.weight"])
    # + - + + - is 10110, and three bits to fill the byte.
    assert packed["a.weight.bits"].tolist() == [0b10110000]
    assert packed["a.weight.scales"].tolist() == [2.0]
    assert bits.is_packed(packed)
    unpacked = bits.unpack(packed)
    assert list(unpacked) == ["a.weight", "a.bias"]
    assert np.array_equal(unpacked["a.weight"], weight)


def test_packing_loses_nothing():
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    tensors = {"w": binary(weight).numpy()}
    packed = bits.pack(tensors, ["w"])
    assert packed["w.bits"].nbytes == 17
    assert np.array_equal(bits.unpack(packed)["w"], tensors["w"])


def test_weights_of_several_magnitudes_are_not_packed():
    with pytest.raises(FormatError, match="'w' is not binary"):
        bits.pack({"w": np.array([[1.0, -2.0]], np.float32)}, ["w"])


def cut_short(packed):
    return packed | {"w.bits": packed["w.bits"][:-1]}


def of_another_dtype(packed):
    return packed | {"w.bits": packed["w.bits"].astype(np.int64)}


def negative(packed):
    return packed | {"w.shape": np.array([5, -3, -3, 3], np.int32)}


def huge(packed):
    return packed | {"w.shape": np.array([2**31 - 1] * 4, np.int32)}


def of_fewer_filters(packed):
    return packed | {"w.scales": packed["w.scales"][1:]}


def without_scales(packed):
    return {name: packed[name] for name in packed if name != "w.scales"}


@pytest.mark.parametrize(
    "damage",
    [cut_short, of_another_dtype, negative, huge, of_fewer_filters, without_scales],
)
def test_damaged_bits_are_refused(damage):
    weight = binary(torch.randn(5, 3, 3, 3)).numpy()
    with pytest.raises(FormatError, match="tensor 'w' has"):
        bits.unpack(damage(bits.pack({"w": weight}, ["w"])))
