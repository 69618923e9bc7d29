"""A short run of the fuzzer, the same mutations every time, and proofs that it would notice."""

import zlib

import numpy as np
import pytest
import torch

from fedlearn.arrays import Change, Sparse
from fedlearn.codec import codec, sparse
from fedlearn.errors import FormatError
from tests.wire import fuzz, mutate
from tests.wire.corpus import CNN, LARGE, SMALL, TWO_NN, Case, case, cases


@pytest.fixture(scope="module")
def corpus():
    threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # as in a worker: small decodes are many times slower on two
    yield list(cases((SMALL, LARGE)))
    torch.set_num_threads(threads)


def test_damaged_payloads_are_refused_or_sound(corpus):
    found = fuzz.fuzz(2026, 0, 4000, corpus)
    assert found.failures == {}, fuzz.report(found, 2026, 1.0)
    assert (
        200 < found.taken < 3800
    )  # it reaches behind the checksum, and damages what matters


def test_bombs_are_refused_in_little_memory(corpus):
    found = fuzz.fuzz(7, 0, 600, corpus, ways=((mutate.bombs, 1),))
    assert found.failures == {}, fuzz.report(found, 7, 1.0)


@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("raw32", 0.15), ("f16", 1), ("q8", 2.25), ("eden1", 2.5), ("topk(0.01)+tern", 1.5),
        ("topk(0.5)+tern+rice", 4.25), ("topk(1)+tern+gapz", 5.25), ("uvq(2)", 2.5),
        ("cvq(4)", 2.5), ("pred+cvq(1,1)", 2.5), ("randk(1)+raw32+deflate", 9.5),
        ("topk(1)+raw32+grid", 21.5),
    ],
)  # fmt: skip
def test_a_decode_of_a_large_model_holds_as_many_models_as_documented(
    text, models, corpus
):
    """McMahan's CNN, 6.7 MB, so that what grows with the model is told from what does not."""
    made = case(text, "difference", CNN, known=codec(text).uses_moved)
    fuzz.check_memory(made, made.payload, models)
    with pytest.raises(AssertionError, match="bytes held"):
        fuzz.check_memory(
            made, made.payload, models / 2
        )  # the figures are no ceilings far above


def test_damaged_payloads_of_a_large_model_hold_no_more_than_sound_ones(corpus):
    large = [
        case(text, "update", TWO_NN, known=codec(text).uses_moved)
        for text in ("q8", "topk(0.6)+tern", "uvq(0.5)", "pred+cvq(0.5)")
    ]
    found = fuzz.fuzz(5, 0, 120, large, traced=3)
    assert found.failures == {}, fuzz.report(found, 5, 1.0)


def test_a_mutation_depends_on_its_seed_and_number_only(corpus):
    assert fuzz.mutated(3, 12, corpus) == fuzz.mutated(3, 12, corpus)
    assert fuzz.mutated(3, 12, corpus)[2] != fuzz.mutated(4, 12, corpus)[2]


class Broken(Case):
    """A receiver that does what none should."""

    def take(self, data):
        header, change = super().take(data)
        return header, self.spoil(change)

    def spoil(self, change):
        raise NotImplementedError


class Raises(Broken):
    def spoil(self, change):
        return change.integers[10**6]


class Short(Broken):
    def spoil(self, change):
        return Change(change.dense().floats[:-1], change.integers)


class Infinite(Broken):
    def spoil(self, change):
        return Change(np.full(self.layout.floats, np.inf, np.float32), change.integers)


class Unordered(Broken):
    def spoil(self, change):
        return Change(
            Sparse(np.array([3, 3]), np.ones(2, np.float32), self.layout.floats),
            change.integers,
        )


class Hungry(Broken):
    def spoil(self, change):
        return Change(
            np.zeros(2**19, np.float32)[: self.layout.floats], change.integers
        )


class Warns(Broken):
    def spoil(self, change):
        return Change(
            np.float32(1) / np.zeros(self.layout.floats, np.float32), change.integers
        )


class Exhausting(Broken):
    def spoil(self, change):
        return np.zeros(2 * fuzz.ROOM, np.uint8)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Raises, "IndexError"),
        (Short, "other floats"),
        (Infinite, "not finite"),
        (Unordered, "do not increase"),
        (Hungry, "bytes held"),
        (Warns, "RuntimeWarning"),
        (Exhausting, "MemoryError"),
    ],
)
def test_the_fuzzer_notices(kind, told, corpus):
    broken = [
        kind(**vars(case))
        for case in corpus
        if (case.codec, case.kind) == ("raw32", "update")
    ]
    found = fuzz.fuzz(0, 0, 300, broken, traced=1)
    assert told in fuzz.report(found, 0, 1.0)
    assert "again: --seed 0 --first" in fuzz.report(found, 0, 1.0)


def test_the_fuzzer_notices_a_stream_that_is_inflated_without_bound(
    monkeypatch, corpus
):
    monkeypatch.setattr(
        sparse, "inflate", lambda data, least, most: zlib.decompress(data, -15)
    )
    deflated = [case for case in corpus if case.codec == "q4+deflate"]
    found = fuzz.fuzz(0, 0, 100, deflated, ways=((mutate.bombs, 1),))
    assert "bytes held" in fuzz.report(found, 0, 1.0)


def test_every_payload_of_the_corpus_is_sound(corpus):
    for one in corpus:
        assert fuzz.check(one, one.payload) is not None, one
        with pytest.raises(FormatError, match="checksum"):
            one.take(one.payload[:-1] + bytes([one.payload[-1] ^ 1]))
