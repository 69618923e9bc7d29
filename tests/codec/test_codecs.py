"""Every codec: round trip as specified, deterministic for a seed, and a decoder that trusts nothing."""

import numpy as np
import pytest

from fedlearn.codec import CODECS, codec
from fedlearn.codec.q8 import BUCKET
from fedlearn.errors import FormatError, PayloadError

RANDOM = np.random.default_rng(0)
SHAPES = {
    "empty": np.empty(0, np.float32),
    "one": np.array([-3.5], np.float32),
    "zeros": np.zeros(2000, np.float32),
    "spike": np.eye(1, 3000, 5, dtype=np.float32)[0] * 1e4,
    "small": RANDOM.normal(size=BUCKET).astype(np.float32) * 1e-6,
    "usual": RANDOM.normal(size=10_001).astype(np.float32),
    "strided": RANDOM.normal(size=5000).astype(np.float32)[::2],
    "denormal": np.full(10, 1e-42, np.float32),
}
TOLERANCE = {"raw32": lambda x: 0 * x, "f16": lambda x: np.abs(x) * 2**-11 + 2**-25, "q8": lambda x: np.abs(x).max(initial=0) / 126 + 1e-37}


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("values", SHAPES.values(), ids=SHAPES)
def test_round_trip(name, values):
    body = codec(name).encode(values, 3)
    back = codec(name).decode(body, values.size, 3)
    assert back.dtype == np.float32
    assert (np.abs(back - values) <= TOLERANCE[name](values)).all()
    assert codec(name).encode(values, 3) == body


def test_bytes_are_as_documented():
    values = SHAPES["usual"]
    assert [len(codec(n).encode(values, 0)) for n in ("raw32", "f16", "q8")] == [40_004, 20_002, 10_001 + 4 * 10]


def q8_twin(values, seed):
    """The slow, readable twin: one value at a time."""
    noise = np.random.Generator(np.random.PCG64(seed)).random(-(-values.size // BUCKET) * BUCKET, dtype=np.float32)
    out = []
    for i, value in enumerate(values):
        bucket = values[i // BUCKET * BUCKET : (i // BUCKET + 1) * BUCKET]
        scale = np.float32(np.abs(bucket).max() / np.float32(127))
        out.append(np.clip(np.floor(value / scale + noise[i]), -127, 127) * scale if scale else np.float32(0))
    return np.array(out, np.float32)


def test_q8_equals_its_readable_twin():
    values = SHAPES["usual"]
    assert np.array_equal(codec("q8").decode(codec("q8").encode(values, 9), values.size, 9), q8_twin(values, 9))


def test_q8_is_unbiased():
    values = np.array([1.0, 0.3, -0.77, 0.001], np.float32)
    mean = np.mean([codec("q8").decode(codec("q8").encode(values, s), 4, s) for s in range(4000)], axis=0)
    assert np.abs(mean - values).max() < 4 * (1 / 127) / 2 / np.sqrt(4000)  # four standard errors of a coin flip


def test_values_beyond_the_range_are_refused():
    with pytest.raises(PayloadError, match="does not fit f16"):
        codec("f16").encode(np.array([70_000], np.float32), 0)
    with pytest.raises(PayloadError, match="does not fit q8"):
        codec("q8").encode(np.array([2e38], np.float32), 0)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b""])
def test_a_body_of_another_size_is_refused(name, change):
    body = codec(name).encode(SHAPES["usual"], 0)
    with pytest.raises(FormatError, match="bytes"):
        codec(name).decode(change(body), SHAPES["usual"].size, 0)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
def test_an_unsound_scale_is_refused(scale):
    with pytest.raises(FormatError, match="scale"):
        codec("q8").decode(np.float32(scale).tobytes() + b"\x01", 1, 0)


def test_an_unknown_codec_is_refused():
    with pytest.raises(FormatError, match="unknown codec 'raw23'. Did you mean 'raw32'?"):
        codec("raw23")
