"""Every codec: round trip as specified, deterministic for a seed, a wary decoder."""

import numpy as np
import pytest

from fedlearn.codec import Context, codec
from fedlearn.errors import FormatError, PayloadError

BUCKET = 1024  # of q8
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
TOLERANCE = {
    "raw32": lambda x: 0 * x,
    "f16": lambda x: np.abs(x) * 2**-11 + 2**-25,
    "q8": lambda x: np.abs(x).max(initial=0) / 126 + 1e-37,
    "q4": lambda x: np.abs(x).max(initial=0) / 6.9 + 1e-37,
    "eden1": lambda x: (
        30 * np.sqrt(np.mean(x.astype(np.float64) ** 2)) + np.abs(x) + 1e-37
        if x.size
        else x
    ),
}
NAMES = list(TOLERANCE)


def encode(name, values, seed):
    return codec(name).encode(values, seed, Context((values.shape,)))


def decode(name, body, size, seed):
    return codec(name).decode(body, seed, Context(((size,),)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("values", SHAPES.values(), ids=SHAPES)
def test_round_trip(name, values):
    body = encode(name, values, 3)
    back = decode(name, body, values.size, 3)
    assert back.dtype == np.float32
    assert (np.abs(back - values) <= TOLERANCE[name](values)).all()
    assert encode(name, values, 3) == body


def test_bytes_are_as_documented():
    values = SHAPES["usual"]
    sizes = {
        "raw32": 40_004,
        "f16": 20_002,
        "q8": 10_001 + 4 * 10,
        "q4": 5_001 + 4 * 40,
        "eden1": (2 * 4096 + 4 * 512) // 8 + 4 * 6,
    }
    assert (
        {name: len(encode(name, values, 0)) for name in sizes}
        == sizes
        == {n: sizes[n] for n in NAMES}
    )


def q8_twin(values, seed):
    """The slow, readable twin: one value at a time."""
    noise = np.random.Generator(np.random.PCG64(seed)).random(
        -(-values.size // BUCKET) * BUCKET, dtype=np.float32
    )
    out = []
    for i, value in enumerate(values):
        bucket = values[i // BUCKET * BUCKET : (i // BUCKET + 1) * BUCKET]
        scale = np.float32(np.abs(bucket).max() / np.float32(127))
        out.append(
            np.clip(np.floor(value / scale + noise[i]), -127, 127) * scale
            if scale
            else np.float32(0)
        )
    return np.array(out, np.float32)


def test_q8_equals_its_readable_twin():
    values = SHAPES["usual"]
    assert np.array_equal(
        decode("q8", encode("q8", values, 9), values.size, 9), q8_twin(values, 9)
    )


def test_q8_is_unbiased():
    values = np.array([1.0, 0.3, -0.77, 0.001], np.float32)
    mean = np.mean(
        [decode("q8", encode("q8", values, s), 4, s) for s in range(4000)], axis=0
    )
    assert np.abs(mean - values).max() < 4 * (1 / 127) / 2 / np.sqrt(
        4000
    )  # four standard errors of a coin flip


def q4_twin(body: bytes, size: int) -> np.ndarray:
    """The slow, readable twin of q4's decoder."""
    scales = np.frombuffer(body, "<f4", -(-size // 256))
    halves = [
        (byte >> shift) & 15 for byte in body[4 * len(scales) :] for shift in (0, 4)
    ]
    return np.array(
        [
            scales[i // 256] * np.float32(h - 16 if h > 7 else h)
            for i, h in enumerate(halves[:size])
        ],
        np.float32,
    )


@pytest.mark.parametrize("values", [SHAPES["usual"], SHAPES["one"]])
def test_q4_equals_its_readable_twin(values):
    body = encode("q4", values, 4)
    assert np.array_equal(
        decode("q4", body, values.size, 4), q4_twin(body, values.size)
    )


def eden1_twin(values: np.ndarray, seed: int) -> np.ndarray:
    """The slow, readable twin: one block, one dense rotation matrix, in float64."""
    flips = (
        np.unpackbits(
            np.frombuffer(
                np.random.Generator(np.random.PCG64(seed)).bytes(512), np.uint8
            )
        )[:512]
        * 2.0
        - 1
    )
    h = np.array(
        [
            [1.0 - 2.0 * (bin(i & j).count("1") % 2) for j in range(512)]
            for i in range(512)
        ]
    ) / np.sqrt(512)
    x = np.zeros(512)
    x[: values.size] = values
    y = h @ (flips * x)
    return flips * (h @ np.where(y >= 0, 1, -1)) * (x @ x / np.abs(y).sum())


def test_eden1_equals_its_readable_twin():
    values = SHAPES["usual"][:400]
    ours = decode("eden1", encode("eden1", values, 9), 400, 9)
    assert np.abs(ours - eden1_twin(values, 9)[:400]).max() < 1e-5


@pytest.mark.parametrize("name", ["eden1", "q4"])
def test_updates_are_estimated_without_bias(name):
    values = (RANDOM.normal(size=512) * np.linspace(0.1, 3, 512)).astype(np.float32)
    runs = 1500
    mean = np.mean(
        [
            decode(name, encode(name, values, s), 512, s).astype(np.float64)
            for s in range(runs)
        ],
        axis=0,
    )
    energy = np.mean(values.astype(np.float64) ** 2)
    error = np.mean((mean - values) ** 2) / energy
    assert (
        error < 1.3 * (np.pi / 2 - 1) / runs
    )  # what independent errors average to; a bias would stay
    one = decode("eden1", encode("eden1", values, 0), 512, 0)
    assert values @ one == pytest.approx(
        values @ values, rel=1e-5
    )  # eden1: exact along the update itself


def test_values_beyond_the_range_are_refused():
    with pytest.raises(PayloadError, match="does not fit f16"):
        encode("f16", np.array([70_000], np.float32), 0)
    for name in ("q8", "q4", "eden1"):
        with pytest.raises(PayloadError, match=f"does not fit {name}"):
            encode(name, np.array([2e38], np.float32), 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b""]
)
def test_a_body_of_another_size_is_refused(name, change):
    body = encode(name, SHAPES["usual"], 0)
    with pytest.raises(FormatError, match="bytes"):
        decode(name, change(body), SHAPES["usual"].size, 0)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
def test_an_unsound_scale_is_refused(scale):
    for name, rest in (("q8", 1), ("q4", 1), ("eden1", 64)):
        with pytest.raises(FormatError, match=f"scale of {name}"):
            decode(name, np.float32(scale).tobytes() + bytes(rest), 1, 0)


def test_an_unknown_codec_is_refused():
    with pytest.raises(
        FormatError, match=r"unknown stage 'raw23'\. Did you mean 'raw32'\?"
    ):
        codec("raw23")


def test_zero_says_nothing_and_says_it_of_zeros_only():
    assert encode("zero", np.zeros(5, np.float32), 0) == b""
    assert decode("zero", b"", 5, 0).dense().tolist() == [0.0] * 5
    with pytest.raises(PayloadError, match="zeros only"):
        encode("zero", np.ones(5, np.float32), 0)
    with pytest.raises(FormatError, match="which has none"):
        decode("zero", b"x", 5, 0)
