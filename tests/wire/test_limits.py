"""What a payload may hold is checked before it costs anything."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from fedlearn.arrays import Entry, Layout, State
from fedlearn.errors import FormatError
from fedlearn.wire import (
    UPDATE,
    Header,
    decode,
    decode_difference,
    digest,
    encode,
    encode_difference,
    read_header,
)

LAYOUT = Layout(
    (Entry("w", (4,), "float32", True), Entry("mean", (2,), "float32", False))
)


def sealed(fields: bytes) -> bytes:
    """Return fields with a right checksum after them."""
    return fields + b"\x7d" + struct.pack("<I", zlib.crc32(fields))


def test_a_million_empty_metrics_are_refused_before_they_are_parsed():
    data = sealed(b"\x08\x01" + b"\x5a\x00" * 1_000_000)
    tracemalloc.start()
    with pytest.raises(FormatError, match="more than 1032 fields"):
        read_header(data)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "tail", [b"\x0b", b"\x12\xff\xff\xff\xff\x7f", b"\x08" + b"\xff" * 11, b"\x0d\x00"]
)
def test_what_is_no_message_is_refused(tail):
    with pytest.raises(FormatError):
        read_header(sealed(tail))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"examples": 2**32 + 1}, "claims 4294967297 examples"),
        ({"metrics": {"score": [1.0, -1.1e100]}}, "'score' is 1.1e"),
        ({"metrics": {"n" * 201: 1}}, "name has 201 characters"),
    ],
)
def test_what_no_strategy_can_calculate_with_is_refused(header, words):
    state = State(np.ones(6, np.float32), np.empty(0, np.int64))
    usual = Header(
        UPDATE,
        1,
        bytes(8),
        "raw32",
        examples=2**32,
        metrics={"n" * 200: 1e100, "none": []},
    )
    data = encode(LAYOUT, usual, state)
    decode(LAYOUT, data, (UPDATE,))
    data = encode(LAYOUT, Header(UPDATE, 1, bytes(8), "raw32", **header), state)
    with pytest.raises(FormatError, match=words):
        decode(LAYOUT, data, (UPDATE,))


def test_zeros_of_another_sign_are_another_model():
    """Only BatchNorm's buffer differs, in the sign of a zero: the receiver must end with
    the sender's bits.
    """
    none = np.empty(0, np.int64)
    base = State(np.array([1, 2, 3, 4, 0.0, 5], np.float32), none)
    target = State(np.array([1, 2, 3, 4, -0.0, 5], np.float32), none)
    name = digest(base.floats)
    data, _, arrived = encode_difference(
        LAYOUT, base, name, target, 7, "eden1", 1, None
    )
    _, state = decode_difference(LAYOUT, data, base.floats, name)
    assert state.floats.tobytes() == arrived.floats.tobytes() == target.floats.tobytes()


def test_another_codec_than_the_one_asked_for_is_refused_before_its_body_is_decoded():
    header = Header(UPDATE, 3, bytes(8), "raw32", 0, examples=5)
    data = encode(LAYOUT, header, State(np.ones(6, np.float32), np.empty(0, np.int64)))
    assert decode(LAYOUT, data, (UPDATE,), expected_codec="raw32")[0].examples == 5
    with pytest.raises(FormatError, match="encoded by raw32, not by eden1 as asked"):
        decode(LAYOUT, data, (UPDATE,), expected_codec="eden1")
