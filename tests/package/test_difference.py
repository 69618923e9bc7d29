"""Differences between releases: one result on every side, and nothing else from any bytes."""

import hashlib
import itertools
import subprocess
import sys
from math import prod
from pathlib import Path

import numpy as np
import pytest

from fedlearn.errors import FormatError, ModelError, PayloadError
from fedlearn.package import difference
from fedlearn.package.parts import Delta, delta_file
from tests.package.differences import CODECS, SHAPES, corpus, weights
from tests.wire import fuzz

MODEL = SHAPES[0]


def bits(values: np.ndarray) -> bytes:
    return values.astype("<f4").tobytes()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shapes", [*SHAPES, (), ((0,),), ((5,), (7, 0))])
def test_a_device_arrives_where_the_builder_did(codec, shapes):
    base = weights(shapes, 1)
    target = weights(shapes, 2)
    payload, arrived = difference.encode(base, target, shapes, codec)
    assert bits(difference.apply(base, payload, shapes)) == bits(arrived)


def test_a_closed_loop_does_not_drift():
    """Each difference aims at the newest weights from where the devices are."""
    held = weights(MODEL, 1)
    for release in range(2, 7):
        target = weights(MODEL, release)
        step = np.linalg.norm(target - held)
        payload, arrived = difference.encode(held, target, MODEL)
        held = difference.apply(held, payload, MODEL)
        assert bits(held) == bits(arrived)
        # The same share of each step is missing, not the sum of all that was ever missing.
        assert np.linalg.norm(target - held) < 0.7 * step


def test_small_vectors_and_positive_ones_arrive_exactly():
    base = weights(MODEL, 1)
    target = weights(MODEL, 2)
    _, arrived = difference.encode(base, target, MODEL)
    starts = np.cumsum([0, *map(prod, MODEL)])
    exact = [
        np.array_equal(arrived[first:end], target[first:end])
        for first, end in itertools.pairwise(starts)
    ]
    # 16 values, 40 above 0 and a single one; a vector of 64 with both signs is rounded.
    assert exact == [False, True, False, False, True, True]


def test_a_variance_stays_above_zero():
    """Rounded to a bit a value, one of a ten thousandth beside others of 1 would not."""
    shapes = ((64, 64), (64,))
    base = weights(shapes, 1)
    target = weights(shapes, 2)
    base[-64:] = np.linspace(0.5, 1.5, 64)
    target[-64:] = np.linspace(1e-4, 2, 64)
    _, arrived = difference.encode(base, target, shapes)
    assert np.array_equal(arrived[-64:], target[-64:])


def test_equal_weights_take_no_values():
    base = weights(MODEL, 1)
    payload, arrived = difference.encode(base, base.copy(), MODEL)
    assert len(payload) < 400
    assert bits(arrived) == bits(base)


def test_equal_inputs_give_equal_bytes_in_another_process():
    base = weights(MODEL, 1)
    target = weights(MODEL, 2)
    payload, _ = difference.encode(base, target, MODEL, "topk(0.05)+q4c")
    code = (
        "from tests.package.differences import SHAPES, weights\n"
        "from fedlearn.package import difference\n"
        "a, b = (weights(SHAPES[0], seed) for seed in (1, 2))\n"
        "print(difference.encode(a, b, SHAPES[0], 'topk(0.05)+q4c')[0].hex())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert bytes.fromhex(other.stdout) == payload


def test_another_base_or_other_tensors_are_told():
    base = weights(MODEL, 1)
    payload, _ = difference.encode(base, weights(MODEL, 2), MODEL)
    with pytest.raises(FormatError, match="against another model"):
        difference.apply(base * 2, payload, MODEL)
    with pytest.raises(FormatError, match="for another model"):
        difference.apply(base[:252], payload, SHAPES[1])
    with pytest.raises(ModelError, match="take the weights of the same package"):
        difference.apply(base[1:], payload, MODEL)
    with pytest.raises(ModelError, match="values where the tensors have"):
        difference.encode(base, base[1:], MODEL)
    with pytest.raises(PayloadError, match="NaN"):
        difference.encode(base, np.full_like(base, np.nan), MODEL)


def test_hostile_bytes_are_refused_or_sound():
    findings = fuzz.fuzz(1, 0, 2500, corpus())
    assert findings.failures == {}, fuzz.report(findings, 1, 1.0)
    assert 100 < findings.taken < 2400


def chain(releases: int):
    """Return the weights of each release, and the differences that lead on from each."""
    held = [weights(MODEL, 1)]
    deltas = []
    payloads = {}
    for release in range(2, releases + 2):
        payload, arrived = difference.encode(held[-1], weights(MODEL, release), MODEL)
        base_sha256 = difference.weights_sha256(held[-1])
        sha256 = hashlib.sha256(payload).hexdigest()
        delta = Delta(base_sha256, delta_file(base_sha256), sha256, len(payload))
        deltas.append(delta)
        payloads[delta.file] = payload
        held.append(arrived)
    return held, sorted(deltas, key=lambda delta: delta.file), payloads


@pytest.mark.parametrize("start", range(6))
def test_a_chain_of_five_ends_where_the_whole_weights_do(start):
    held, deltas, payloads = chain(5)
    target = difference.weights_sha256(held[-1])
    fetched = []

    def fetch(delta):
        fetched.append(delta.file)
        return payloads[delta.file]

    arrived = difference.arrive(held[start], MODEL, target, deltas, fetch)
    assert bits(arrived) == bits(held[-1])
    assert len(fetched) == 5 - start


def test_a_chain_that_leads_elsewhere_ends():
    held, deltas, payloads = chain(2)
    first = difference.weights_sha256(held[0])
    with pytest.raises(FormatError, match="fetch the weights whole"):
        difference.arrive(
            held[1], MODEL, first, deltas, lambda delta: payloads[delta.file]
        )
    with pytest.raises(FormatError, match="another SHA-256 than is listed"):
        difference.arrive(
            held[0],
            MODEL,
            difference.weights_sha256(held[2]),
            deltas,
            lambda delta: payloads[delta.file] + b"\0",
        )


def test_a_device_needs_numpy_alone():
    code = (
        "import sys\nimport fedlearn.package.difference\n"
        "print(sorted({'torch', 'flwr', 'pydantic'} & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"
