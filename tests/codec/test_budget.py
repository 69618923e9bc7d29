"""The budget: kept, and spent where it takes most error away."""

from itertools import product

import numpy as np
import pytest

from fedlearn.codec import budget
from fedlearn.codec.groups import GRADES

COSTS = np.array([1 - grade.capture for grade in GRADES])


def price(grade: int, block: int) -> int:
    return GRADES[grade].bits(block) + (budget.SCALE_BITS if grade else 0)


@pytest.mark.parametrize("bits", [0, 100, 1000, 5000, 20_000])
def test_never_more_than_the_budget_and_nearly_all_of_it(bits):
    energies = np.exp(np.random.default_rng(0).normal(size=20))
    grades, _ = budget.spend(energies, 1024, bits, COSTS)
    spent = sum(price(g, 1024) for g in grades)
    cheapest = price(budget.hull(1024, COSTS)[1], 1024)
    assert spent <= bits
    assert bits - spent < max(
        700, cheapest
    )  # at most the largest step of one block is left


def test_as_good_as_trying_everything():
    energies, block, bits = np.array([9.0, 1.0, 0.2]), 1024, 1200
    grades, _ = budget.spend(energies, block, bits, COSTS)
    choices = [g for g in range(len(GRADES)) if GRADES[g].group <= block]
    fitting = [
        c for c in product(choices, repeat=3) if sum(price(g, block) for g in c) <= bits
    ]
    best = min(float(energies @ COSTS[list(c)]) for c in fitting)
    assert float(energies @ COSTS[grades]) <= 1.03 * best


def test_blocks_without_energy_cost_nothing():
    grades, _ = budget.spend(np.array([0.0, 1.0, 0.0]), 4096, 10_000, COSTS)
    assert grades[0] == grades[2] == 0 < grades[1]
    grades, gain = budget.spend(np.zeros(3), 4096, 10_000, COSTS)
    assert not grades.any() and np.isinf(gain)
    assert budget.spend(np.empty(0), 1024, 100, COSTS)[0].shape == (0,)


@pytest.mark.parametrize("block", [1024, 4096])
def test_the_hull_is_falling_and_convex(block):
    steps = budget.hull(block, COSTS)
    prices, costs = np.array([price(g, block) for g in steps]), COSTS[steps]
    slopes = np.diff(costs) / np.diff(prices)
    assert (
        (np.diff(prices) > 0).all()
        and (slopes < 0).all()
        and (np.diff(slopes) > 0).all()
    )
    assert all(GRADES[g].group <= block for g in steps)
