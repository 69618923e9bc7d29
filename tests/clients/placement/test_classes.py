"""Token buckets and the file of classes."""

import json
import math

import pytest

from fedlearn.clients.placement.classes import (
    ServiceClass,
    ServiceClasses,
    TokenBucket,
    read,
)
from fedlearn.errors import UserError


def test_a_bucket_lets_a_burst_through_and_then_its_rate():
    bucket = TokenBucket(rate=10, burst=3)
    assert [bucket.take(1, 0.0) for _ in range(4)] == [0, 0, 0, 0.1]
    # What was refused has taken nothing.
    assert bucket.take(1, 0.1) == 0
    assert bucket.take(1, 0.1) == pytest.approx(0.1)
    # It never holds more than the burst.
    assert [bucket.take(1, 100.0) for _ in range(4)][:3] == [0, 0, 0]


def test_over_any_time_a_bucket_gives_its_rate_and_one_burst_at_most():
    bucket = TokenBucket(rate=20, burst=5)
    taken = [number / 100 for number in range(1000) if not bucket.take(1, number / 100)]
    for first, start_s in enumerate(taken):
        for count, end_s in enumerate(taken[first:], 1):
            assert count <= 20 * (end_s - start_s) + 5 + 1e-6
    assert len(taken) == pytest.approx(20 * 10 + 5, abs=2)


def test_a_request_larger_than_the_burst_is_owed_for():
    bucket = TokenBucket(rate=10, burst=4)
    assert bucket.take(14, 0.0) == 0
    assert bucket.take(1, 0.5) > 0
    assert bucket.take(1, 1.2) == 0


def test_a_class_without_a_rate_has_no_bucket():
    classes = ServiceClasses(
        {"a": ServiceClass(), "b": ServiceClass(rate=1, burst=1)}, "b"
    )
    assert [classes.take("a", 1, 0.0) for _ in range(3)] == [0, 0, 0]
    assert [classes.take("", 1, 0.0) for _ in range(2)] == [0, 1.0]
    assert "" in classes and "a" in classes and "c" not in classes


def test_the_file_says_what_classes_may_do(tmp_path):
    path = tmp_path / "classes.json"
    entries = {"high": {"deadline_ms": 50}, "low": {"rate": 5, "queue": 0.5}}
    values = {"format": "fedlearn-classes-1", "default": "low", "classes": entries}
    path.write_text(json.dumps(values))
    classes = read(path)
    assert classes.of("high") == ServiceClass(0.05, math.inf, math.inf, 1.0)
    assert classes.of("") == ServiceClass(math.inf, 5.0, 5.0, 0.5)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"deadline": 1}, "no key 'deadline'.*deadline_ms"),
        ({"rate": 0}, "rate has to be a number above 0"),
        ({"rate": True}, "rate has to be a number above 0"),
        ({"burst": "x"}, "burst has to be a number above 0"),
        ({"queue": 2}, "queue is a share"),
        ([], "has to be an object"),
    ],
)
def test_a_wrong_class_is_named(tmp_path, entry, words):
    path = tmp_path / "c.json"
    values = {"format": "fedlearn-classes-1", "default": "a", "classes": {"a": entry}}
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=words):
        read(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("[]", "it has to begin with"),
        ('{"format": "fedlearn-classes-1"}', "one class at least"),
        ('{"format": "fedlearn-classes-1", "classes": {"a": {}}}', "'default'"),
    ],
)
def test_a_file_that_has_no_classes_is_told(tmp_path, text, words):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read(path)
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "absent.json")
