"""Drawn vehicles: the same for a seed, unlike between owners, and pictures that a device reads."""

import numpy as np

from fedlearn.clients.infer import png
from fedlearn.scenarios import crossing, roads


def test_a_seed_gives_the_same_pictures():
    first = roads.load(3)
    again = roads.load(3)
    other = roads.load(4)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


def test_owners_are_unlike():
    x, y, x_test, y_test, names = roads.load(0)
    assert x.shape[1:] == x_test.shape[1:] == (1, 28, 28)
    assert x.dtype == np.uint8
    assert len(x) == len(y) == len(names) == 2230
    # A motorway has no bicycles, and a cycle path little else.
    assert np.count_nonzero(y[names == "motorway"] == 0) == 0
    assert np.mean(y[names == "cycle path"] == 0) > 0.75
    assert np.bincount(y_test).tolist() == [100, 100, 100, 100]


def test_a_picture_of_the_camera_is_read_as_it_was_drawn():
    picture = roads.draw(1, np.random.default_rng(0))
    assert np.array_equal(png.read(crossing.png(picture), "p").squeeze(), picture)


def test_vehicles_pass_in_order_and_more_lorries_late():
    passing = crossing.passages(2000, 20.0, 0)
    times_s = [passage.at_s for passage in passing]
    assert times_s == sorted(times_s)
    late = sum(passage.label == 3 for passage in passing[1000:])
    assert late > 2 * sum(passage.label == 3 for passage in passing[:1000])
    assert crossing.passages(2000, 20.0, 0) == passing


def test_the_camera_writes_whole_pictures(tmp_path, capsys):
    passing = crossing.passages(3, 1000.0, 0)
    crossing.watch(tmp_path, passing, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("0000.png", "0001.png", "0002.png")
    ]
    assert capsys.readouterr().out.startswith(crossing.BEGINS)
