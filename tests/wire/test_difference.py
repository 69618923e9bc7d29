"""Differences: both ends arrive at the same bits, and another base is noticed."""

import numpy as np
import pytest

from fedlearn import wire
from fedlearn.arrays import Entry, Layout, State
from fedlearn.codec import CODECS
from fedlearn.errors import FormatError, SchemaError

LAYOUT = Layout(
    (Entry("w", (5000,), "float32", True), Entry("n", (1,), "int64", False))
)
RANDOM = np.random.default_rng(0)
BASE = RANDOM.normal(size=5000).astype(np.float32)
TARGET = State(
    BASE + RANDOM.normal(size=5000).astype(np.float32) * np.float32(0.01), np.array([7])
)

HELD = State(BASE, np.array([6]))
NAME = wire.digest(BASE)


def encode(codec, held=HELD, target=TARGET, seed=11, moved=None):
    return wire.encode_difference(
        LAYOUT, held, wire.digest(held.floats), target, 4, codec, seed, moved
    )


@pytest.mark.parametrize("codec", CODECS)
def test_both_ends_arrive_at_the_same_bits(codec):
    data, header, arrived = encode(codec)
    got, state = wire.decode_difference(LAYOUT, data, BASE, NAME)
    assert got == header
    assert state.floats.tobytes() == arrived.floats.tobytes()
    assert state.integers.tolist() == [7]
    assert np.linalg.norm(state.floats - TARGET.floats) < 0.8 * np.linalg.norm(
        BASE - TARGET.floats
    )


def test_repeated_differences_contract_to_a_standing_model():
    held = BASE
    for contact in range(12):
        _, _, state = encode("eden1", State(held, TARGET.integers), seed=contact)
        held = state.floats
    # π/2 − 1 = 0.57 of the squared error stays at each contact.
    assert np.linalg.norm(held - TARGET.floats) < 1.3 * 0.57**6 * np.linalg.norm(
        BASE - TARGET.floats
    )


def test_another_base_is_noticed():
    data, _, _ = encode("eden1")
    other = BASE.copy()
    other[17] = np.nextafter(other[17], np.float32(9))
    with pytest.raises(SchemaError, match="against another model than the one held"):
        wire.decode_difference(LAYOUT, data, other, wire.digest(other))
    with pytest.raises(
        FormatError, match="digest is another"
    ):  # the receiver's own name for it is wrong
        wire.decode_difference(LAYOUT, data, other, NAME)


def test_who_holds_the_model_is_sent_no_values():
    data, header, arrived = encode("eden1", State(TARGET.floats, np.array([6])))
    assert (header.codec, header.digest, len(data) < 80) == (
        "zero",
        header.base_digest,
        True,
    )
    _, state = wire.decode_difference(
        LAYOUT, data, TARGET.floats, wire.digest(TARGET.floats)
    )
    assert state.floats.tobytes() == arrived.floats.tobytes() == TARGET.floats.tobytes()
    assert state.integers.tolist() == [7]


NORM = Layout(
    (
        Entry("w", (600,), "float32", True),
        Entry("var", (40,), "float32", False),
        Entry("v", (700,), "float32", True),
    )
)


def test_buffers_arrive_exactly_whatever_the_codec():
    random = np.random.default_rng(3)
    base, target = (
        State(random.normal(size=1340).astype(np.float32), np.empty(0, np.int64))
        for _ in range(2)
    )
    data, _, arrived = wire.encode_difference(
        NORM, base, wire.digest(base.floats), target, 1, "eden1", 5, None
    )
    _, state = wire.decode_difference(NORM, data, base.floats, wire.digest(base.floats))
    assert state.floats[600:640].tolist() == target.floats[600:640].tolist()
    assert state.floats.tobytes() == arrived.floats.tobytes()
    assert not np.array_equal(state.floats[:600], target.floats[:600])


def test_buffers_of_an_update_are_exact_differences():
    update = State(
        np.random.default_rng(3).normal(size=1340).astype(np.float32),
        np.empty(0, np.int64),
    )
    header = wire.Header(wire.UPDATE, 1, bytes(8), "eden1", 5, examples=3)
    _, change = wire.decode(NORM, wire.encode(NORM, header, update), (wire.UPDATE,))
    assert change.dense().floats[600:640].tolist() == update.floats[600:640].tolist()
