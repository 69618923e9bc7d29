"""The prediction from movement: equal at both ends, worth its bytes, none at rest."""

import numpy as np
import pytest

from fedlearn.codec import Context, codec
from fedlearn.errors import FormatError

RANDOM = np.random.default_rng(0)
SHAPES = (
    (30, 200),
    (7, 5),
    (30,),
)  # factors: 30 (rows of 128 values and more), 1 and 1
MOVED = RANDOM.normal(size=6065).astype(np.float32)
CONTEXT = Context(SHAPES, MOVED)
NOISE = RANDOM.normal(size=6065).astype(np.float32) * np.float32(0.1)


def decode(text, body, seed, context=CONTEXT):
    values = codec(text).decode(body, seed, context)
    return values if isinstance(values, np.ndarray) else values.dense()


def test_what_movement_predicts_costs_a_byte_a_factor():
    values = MOVED * np.float32(0.75)  # 48 steps of 1/64
    body = codec("pred+raw32").encode(values, 0, CONTEXT)
    assert body[:32] == bytes([48] * 32)
    assert not np.frombuffer(body[32:], "<f4").any()
    assert np.array_equal(decode("pred+raw32", body, 0), values)


@pytest.mark.parametrize("inner", ["eden1", "cvq(0.5,0)", "topk(0.1)+q4c", "q4"])
def test_the_error_is_that_of_what_is_left(inner):
    values = MOVED * np.float32(0.5) + NOISE
    error = [
        np.linalg.norm(values - decode(c, codec(c).encode(values, 1, CONTEXT), 1))
        for c in (inner, f"pred+{inner}")
    ]
    assert error[1] < 0.3 * error[0]  # the noise is a fifth of the values


@pytest.mark.parametrize("moved", [None, np.zeros(6065, np.float32)])
def test_without_movement_it_is_the_codec_alone(moved):
    context = Context(SHAPES, moved)
    body = codec("pred+topk(0.1)+q4c").encode(NOISE, 1, context)
    assert body == codec("topk(0.1)+q4c").encode(NOISE, 1, context)
    assert np.array_equal(
        decode("pred+topk(0.1)+q4c", body, 1, context),
        decode("topk(0.1)+q4c", body, 1, context),
    )


def test_an_unbiased_codec_stays_unbiased():
    values = MOVED * np.float32(0.5) + NOISE
    name = "pred+uvq(0.3)"
    told = [
        decode(name, codec(name).encode(values, seed, CONTEXT), seed).astype(np.float64)
        for seed in range(300)
    ]
    mean, one = np.mean(told, axis=0), told[0]
    assert np.linalg.norm(mean - values) < 0.1 * np.linalg.norm(
        one - values
    )  # 1/sqrt(300) = 0.06


def test_too_few_bytes_are_refused():
    with pytest.raises(FormatError, match="32 factors"):
        codec("pred+raw32").decode(bytes(31), 0, CONTEXT)
