"""A thousand worlds in which everything goes wrong that can, and both ends come to the
one right result.
"""

from collections import Counter

import pytest

from tests.exchange import trust
from tests.exchange.world import COUNTERS, SOMETIMES, make

SEEDS = 1000


@pytest.mark.timeout(600)  # 20 s of one idle core
def test_a_thousand_worlds_end_well_and_each_fault_happened():
    happened: Counter[str] = Counter()
    for seed in range(SEEDS):
        try:
            happened += make(seed).run()
        except Exception as error:
            raise AssertionError(
                f"python -m tests.exchange.world --seed {seed} --trace"
            ) from error
    missing = [
        name
        for name in (
            *SOMETIMES,
            *trust.SOMETIMES,
            *(f"counter {name}" for name in COUNTERS),
        )
        if not happened[name]
    ]
    assert not missing


@pytest.mark.parametrize("seed", [7, 15])  # the second has an authority
def test_a_seed_is_one_world(seed):
    first: list[str] = []
    second: list[str] = []
    assert make(seed, first.append).run() == make(seed, second.append).run()
    assert first == second and len(first) > 10
