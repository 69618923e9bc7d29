"""What comes out of a cast says the same as what went in, or is refused by name."""

import numpy as np
import pytest

from fedlearn.data.casts import to_float32, to_pixels
from fedlearn.errors import DataError

DAY = 1_600_000_000
N = 40


def column(values):
    """Return features (N, 2) whose second column has these values."""
    return np.stack([np.zeros(N), np.asarray(values, float)], 1)


@pytest.mark.parametrize(
    "x",
    [
        np.arange(N * 2).reshape(N, 2) + DAY * 10,
        (np.arange(N * 2).reshape(N, 2) + DAY * 10**9).astype(np.uint64),
        np.array([[2**60 + i] for i in range(N)]),
        # As a table of pandas with a missing value has its whole numbers.
        column(DAY + np.arange(N)),
        # Seconds with fractions, all within a minute.
        column(DAY + np.linspace(0, 60, N)),
        column(1 + np.arange(N) * 1e-9),
        column(np.arange(N) * 1e-48),
        (DAY + np.arange(N * 6).reshape(N, 3, 2)).astype(np.int64),
    ],
)
def test_distinct_values_that_float32_makes_one_are_refused(x):
    with pytest.raises(DataError, match=r"own: x has \d+ distinct values in column"):
        to_float32("own: x", x)


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).normal(size=(5_000, 3)),
        np.random.default_rng(0).normal(size=(5_000, 3)) * 1e30,
        np.arange(N * 2).reshape(N, 2) * 2**20 + 2**40,
        np.full((N, 2), DAY),
        # A constant, but for the rounding of float64.
        column(np.where(np.arange(N) % 2, 0.3, 0.1 + 0.2)),
        column(52.52 + np.linspace(0, 0.01, N)),
        np.arange(N, dtype=np.int64)[:, None],
        np.zeros((N, 0)),
    ],
)
def test_what_keeps_its_meaning_is_taken(x):
    cast = to_float32("own: x", x)
    assert cast.dtype == np.float32
    assert np.allclose(cast, x, rtol=1e-6)


def test_a_client_may_have_values_that_are_all_alike():
    place = column(52.52 + np.arange(N) * 1e-9)
    with pytest.raises(DataError, match="distinct"):
        to_float32("own: x", place)
    assert to_float32("own: x", place, strict=False)[0, 1] == np.float32(52.52)
    with pytest.raises(DataError, match="distinct"):
        to_float32("own: x", column(DAY + np.arange(N)), strict=False)
    night = np.linspace(0, 0.01, N)
    assert to_pixels("own: x", night, strict=False).max() == 3


def test_float32_is_returned_itself():
    x = np.ones((3, 2), np.float32)
    assert to_float32("own: x", x) is x


@pytest.mark.parametrize(
    ("value", "words"),
    [(-1e300, "float32 ends at 3.4e"), (np.inf, "remove or fill"), (4e38, "3.4e")],
)
def test_not_finite_before_or_after(value, words):
    x = np.zeros((5, 2, 3))
    x[4, 1, 0] = value
    with pytest.raises(DataError, match=rf"x\[4\] holds NaN or infinity; .*{words}"):
        to_float32("own: x", x)


@pytest.mark.parametrize(
    ("x", "pixels"),
    [
        (np.array([0.0, 0.2, 1.0]), [0, 51, 255]),
        (np.array([0, 7, 255]), [0, 7, 255]),
        (np.array([False, True]), [0, 255]),
        (np.array([0.0, 1.0]), [0, 255]),
        (np.full(3, 0.001), [0, 0, 0]),
        (np.array([3, 4], np.uint8), [3, 4]),
    ],
)
def test_pictures(x, pixels):
    cast = to_pixels("own: x", x)
    assert cast.dtype == np.uint8
    assert cast.tolist() == pixels


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.linspace(0, 0.02, 50), "from 0 to 0.02, of which 256 levels keep 6; scale"),
        (np.linspace(0.5, 0.501, 9), "keep 1; scale"),
        (np.array([0, 256]), "is int64 from 0 to 256"),
        (np.array([-0.1, 1.0]), "is float64 from -0.1 to 1"),
        (np.array([0.5, np.nan]), r"x\[1\] holds NaN"),
    ],
)
def test_pictures_that_lose_what_they_show(x, message):
    with pytest.raises(DataError, match=message):
        to_pixels("own: x", x)
