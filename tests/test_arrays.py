"""Layouts: the order of a model's tensors in its flat vectors."""

import hashlib

import numpy as np
import pytest

from fedlearn.arrays import Entry, Layout, State, model_sha256
from fedlearn.errors import ModelError

LAYOUT = Layout(
    (
        Entry("w", (2, 2), "float32", True),
        Entry("n", (), "int64", False),
        Entry("m", (1,), "float32", False),
    )
)
STATE = State(np.array([1, 2, 3, 4, 5], np.float32), np.array([7], np.int64))


def test_sizes():
    assert (LAYOUT.floats, LAYOUT.integers, LAYOUT.trained, LAYOUT.raw_bytes) == (
        5,
        1,
        4,
        28,
    )


def test_split_gives_views_in_order_and_join_gives_the_state_back():
    views = LAYOUT.split(STATE)
    assert {k: v.tolist() for k, v in views.items()} == {
        "w": [[1, 2], [3, 4]],
        "n": 7,
        "m": [5],
    }
    assert np.shares_memory(views["w"], STATE.floats)
    joined = LAYOUT.join(views)
    assert joined.floats.tolist() == [1, 2, 3, 4, 5]
    assert joined.integers.tolist() == [7]


def test_join_gives_each_tensor_its_own_dtype_back():
    joined = LAYOUT.join(
        {"w": np.ones((2, 2)), "n": np.array(6.6), "m": np.zeros(1)}
    )  # all float64, as FedAdam leaves them
    assert joined.floats.dtype == np.float32
    assert joined.integers.tolist() == [7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"w": np.ones((2, 3))},
            r"tensor 'w' has shape \(2, 3\); the model's is \(2, 2\)",
        ),
        ({"x": np.ones(1)}, "differing names: x"),
    ],
)
def test_arrays_of_another_model_are_refused(change, message):
    with pytest.raises(ModelError, match=message):
        LAYOUT.join({**LAYOUT.split(STATE), **change})
    with pytest.raises(ModelError, match="does not fit"):
        LAYOUT.split(State(STATE.floats[:-1], STATE.integers))
    with pytest.raises(ModelError, match="complex64"):
        Layout((Entry("c", (1,), "complex64", True),))


def test_the_schema_changes_with_names_shapes_dtypes_and_order():
    others = [
        (Entry("v", (2, 2), "float32", True), *LAYOUT.entries[1:]),
        (Entry("w", (4,), "float32", True), *LAYOUT.entries[1:]),
        (Entry("w", (2, 2), "float16", True), *LAYOUT.entries[1:]),
        LAYOUT.entries[::-1],
    ]
    assert len({LAYOUT.schema, *(Layout(e).schema for e in others)}) == 5


def test_the_model_hash_is_the_sha256_of_names_shapes_dtypes_and_bytes():
    text = (
        b"w (2, 2) float32\n"
        + STATE.floats[:4].tobytes()
        + b"n () int64\n"
        + STATE.integers.tobytes()
    )
    text += b"m (1,) float32\n" + STATE.floats[4:].tobytes()
    assert model_sha256(LAYOUT, STATE) == hashlib.sha256(text).hexdigest()
