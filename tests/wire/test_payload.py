"""Payloads: the same values back, and typed refusals of everything else."""

import hashlib
import zlib

import numpy as np
import pytest

from fedlearn import wire
from fedlearn.arrays import Entry, Layout, State
from fedlearn.codec import CODECS
from fedlearn.errors import FormatError, PayloadError, SchemaError
from fedlearn.wire import payload_pb2
from fedlearn.wire.message import FORMAT

LAYOUT = Layout((Entry("w", (300,), "float32", True), Entry("n", (2,), "int64", False)))
OTHER = Layout((Entry("v", (300,), "float32", True), Entry("n", (2,), "int64", False)))
STATE = State(
    np.random.default_rng(0).normal(size=300).astype(np.float32),
    np.array([5, -7], np.int64),
)
HEADER = wire.Header(
    wire.UPDATE,
    4,
    b"12345678",
    "raw32",
    seed=11,
    examples=60,
    train_loss=0.5,
    metrics={"a": 1, "b": 0.25, "c": [1, 2], "d": [0.5]},
)


def resealed(message: payload_pb2.Payload) -> bytes:
    message.ClearField("checksum")
    data = message.SerializeToString(deterministic=True)
    return data + b"\x7d" + zlib.crc32(data).to_bytes(4, "little")


def test_round_trip():
    data = wire.encode(LAYOUT, HEADER, STATE)
    header, change = wire.decode(LAYOUT, data, (wire.UPDATE,))
    state = change.dense()
    assert header == HEADER
    assert wire.read_header(data) == HEADER
    assert np.array_equal(state.floats, STATE.floats)
    assert state.integers.tolist() == [5, -7]
    assert {k: type(v) for k, v in header.metrics.items()} == {
        "a": int,
        "b": float,
        "c": list,
        "d": list,
    }


def test_the_bytes_are_a_protobuf_message_that_any_reader_reads():
    data = wire.encode(LAYOUT, HEADER, STATE)
    message = payload_pb2.Payload.FromString(data)
    assert (message.format, message.codec, message.parameters) == (1, "raw32", 300)
    assert message.body == STATE.floats.tobytes()
    assert message.checksum == zlib.crc32(data[:-5])
    assert wire.encode(LAYOUT, HEADER, STATE) == data


def test_an_empty_model_of_floats_travels():
    layout = Layout((Entry("n", (1,), "int64", False),))
    data, _, _ = wire.encode_model(
        layout, State(np.empty(0, np.float32), np.array([3])), 0, "q8", 1
    )
    assert wire.decode_model(layout, data)[1].integers.tolist() == [3]


@pytest.mark.parametrize("codec", CODECS)
def test_sender_and_receivers_agree_on_what_was_sent(codec):
    data, header, decoded = wire.encode_model(LAYOUT, STATE, 7, codec, 5)
    got, state = wire.decode_model(LAYOUT, data)
    assert got == header
    assert np.array_equal(state.floats, decoded.floats)
    assert header.digest == wire.digest(state.floats)


def test_a_golden_payload_stays_readable():
    golden = bytes.fromhex(GOLDEN)
    layout = Layout((Entry("w", (3,), "float32", True),))
    header, change = wire.decode(layout, golden, (wire.UPDATE,))
    state = change.dense()
    assert state.floats.tolist() == [1.0, -2.0, 0.5]
    assert (header.round, header.examples, header.codec) == (2, 10, "raw32")
    made = wire.encode(
        layout, wire.Header(wire.UPDATE, 2, b"ABCDEFGH", "raw32", examples=10), state
    )
    assert made == golden


GOLDEN = (
    "080110021932ec9b18b246991b2002294142434445464748320572617733324003480a"
    "720c0000803f000000c00000003f7d9b9a39d9"
)


def test_damage_anywhere_is_noticed():
    data = wire.encode(LAYOUT, HEADER, STATE)
    random = np.random.default_rng(1)
    for at in random.integers(0, len(data), 300):
        damaged = bytearray(data)
        damaged[at] ^= 1 << random.integers(0, 8)
        with pytest.raises(FormatError):
            wire.decode(LAYOUT, bytes(damaged), (wire.UPDATE,))
    for length in (0, 1, 4, 5, 100, len(data) - 1):
        with pytest.raises(FormatError):
            wire.decode(LAYOUT, data[:length], (wire.UPDATE,))


