"""A device's half of int8: roundings by hand, and recipes that nobody should follow."""

import base64
import copy
import subprocess
import sys

import numpy as np
import pytest

from fedlearn.errors import FormatError
from fedlearn.package.int8 import file_bytes, folded, rebuild, rounded

WEIGHT = np.array([[1.0, -2.0], [0.5, 0.25]], np.float32)
BIAS = np.array([0.3, -0.7], np.float32)


def values(*numbers):
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


def recipe():
    return {
        "folds": [],
        "tensors": [
            {
                "name": "s",
                "dtype": "float32",
                "shape": [2],
                "values": values(0.5, 0.25),
            },
            {"name": "z", "dtype": "int8", "shape": [2], "fill": 0},
            {"name": "w_q", "source": "w", "scale": "s", "axis": 0, "dtype": "int8"},
            {"name": "b_q", "source": "b", "scale": "s", "axis": 0, "dtype": "int32"},
            {"name": "b", "source": "b"},
        ],
    }


def test_weights_are_whole_numbers_of_their_channels_scale():
    rebuilt = rebuild({"w": WEIGHT, "b": BIAS}, recipe())
    assert rebuilt["w_q"].tolist() == [[2, -4], [2, 1]]
    # 0.6 and -2.8, rounded.
    assert rebuilt["b_q"].tolist() == [1, -3]
    assert (rebuilt["b"] == BIAS).all()
    content = file_bytes(rebuilt)
    # In the recipe's order: 8 of scales, 2 zero points, 4 weights, 8 and 8 of biases.
    assert len(content) == 8 + 2 + 4 + 8 + 8
    assert content[8:14] == bytes([0, 0, 2, 252, 2, 1])


def test_a_half_goes_to_the_even_number_and_ends_are_cut():
    tensor = np.array([0.5, 1.5, 2.5, -0.5, 1000, -1000], np.float32)
    one = np.array([1], np.float32)
    assert rounded(tensor, one, None, "int8").tolist() == [0, 2, 2, 0, 127, -128]
    assert rounded(tensor * 2**30, one, None, "int32").tolist()[-2:] == [
        2**31 - 1,
        -(2**31),
    ]


def test_a_fold_by_hand():
    # Gamma 2 over a standard deviation of 4: a factor of one half.
    tensors = {
        "conv.weight": np.full((1, 1, 1, 1), 6, np.float32),
        "g": np.array([2], np.float32),
        "b": np.array([1], np.float32),
        "m": np.array([10], np.float32),
        "v": np.array([15], np.float32),
    }
    fold = {
        "weight": "conv.weight",
        "bias": "conv.bias",
        "gamma": "g",
        "beta": "b",
        "mean": "m",
        "variance": "v",
        "epsilon": 1.0,
    }
    whole = folded(tensors, [fold])
    assert {name: value.item() for name, value in whole.items()} == {
        "conv.weight": 3.0,
        "conv.bias": -4.0,
    }
    tensors["c"] = np.array([4], np.float32)
    whole = folded(tensors, [{**fold, "source_bias": "c", "bias": "c"}])
    assert whole["c"].item() == -2.0


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        (0, "values", "%%%", "cannot be followed"),
        (0, "values", values(1.0), "cannot be followed"),
        (0, "values", values(0.0, 1.0), "scale that is not above 0"),
        (0, "values", values(np.nan, 1.0), "scale that is not above 0"),
        (0, "shape", [10**12], "bytes of values"),
        (0, "shape", [-2], "shape"),
        (0, "shape", "no", "cannot be followed"),
        (0, "dtype", "object", "cannot be followed"),
        (1, "fill", 300, "cannot be followed"),
        (1, "shape", [2**40], "bytes of values"),
        (2, "source", "x", "asks for 'x'"),
        (2, "source", 7, "in the place of a name"),
        (2, "scale", "x", "no scale 'x'"),
        (2, "axis", 5, "cannot be followed"),
        (2, "axis", None, "2 factors for axis None"),
        (2, "axis", "a", "cannot be followed"),
        (2, "dtype", "float64", "rounds to 'float64'"),
        (2, "name", "s", "has 's' twice"),
        (2, "name", None, "in the place of a name"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_by_name(place, key, value, message):
    wrong = copy.deepcopy(recipe())
    wrong["tensors"][place][key] = value
    with pytest.raises(FormatError, match=message):
        rebuild({"w": WEIGHT, "b": BIAS}, wrong)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"folds": 1, "tensors": []}, {"folds": [], "tensors": [1]}, [], None, 7],
)
def test_what_is_no_recipe_is_refused(wrong):
    with pytest.raises(FormatError):
        rebuild({"w": WEIGHT, "b": BIAS}, wrong)


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(FormatError, match="not finite"):
        rebuild({"w": WEIGHT * np.float32(np.inf), "b": BIAS}, recipe())


def test_it_loads_neither_torch_nor_onnx():
    code = (
        "import fedlearn.package.int8, sys\n"
        "print({'torch', 'onnx', 'onnxruntime', 'flwr', 'pydantic'} & set(sys.modules))"
    )
    shown = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert shown.strip() == "set()"
