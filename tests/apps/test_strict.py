"""Replies of agents that lie: each is refused before it takes memory, and none runs code."""

import io
import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from fedlearn.apps import strict
from fedlearn.apps.messages import packed
from fedlearn.errors import PayloadError

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def payload(array):
    content = RecordDict({"arrays": ArrayRecord({"w": array})})
    return packed(content, {}, "", 0).payload


def file(shape, dtype="<f4", data=b"", order=False):
    """Return numpy's file of a header, whatever data follow."""
    buffer = io.BytesIO()
    header = {"descr": dtype, "fortran_order": order, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + data


def array(data, dtype="float32", shape=(2, 3)):
    return Array(dtype=dtype, shape=shape, stype="numpy.ndarray", data=data)


def test_an_honest_reply_is_what_was_sent():
    content = RecordDict(
        {"arrays": ArrayRecord({"w": Array(VALUES)}), "m": MetricRecord({"n": 3})}
    )
    reply = strict.unpack(packed(content, {}, "", 0).payload, {})
    assert np.array_equal(reply.array_records["arrays"]["w"].numpy(), VALUES)
    assert reply.metric_records["m"]["n"] == 3


def test_an_honest_difference_is_what_it_leads_to():
    base = ArrayRecord({"w": Array(VALUES)})
    trained = RecordDict({"arrays": ArrayRecord({"w": Array(VALUES + 1)})})
    data = packed(trained, {"arrays": base}, "q8", 3).payload
    reply = strict.unpack(data, {"arrays": base})
    values = reply.array_records["arrays"]["w"].numpy()
    np.testing.assert_allclose(values, VALUES + 1, atol=0.05)
    with pytest.raises(PayloadError, match="is a difference from no record here"):
        strict.unpack(data, {})
    with pytest.raises(PayloadError, match="from other arrays than those held here"):
        strict.unpack(data, {"arrays": ArrayRecord({"w": Array(VALUES + 2)})})


def test_arrays_of_other_kinds_are_the_apps_to_read():
    opaque = Array(dtype="uint8", shape=(3,), stype="xgboost", data=b"abc")
    reply = strict.unpack(payload(opaque), {})
    assert reply.array_records["arrays"]["w"].data == b"abc"


class Runs:
    def __reduce__(self):
        return (pytest.fail, ("a pickle of the reply was run",))


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        # A terabyte in a hundred bytes.
        (array(file((2**38,))), "says 1099511627776 bytes and has 0"),
        (array(file((2**62, 2**62))), "bytes and has 0"),
        (array(file((2, 3), data=b"\0" * 23)), "says 24 bytes and has 23"),
        (array(file((2, 3), data=b"\0" * 25)), "says 24 bytes and has 25"),
        (array(file((-2, 3), data=b"\0" * 24)), "is no array of numpy"),
        (array(file((2, 3), "<f8", b"\0" * 48)), "says float32 (2, 3) and is float64"),
        (array(file((3, 2), data=b"\0" * 24)), "and is float32 (3, 2)"),
        (array(file((1,), "|O", pickle.dumps(Runs()))), "holds Python's objects"),
        (array(pickle.dumps(Runs())), "is no array of numpy"),
        (array(b""), "is no array of numpy"),
        (array(b"\x93NUMPY\x01\x00\xff\xff{"), "is no array of numpy"),
    ],
)
def test_an_array_that_lies_is_refused_by_its_name(lie, reason):
    with pytest.raises(PayloadError) as raised:
        strict.unpack(payload(lie), {})
    assert "'w' of 'arrays'" in str(raised.value)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"\x05abc", b"\x03abc", b"\x02\x0a\x01", b"\x00\x03abc\x03abc\x00"],
)
def test_bytes_that_are_no_content_are_refused(data):
    with pytest.raises(PayloadError):
        strict.unpack(data, {"abc": ArrayRecord({"w": Array(VALUES)})})


def test_any_damage_is_refused_or_harmless():
    content = RecordDict({"arrays": ArrayRecord({"w": Array(VALUES)})})
    whole = packed(content, {}, "", 0).payload
    for place in range(len(whole)):
        for bit in (1, 16, 128):
            data = bytearray(whole)
            data[place] ^= bit
            try:
                reply = strict.unpack(bytes(data), {})
            except PayloadError:
                continue
            # What is taken can be read by whoever gets it.
            for record in reply.array_records.values():
                for value in record.values():
                    if value.stype == "numpy.ndarray":
                        value.numpy()


def test_a_reply_has_no_first_record():
    """Zeros of any shape would be made of it: a terabyte, of the few bytes of its name."""
    content = RecordDict({"arrays": ArrayRecord({"w": Array(VALUES)})})
    first = packed(content, {}, "q8", 0, first="q8").payload
    with pytest.raises(PayloadError, match="is a difference from no record here"):
        strict.unpack(first, {"arrays": ArrayRecord({"w": Array(VALUES)})})


def test_an_update_counts_from_what_was_sent():
    original = ArrayRecord({"w": Array(VALUES)})
    copy = ArrayRecord({"w": Array(VALUES + 0.25)})
    trained = RecordDict({"arrays": ArrayRecord({"w": Array(VALUES + 1.25)})})
    data = packed(trained, {"arrays": copy}, "q8", 3).payload
    reply = strict.unpack(data, {"arrays": copy}, {"arrays": original})
    values = reply.array_records["arrays"]["w"].numpy()
    np.testing.assert_allclose(values, VALUES + 1, atol=0.05)


def test_too_many_records_are_refused(monkeypatch):
    monkeypatch.setattr(strict, "MOST_RECORDS", 2)
    content = RecordDict({str(n): MetricRecord({"a": n}) for n in range(3)})
    with pytest.raises(PayloadError, match="3 records; at most 2 are taken"):
        strict.unpack(packed(content, {}, "", 0).payload, {})
