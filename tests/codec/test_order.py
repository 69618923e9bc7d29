"""The order of values by movement: nothing is lost, both ends agree, and like stands with like."""

import numpy as np
import pytest

from fedlearn.codec import Context, order

RANDOM = np.random.default_rng(0)
SHAPES = [
    ((5,),),
    ((200, 30), (200,), (10, 200), (10,)),
    ((16, 16),),  # tiles alone
    ((13, 25), (3, 3)),  # single values alone
    ((32, 1, 5, 5), (32,), (64, 32, 5, 5), (64,), (0,), ()),
    ((300, 301),),  # blocks of 4,096 and filled rows and columns
]


def moved_by(shapes):
    size = Context(shapes).size
    return (RANDOM.normal(size=size) * np.exp(RANDOM.normal(size=size))).astype(
        np.float32
    )


@pytest.mark.parametrize("shapes", SHAPES)
def test_every_value_stands_in_one_place_and_comes_back(shapes):
    context = Context(shapes, moved_by(shapes))
    values = np.arange(1, context.size + 1, dtype=np.float32)
    for layout in (order.by_movement(context), order.as_they_are(context.size)):
        blocks = layout.take(layout.spread(values), np.arange(layout.count))
        assert np.array_equal(np.sort(blocks[blocks > 0]), values)
        buffer = layout.buffer()
        for member in range(layout.count):
            layout.put(buffer, np.array([member]), blocks[[member]])
        assert np.array_equal(layout.collect(buffer), values)


def test_values_that_moved_alike_share_a_block():
    rows, columns = (
        np.exp(RANDOM.normal(size=(256, 1))),
        np.exp(RANDOM.normal(size=(1, 400))),
    )
    values = (
        (RANDOM.normal(size=(256, 400)) * rows * columns).astype(np.float32).ravel()
    )
    context = Context(((256, 400),), values)
    layout = order.by_movement(context)
    energies = np.square(
        layout.take(layout.spread(values), np.arange(layout.count)).astype(np.float64)
    ).sum(axis=1)
    plain = np.square(
        values[: values.size // 4096 * 4096].reshape(-1, 4096).astype(np.float64)
    ).sum(axis=1)
    assert energies[0] == energies.max() > 1.4 * plain.max()
    filled = energies[: 256 * 400 // 4096]
    assert (np.diff(np.log(filled)) < 0.5).all()  # falling, but for chance
    assert (
        np.log(filled).std() > 1.3 * np.log(plain).std()
    )  # further apart than blocks of neighbours


def test_the_order_does_not_depend_on_how_a_library_adds():
    """The sums are exact: the same as those of Python's whole numbers, whatever the values."""
    part = (
        RANDOM.normal(size=(200, 300)) * np.exp(RANDOM.normal(size=(200, 300)) * 3)
    ).astype(np.float32)
    by_row, by_column, unit = order._sums(part)
    whole = [[round(abs(float(v)) / unit) for v in row] for row in part]
    assert by_row.tolist() == [sum(row) for row in whole]
    assert by_column.tolist() == [sum(column) for column in zip(*whole, strict=True)]
    assert max(by_row.max(), by_column.max()) <= 2**24


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30])
def test_movements_of_any_size_are_ordered(scale):
    shapes = ((64, 64), (7,))
    values = np.arange(64 * 64 + 7, dtype=np.float32)
    moved = (moved_by(shapes).astype(np.float64) * scale).astype(np.float32)
    layout = order.by_movement(Context(shapes, moved))
    assert np.array_equal(layout.collect(layout.spread(values)), values)


def test_a_movement_of_zeros_is_not_known():
    assert not order.is_known(Context(((10_000,),)))
    assert not order.is_known(Context(((10_000,),), np.zeros(10_000, np.float32)))
    assert order.is_known(
        Context(((10_000,),), np.eye(1, 10_000, 9_999, dtype=np.float32)[0])
    )
