"""A thousand worlds in which everything goes wrong that can, and both ends come to the
one right result.
"""

from collections import Counter

import pytest

from tests.exchange.world import COUNTERS, SOMETIMES, World

SEEDS = 1000


@pytest.mark.timeout(600)  # 20 s of one idle core
def test_a_thousand_worlds_end_well_and_each_fault_happened():
    happened: Counter[str] = Counter()
    for seed in range(SEEDS):
        try:
            happened += World(seed).run()
        except Exception as error:
            raise AssertionError(
                f"python -m tests.exchange.world --seed {seed} --trace"
            ) from error
    missing = [
        name
        for name in (*SOMETIMES, *(f"counter {name}" for name in COUNTERS))
        if not happened[name]
    ]
    assert not missing


def test_a_seed_is_one_world():
    first: list[str] = []
    second: list[str] = []
    assert World(7, first.append).run() == World(7, second.append).run()
    assert first == second and len(first) > 10
