"""Codecs give the same bits whatever a model's code asked of torch.

They serve models of every size and shape.
"""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedlearn.arrays import Sparse
from fedlearn.codec import Context, codec
from fedlearn.codec.torch_rotation import full_precision

SHAPES = ((96, 80), (80,), (40, 8, 5, 5), (10,))
SIZE = sum(int(np.prod(shape)) for shape in SHAPES)
RANDOM = np.random.default_rng(7)
VALUES = RANDOM.normal(size=SIZE).astype(np.float32)
MOVED = RANDOM.normal(size=SIZE).astype(np.float32)
TEXTS = ["eden1", "uvq(0.5)", "cvq(2)", "pred+cvq(0.5,1)", "q8", "topk(0.1)+q4c"]


def sent(
    text: str, values: NDArray[np.float32], seed: int, context: Context
) -> NDArray[np.float32]:
    """Return what is decoded of what is encoded of the values."""
    told = codec(text).decode(codec(text).encode(values, seed, context), seed, context)
    return told.dense() if isinstance(told, Sparse) else told


def through(text: str) -> tuple[bytes, bytes]:
    context = Context(SHAPES, MOVED)
    return codec(text).encode(VALUES, 5, context), sent(
        text, VALUES, 5, context
    ).tobytes()


@pytest.fixture
def restored():
    precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_default_dtype(dtype)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.usefixtures("restored")
def test_torchs_switches_change_no_bit(text):
    expected = through(text)
    torch.set_float32_matmul_precision("medium")
    assert through(text) == expected
    assert torch.get_float32_matmul_precision() == "medium"  # the user's again
    torch.set_float32_matmul_precision("highest")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert through(text) == expected
    torch.set_default_dtype(torch.float64)
    assert through(text) == expected


@pytest.mark.usefixtures("restored")
def test_matrices_are_multiplied_in_full_precision():
    torch.set_float32_matmul_precision("medium")
    with full_precision():
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("text", ["uvq(0.01)", "uvq(0.1)", "cvq(0.02)", "cvq(0.1)"])
@pytest.mark.parametrize("size", [1, 300, 650, 5000])
def test_a_tiny_model_is_sent_something(text, size):
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    context = Context(((size,),))
    """The unbiased codec sends a weak block now and then, enlarged.

    The contracting one sends something every time.
    """
    some = [np.any(sent(text, values, seed, context)) for seed in range(200)]
    assert all(some) if text.startswith("cvq") else any(some)


def test_a_block_far_weaker_than_another_travels_as_zeros():
    """One of 1e9 beside one of 1e-3: the byte of a scale does not reach so far down."""
    values = np.concatenate([np.full(1024, 1e9), np.full(1024, 1e-3)]).astype(
        np.float32
    )
    context = Context(((2048,),))
    told = sent("cvq(4)", values, 1, context)
    assert np.abs(told[:1024] / 1e9 - 1).max() < 0.5
    assert not told[1024:].any()


@pytest.mark.parametrize(
    "text", ["pred+cvq(1)", "uvq(0.5)", "eden1", "topk(0.5)+q4c", "q4"]
)
def test_empty_tensors_take_no_room(text):
    shapes = ((4, 200), (0, 200), (3, 0), (0,))
    values, moved = VALUES[:800], MOVED[:800]
    with_empty, without = Context(shapes, moved), Context(((4, 200),), moved)
    assert np.array_equal(
        sent(text, values, 3, with_empty), sent(text, values, 3, without)
    )


@pytest.mark.parametrize(
    "size", [1, 511, 3584, 3585, 4095, 4096, 4097, 7681, 8191, 8192, 32_522]
)
@pytest.mark.parametrize("text", ["eden1", "pred+eden1"])
def test_one_bit_a_value_has_its_error_at_every_size(text, size):
    """π/2 − 1 = 0.57 for normal values.

    A last part of more than 3,584 values was once decoded in other blocks.
    """
    random = np.random.default_rng(size)
    values, context = random.normal(size=size).astype(np.float32), Context(((size,),))
    errors = []
    for seed in range(8):
        errors.append(
            np.sum((sent(text, values, seed, context) - values) ** 2)
            / np.sum(values**2)
        )
    assert np.mean(errors) < (0.7 if size >= 4096 else 1.0)
