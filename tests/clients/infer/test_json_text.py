"""Both readers of JSON, over sound and damaged texts."""

import json
import random

import pytest

from fedlearn.clients.infer import json_text
from tests.clients.infer.hostile import CORPUS, mutated

BODIES = [data.partition(b"\r\n\r\n")[2] for data in CORPUS if b'"inputs"' in data]


def read(loads, data):
    try:
        return loads(data)
    except ValueError:
        return "refused"


def test_the_fast_reader_reads_what_the_plain_one_reads():
    draw = random.Random(4)
    counts = {True: 0, False: 0}
    for _ in range(4000):
        data = mutated(draw.choice(BODIES), draw)
        plain = read(json_text.plain_loads, data)
        fast = read(json_text.loads, data)
        # NaN does not come from JSON, so equal values are equal.
        if fast != "refused":
            assert fast == plain, data
        counts[fast == "refused"] += 1
    assert min(counts.values()) > 100


@pytest.mark.parametrize("loads", [json_text.plain_loads, json_text.loads])
@pytest.mark.parametrize(
    "data", [b"", b"NaN", b"[Infinity]", b"\xff", b"[1,]", b"01", b"[" * 100_000]
)
def test_what_is_no_json_is_refused(loads, data):
    assert read(loads, data) == "refused"


def test_both_write_what_all_read():
    value = {"a": [1.5, -2, 0.1, 1e-30], "b": 'ü\n"', "c": None, "d": True}
    for dumps in (json_text.plain_dumps, json_text.dumps):
        assert json.loads(dumps(value)) == value
