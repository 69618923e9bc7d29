"""Owners' columns, as people keep them: any type, and nobody is mixed up with another."""

import uuid

import numpy as np
import pytest

from fedlearn.data.own_columns import owner_numbers
from fedlearn.errors import DataError

PEOPLE = [uuid.UUID(int=k) for k in (9, 4, 9)]


@pytest.mark.parametrize(
    ("owners", "numbers"),
    [
        ([5, 3, 5], [5, 3, 5]),
        (np.array([5, 3, 5], object), [5, 3, 5]),
        (np.array([5.0, 3.0, 5.0]), [5, 3, 5]),
        (np.array([5, np.int16(3), 5.0], object), [5, 3, 5]),
        (np.array([True, False, True]), [1, 0, 1]),
        (np.array([[5], [3], [5]]), [5, 3, 5]),
        (["b", "a", "b"], [1, 0, 1]),
        (np.array(["b", "a", "b"], object), [1, 0, 1]),
        (np.array([b"b", b"a", b"b"]), [1, 0, 1]),
        (np.array(["2026-03-02", "2026-01-01", "2026-03-02"], "M8[D]"), [1, 0, 1]),
        (np.array(PEOPLE, object), [1, 0, 1]),
        # Too large for int64, as hashes are.
        (np.array([2**64 - 1, 7, 2**64 - 1], np.uint64), [1, 0, 1]),
        (np.array([2**70, 7, 2**70], object), [1, 0, 1]),
        # 1 and "1" are two owners.
        ([1, "1", 1], [0, 1, 0]),
    ],
)
def test_owners_of_any_type(owners, numbers):
    assert owner_numbers("own", owners, 3).tolist() == numbers


@pytest.mark.parametrize(
    ("owners", "message"),
    [
        (np.ma.masked_equal([5, 3, 5], 3), "is a masked array"),
        ([5.0, np.nan, 5.0], r"client_ids\[1\] is missing \(nan\)"),
        (np.array(["b", None, "b"], object), r"client_ids\[1\] is missing \(None\)"),
        (np.array(["b", float("nan"), "b"], object), r"\[1\] is missing"),
        (np.array(["2026-03-02", "NaT", "NaT"], "M8[D]"), r"\[1\] is missing"),
        ([0.5, 1.0, 2.0], "with fractions"),
        ([5, 3], r"is int64 \(2,\); it must be one number or name for each of the 3"),
        ([[1], [2, 3], [4]], "is no column of owners"),
    ],
)
def test_columns_that_name_no_owners(owners, message):
    with pytest.raises(DataError, match=message):
        owner_numbers("own", owners, 3)
