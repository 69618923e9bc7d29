"""uvq and what it shares with cvq: the rate, an unbiased estimate, a wary decoder."""

import numpy as np
import pytest

from fedlearn.codec import Context, order
from fedlearn.codec.cvq import Cvq
from fedlearn.codec.groups import GRADES
from fedlearn.codec.uvq import Uvq
from fedlearn.errors import ConfigError, FormatError, PayloadError

RANDOM = np.random.default_rng(0)
SHAPES = ((120, 90), (120,), (10, 120), (10,))
SIZE = Context(SHAPES).size
STRENGTH = (
    np.exp(RANDOM.normal(size=(120, 1))) * np.exp(RANDOM.normal(size=(1, 90)))
).ravel()
VALUES = np.concatenate(
    [RANDOM.normal(size=10_800) * STRENGTH, RANDOM.normal(size=SIZE - 10_800)]
).astype(np.float32)
MOVED = np.concatenate(
    [RANDOM.normal(size=10_800) * STRENGTH, RANDOM.normal(size=SIZE - 10_800)]
).astype(np.float32)
KNOWN, UNKNOWN = Context(SHAPES, MOVED), Context(SHAPES)
BOTH: list[Uvq | Cvq] = [Uvq(0.3), Cvq(0.3), Cvq(2.5, 0.5)]


def error(codec, values, context, seeds=4):
    """The mean over seeds of the squared error, over the squared norm."""
    wrong = [
        np.square(
            codec.decode(codec.encode(values, s, context), s, context)
            - values.astype(np.float64)
        ).sum()
        for s in range(seeds)
    ]
    return np.mean(wrong) / np.square(values, dtype=np.float64).sum()


@pytest.mark.parametrize(
    "codec", [Uvq(0.05), Uvq(0.1), Uvq(0.5), Uvq(2), Cvq(0.05), Cvq(0.5), Cvq(4)]
)
@pytest.mark.parametrize("context", [KNOWN, UNKNOWN])
def test_the_rate_is_kept_everything_included(codec, context):
    used = 8 * len(codec.encode(VALUES, 1, context)) / SIZE
    assert used <= codec.rate + 8 / SIZE
    assert (
        used > 0.93 * codec.rate - 8 * 10 / SIZE or used > 3.9
    )  # a few steps of one block are left; 4 bits is the highest grade


@pytest.mark.parametrize("codec", BOTH)
@pytest.mark.parametrize("size", [0, 1, 63, 1024, 1025, 70_000])
def test_any_size_travels_and_the_same_arguments_give_the_same_bytes(codec, size):
    values = RANDOM.normal(size=size).astype(np.float32)
    for context in (Context(((size,),)), Context(((size,),), values[::-1].copy())):
        body = codec.encode(values, 7, context)
        back = codec.decode(body, 7, context)
        assert (
            back.shape == (size,)
            and back.dtype == np.float32
            and np.isfinite(back).all()
        )
        assert codec.encode(values.copy(), 7, context) == body


