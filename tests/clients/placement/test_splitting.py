"""The best cut over any link is one of the few that nothing beats."""

import random

import pytest

from fedlearn.clients.placement.splitting import (
    ALL_HERE,
    ALL_THERE,
    CutPoint,
    best_cut,
    unbeaten,
)

POINTS = [
    CutPoint(ALL_THERE, 0.0, 0.001, 3000),
    CutPoint("conv", 0.010, 0.0005, 400),
    CutPoint("wide", 0.012, 0.0006, 5000),
    CutPoint(ALL_HERE, 0.030, 0.0, 0),
]


@pytest.mark.parametrize(
    ("turn_s", "byte_s", "name"),
    [
        # A fast link, one on which few bytes pay, and one that is too slow for any.
        (0.001, 1e-6, ALL_THERE),
        (0.001, 1e-5, "conv"),
        (0.001, 1e-3, ALL_HERE),
        (1.0, 0.0, ALL_HERE),
    ],
)
def test_the_best_cut_follows_the_link(turn_s, byte_s, name):
    assert best_cut(POINTS, turn_s, byte_s).name == name


def test_the_time_is_that_of_head_way_and_tail():
    point = CutPoint("conv", 0.010, 0.002, 400)
    assert point.total_s(0.005, 1e-5) == pytest.approx(0.010 + 0.005 + 0.004 + 0.002)
    # Nothing crosses: the link does not matter.
    assert CutPoint(ALL_HERE, 0.030, 0.0, 0).total_s(9.0, 9.0) == 0.030


def test_what_is_never_the_best_is_left_out_and_nothing_else_matters():
    generator = random.Random(7)
    for _ in range(50):
        points = [
            CutPoint(str(number), generator.random(), generator.random(), size)
            for number, size in enumerate(generator.sample(range(1, 1000), 6))
        ]
        front = unbeaten(points)
        for _ in range(100):
            turn_s = generator.random()
            byte_s = 10 ** generator.uniform(-6, 0)
            best = best_cut(points, turn_s, byte_s)
            assert best_cut(front, turn_s, byte_s) == best
    assert [point.name for point in unbeaten(POINTS)] == [ALL_THERE, "conv", ALL_HERE]
