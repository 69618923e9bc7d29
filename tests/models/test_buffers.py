"""What a client's update may make of the buffers of a model."""

import numpy as np
import pytest

from fedlearn.arrays import Change, Entry, Layout, Sparse, State
from fedlearn.errors import PayloadError
from fedlearn.models.buffers import BufferBounds

LAYOUT = Layout(
    (
        Entry("w", (2,), "float32", True),
        Entry("norm.running_mean", (2,), "float32", False),
        Entry("norm.running_var", (2,), "float32", False),
        Entry("norm.num_batches_tracked", (), "int64", False),
        Entry("scale.log_var", (1,), "float32", False),
        Entry("mask", (2,), "uint8", False),
        Entry("trained_var", (1,), "float32", True),
        Entry("open", (), "bool", False),
    )
)
# The floats: w, mean, variance, log_var, trained_var. The integers: count, mask, open.
START = State(
    np.array([0, 0, 0, 0, 2, 0.5, 0, 0.5], np.float32), np.array([3, 0, 255, 1])
)
STAYS = [0.0] * 8
BOUNDS = BufferBounds(LAYOUT)


def check(floats: list[float], integers: list[int] = [0, 0, 0, 0]) -> None:  # noqa: B006
    BOUNDS.check(
        START, Change(np.array(floats, np.float32), np.array(integers, np.int64))
    )


def test_what_training_may_change():
    check(STAYS)
    # Means, trained weights and the logarithm of a variance have any sign.
    check([-9, -9, -9, -9, -2, -0.5, -9, -9], [7, 255, -255, -1])
    check(STAYS, [-3, 0, 0, 0])
    check(STAYS, [2**32, 0, 0, 0])


@pytest.mark.parametrize("variance", [(-2.001, 0), (0, -0.75), (-1e30, 1e30)])
def test_a_variance_stays_above_zero(variance):
    with pytest.raises(PayloadError, match=r"leads a variance .* below zero"):
        check([0, 0, 0, 0, *variance, 0, 0])
    # Of a sparse update too.
    places = np.array([4, 5])
    sparse = Sparse(places, np.array(variance, np.float32), 8)
    with pytest.raises(PayloadError, match=r"leads a variance .* below zero"):
        BOUNDS.check(START, Change(sparse, np.zeros(4, np.int64)))


@pytest.mark.parametrize(
    ("integers", "wrong"),
    [
        ([-4, 0, 0, 0], -4),
        ([2**32 + 1, 0, 0, 0], 2**32 + 1),
        ([2**63 - 1, 0, 0, 0], 2**63 - 1),
        ([-(2**63), 0, 0, 0], -(2**63)),
        ([0, -1, 0, 0], -1),
        ([0, 0, 1, 0], 1),
        ([0, 0, 0, 1], 1),
        ([0, 0, 0, -2], -2),
    ],
)
def test_an_integer_stays_within_its_kind(integers, wrong):
    with pytest.raises(PayloadError, match=f"integer buffer by {wrong},"):
        check(STAYS, integers)


def test_a_model_without_buffers_has_nothing_to_check():
    layout = Layout((Entry("w", (2,), "float32", True),))
    none = np.empty(0, np.int64)
    state = State(np.zeros(2, np.float32), none)
    BufferBounds(layout).check(state, Change(np.full(2, -1e30, np.float32), none))