def change(**fields):
    message = payload_pb2.Payload.FromString(wire.encode(LAYOUT, HEADER, STATE))
    for name, value in fields.items():
        setattr(message, name, value)
    return resealed(message)


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"format": FORMAT + 1}, FormatError, "has format 2"),
        ({"kind": wire.SNAPSHOT}, FormatError, "kind"),
        ({"schema": 1}, SchemaError, "another model"),
        ({"parameters": 299}, SchemaError, "another model"),
        ({"codec": "zip"}, FormatError, "unknown stage"),
        ({"body": b"1234"}, FormatError, "4 bytes"),
        ({"body": np.full(300, np.nan, np.float32).tobytes()}, FormatError, "NaN"),
        ({"integers": b""}, FormatError, "integers"),
        ({"buffers": b"1234"}, FormatError, "4 bytes of buffers"),
        ({"residual": 7}, FormatError, "state 7 of the residual"),
        ({"train_loss": float("nan")}, FormatError, "training loss"),
        ({"codec": " raw32"}, FormatError, "not written as payloads write it: raw32"),
        ({"codec": "ef+raw32"}, FormatError, "not written as payloads write it: raw32"),
    ],
)
def test_a_sound_checksum_does_not_make_a_payload_sound(fields, kind, message):
    with pytest.raises(kind, match=message):
        wire.decode(LAYOUT, change(**fields), (wire.UPDATE, wire.GRADIENT))


def test_metrics_without_end_are_refused_before_they_are_read():
    message = payload_pb2.Payload.FromString(wire.encode(LAYOUT, HEADER, STATE))
    for number in range(1001):
        message.metrics.add(name=str(number), values=[1.0])
    with pytest.raises(FormatError, match="1005 metrics"):
        wire.decode(LAYOUT, resealed(message), (wire.UPDATE,))
    message.body = bytes(2_000_000)
    with pytest.raises(FormatError, match="where the model has"):
        wire.decode(LAYOUT, resealed(message), (wire.UPDATE,))


def test_another_models_payload_is_refused():
    with pytest.raises(SchemaError):
        wire.decode(OTHER, wire.encode(LAYOUT, HEADER, STATE), (wire.UPDATE,))


def test_random_bytes_with_a_sound_checksum_give_typed_errors_only():
    random = np.random.default_rng(2)
    sound = wire.encode(LAYOUT, HEADER, STATE)[:-5]
    for _ in range(2000):
        body = bytearray(sound[: random.integers(1, len(sound) + 1)])
        for at in random.integers(0, len(body), 3):
            body[at] = random.integers(0, 256)
        data = bytes(body) + b"\x7d" + zlib.crc32(body).to_bytes(4, "little")
        try:
            _, change = wire.decode(LAYOUT, data, (wire.UPDATE,))
        except PayloadError:
            continue
        assert change.dense().floats.shape == (300,)


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 2049, 5000])
def test_a_digest_names_the_floats_and_their_number(size):
    floats = np.random.default_rng(size).normal(size=size).astype(np.float32)
    named = {wire.digest(floats), wire.digest(np.append(floats, np.float32(0)))}
    for at in range(0, size, max(1, size // 50)):
        other = floats.copy()
        other.view(np.uint32)[at] ^= 1 << (at % 32)
        named.add(wire.digest(other))
    assert len(named) == 2 + len(range(0, size, max(1, size // 50)))
    assert wire.digest(floats[::-1][::-1]) == wire.digest(floats)


def test_a_digest_by_hand():
    floats = np.random.default_rng(1).normal(size=2050).astype(np.float32)
    odd = np.frombuffer(
        np.random.Generator(np.random.PCG64(2_605_361)).bytes(8192), "<u8"
    )
    row = (
        sum(
            int(x) * (int(a) | 1)
            for x, a in zip(floats[:2048].view("<u8"), odd, strict=True)
        )
        % 2**64
    )
    text = (
        row.to_bytes(8, "little")
        + floats[2048:].tobytes()
        + (2050).to_bytes(8, "little")
    )
    assert wire.digest(floats) == hashlib.sha256(text).digest()[:8]


def test_values_that_are_not_finite_are_not_sent():
    with pytest.raises(PayloadError, match="1 of 300 values are NaN or infinite"):
        wire.encode(
            LAYOUT,
            HEADER,
            State(
                np.where(np.arange(300) == 3, np.inf, STATE.floats).astype(np.float32),
                STATE.integers,
            ),
        )


def test_a_model_whose_digest_is_another_is_refused():
    data, _, _ = wire.encode_model(LAYOUT, STATE, 0, "raw32", 0)
    message = payload_pb2.Payload.FromString(data)
    message.digest ^= 1
    with pytest.raises(FormatError, match="digest"):
        wire.decode_model(LAYOUT, resealed(message))