def test_zeros_cost_a_header_and_arrive_as_zeros():
    for codec in BOTH:
        body = codec.encode(np.zeros(SIZE, np.float32), 0, KNOWN)
        assert len(body) == 2 + -(-order.by_movement(KNOWN).count // 2)
        assert not codec.decode(body, 0, KNOWN).any()


def test_the_expectation_is_the_values_themselves():
    shapes = ((32, 32), (32,))
    strength = np.concatenate(
        [
            np.outer(np.logspace(0, -2, 32), np.logspace(0, -2, 32)).ravel(),
            np.full(32, 0.1),
        ]
    )
    values = (RANDOM.normal(size=1056) * strength).astype(np.float32)
    context = Context(shapes, (RANDOM.normal(size=1056) * strength).astype(np.float32))
    codec, runs = Uvq(0.3), 800
    got = np.array(
        [
            codec.decode(codec.encode(values, s, context), s, context)
            for s in range(runs)
        ],
        np.float64,
    )
    energy = np.square(values, dtype=np.float64).sum()
    spread = np.square(got - values).sum(axis=1).mean() / energy
    left = np.square(got.mean(axis=0) - values).sum() / energy
    assert (
        left < 1.2 * spread / runs
    )  # what independent errors average to; a bias would stay


def test_a_spike_is_not_shrunk():
    """The scale is that of the block as it is, not of normal values.

    The projection on the values is exact on average.
    """
    values = np.zeros(2048, np.float32)
    values[5], values[1030] = 10, -3
    codec, context = Uvq(0.2), Context(((2048,),))
    shares = [
        float(codec.decode(codec.encode(values, s, context), s, context) @ values) / 109
        for s in range(400)
    ]
    assert np.mean(shares) == pytest.approx(1, abs=0.02)


def test_weak_blocks_are_sent_now_and_then_and_enlarged():
    values = RANDOM.normal(size=60 * 1024).astype(np.float32)
    values[1024:] *= 0.02
    context, codec = Context(((values.size,),)), Uvq(0.012)
    got = [
        codec.decode(codec.encode(values, s, context), s, context).reshape(-1, 1024)[1:]
        for s in range(80)
    ]
    sent = np.array([[block.any() for block in one] for one in got])
    assert 0.02 < sent.mean() < 0.9
    weak = values.reshape(-1, 1024)[1:].astype(np.float64)
    assert np.mean([(one * weak).sum() for one in got]) / np.square(
        weak
    ).sum() == pytest.approx(1, abs=0.06)  # 0.016 is its standard error


def test_knowing_the_movement_helps_and_a_useless_movement_does_not_hurt():
    assert error(Uvq(0.1), VALUES, KNOWN) < 0.8 * error(Uvq(0.1), VALUES, UNKNOWN)
    useless = Context(SHAPES, RANDOM.permutation(MOVED))
    alike = np.repeat(np.exp(RANDOM.normal(size=13)), 1000)[:SIZE].astype(
        np.float32
    ) * RANDOM.normal(size=SIZE).astype(np.float32)
    assert error(Uvq(0.1), alike, useless) < 1.1 * error(Uvq(0.1), alike, UNKNOWN)


def test_normal_values_lose_what_the_table_says():
    values = RANDOM.normal(size=64 * 4096).astype(np.float32)
    context = Context(((values.size,),))
    side = 12 / 4096  # a grade and a scale per block
    for grade in (5, 8, 11, 12):
        rate, capture = GRADES[grade].bits(4096) / 4096, GRADES[grade].capture
        assert error(Uvq(rate + side + 1e-4), values, context, 1) == pytest.approx(
            1 / capture - 1, rel=0.03
        )
        assert error(Cvq(rate + side + 1e-4), values, context, 1) == pytest.approx(
            1 - capture, rel=0.03
        )


@pytest.mark.parametrize("codec", BOTH)
@pytest.mark.parametrize("context", [KNOWN, UNKNOWN])
def test_bytes_of_another_length_are_refused(codec, context):
    body = codec.encode(VALUES, 1, context)
    for wrong in (b"", body[:1], body[:4], body[:-1], body + b"\0"):
        with pytest.raises(FormatError, match="bytes of"):
            codec.decode(wrong, 1, context)


def test_what_no_encoder_sends_is_refused():
    codec = Uvq(0.3)
    body = bytearray(codec.encode(VALUES, 1, UNKNOWN))
    with pytest.raises(FormatError, match="movement that is not known"):
        codec.decode(bytes([body[0] | 1]) + bytes(body[1:]), 1, UNKNOWN)
    with pytest.raises(FormatError, match="largest scale"):
        codec.decode(b"\xfe\x7f" + bytes(body[2:]), 1, UNKNOWN)
    with pytest.raises(FormatError, match="largest scale"):
        codec.decode(b"\x00\x80" + bytes(body[2:]), 1, UNKNOWN)
    one = Context(((1000,),))
    with pytest.raises(FormatError, match="grade that its size"):
        codec.decode(b"\0\0\x10", 0, one)  # the half byte after the last grade
    with pytest.raises(FormatError, match="grade that its size"):
        codec.decode(b"\0\0\x01", 0, one)  # the largest of 4,096 in a block of 1,024
    assert codec.decode(
        b"\0\0\x03\0" + b"\x80\0", 0, one
    ).any()  # 11 bits: the sound twin of the next
    with pytest.raises(FormatError, match="fill the last byte"):
        codec.decode(b"\0\0\x03\0" + b"\x80\x01", 0, one)


def test_any_bytes_give_finite_values_or_a_format_error():
    contexts = [Context(((1,),)), UNKNOWN, KNOWN, Context(())]
    refused = 0
    for trial in range(200):
        context = contexts[trial % len(contexts)]
        body = (
            bytearray(Uvq(0.2).encode(VALUES[: context.size], trial, context))
            if trial % 2
            else bytearray(RANDOM.bytes(trial))
        )
        for _ in range(min(len(body), trial % 5)):
            body[RANDOM.integers(len(body))] = RANDOM.integers(256)
        try:
            assert np.isfinite(Uvq(0.2).decode(bytes(body), trial, context)).all()
        except FormatError:
            refused += 1
    assert 50 < refused < 200


def test_extreme_values():
    for codec in BOTH:
        with pytest.raises(PayloadError, match=f"does not fit {codec.name}"):
            codec.encode(np.full(1000, 1e20, np.float32), 0, Context(((1000,),)))
        for size in (1e12, 1e-12):
            values = (VALUES * size).astype(np.float32)
            back = codec.decode(codec.encode(values, 0, KNOWN), 0, KNOWN)
            assert np.isfinite(back).all() and float(back @ values) > 0
        tiny = np.full(10, 1e-42, np.float32)
        assert not codec.decode(
            codec.encode(tiny, 0, Context(((10,),))), 0, Context(((10,),))
        ).any()


def test_rates_outside_the_range_are_refused():
    for make in (
        lambda: Uvq(0.001),
        lambda: Uvq(3),
        lambda: Cvq(0.01),
        lambda: Cvq(5),
        lambda: Cvq(0.5, 2),
        lambda: Cvq(0.5, -1),
        lambda: Uvq(np.nan),
    ):
        with pytest.raises(ConfigError, match=r"rate is|eta is"):
            make()
