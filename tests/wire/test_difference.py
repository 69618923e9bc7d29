"""Differences: both ends arrive at the same bits, and another base is noticed."""

import numpy as np
import pytest

from fedlearn import wire
from fedlearn.arrays import Entry, Layout, State
from fedlearn.codec import CODECS
from fedlearn.errors import SchemaError

LAYOUT = Layout((Entry("w", (5000,), "float32", True), Entry("n", (1,), "int64", False)))
RANDOM = np.random.default_rng(0)
BASE = RANDOM.normal(size=5000).astype(np.float32)
TARGET = State(BASE + RANDOM.normal(size=5000).astype(np.float32) * np.float32(0.01), np.array([7]))


@pytest.mark.parametrize("codec", CODECS)
def test_both_ends_arrive_at_the_same_bits(codec):
    data, header, arrived = wire.encode_difference(LAYOUT, BASE, TARGET, 4, codec, 11)
    got, state = wire.decode_difference(LAYOUT, data, BASE)
    assert got == header
    assert state.floats.tobytes() == arrived.floats.tobytes()
    assert state.integers.tolist() == [7]
    assert np.linalg.norm(state.floats - TARGET.floats) < 0.8 * np.linalg.norm(BASE - TARGET.floats)


def test_repeated_differences_contract_to_a_standing_model():
    held = BASE
    for contact in range(12):
        _, _, state = wire.encode_difference(LAYOUT, held, TARGET, contact, "eden1", contact)
        held = state.floats
    # π/2 − 1 = 0.57 of the squared error stays at each contact.
    assert np.linalg.norm(held - TARGET.floats) < 1.3 * 0.57**6 * np.linalg.norm(BASE - TARGET.floats)


def test_another_base_is_noticed():
    data, _, _ = wire.encode_difference(LAYOUT, BASE, TARGET, 4, "eden1", 11)
    other = BASE.copy()
    other[17] = np.nextafter(other[17], np.float32(9))
    with pytest.raises(SchemaError, match="against another model than the one held"):
        wire.decode_difference(LAYOUT, data, other)
