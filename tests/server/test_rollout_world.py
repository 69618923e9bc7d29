"""Rollouts in simulated worlds: the invariants hold, and mistakes of the field break them."""

from collections import Counter

import pytest

from tests.server.rollout_world import MUTANTS, SOMETIMES, Broken, World

SEEDS = 1000
QUARTERS = 4
happened: Counter[str] = Counter()


@pytest.mark.parametrize("quarter", range(QUARTERS))
def test_the_invariants_hold_in_a_thousand_worlds(quarter):
    for seed in range(quarter, SEEDS, QUARTERS):
        try:
            happened.update(World(seed).run())
        except Broken as fault:
            pytest.fail(f"seed {seed}: {fault}")


def test_a_board_that_its_full_disk_holds_is_not_settled():
    # Offline, its slot rotten, and the record without it not on the disk yet.
    World(76576).run()


def test_everything_that_can_go_wrong_went_wrong_somewhere():
    # Of the worlds above, or of as many of them as ran in this process.
    for seed in range(0 if happened else 300):
        happened.update(World(seed).run())
    assert {name for name in SOMETIMES if not happened[name]} == set()


@pytest.mark.parametrize(
    ("mutant", "invariant"),
    [
        ("verify", "I1"),
        ("golden", "I3"),
        ("early", "I5"),
        ("boots", "I8"),
        ("compare", "I10"),
        ("timeout", "I6"),
    ],
)
def test_a_mistake_is_seen_within_200_seeds(mutant, invariant):
    # One mistake may break others as well, and earlier.
    broken = set()
    for seed in range(200):
        try:
            World(seed, mutant).run()
        except Broken as fault:
            broken.add(str(fault).split()[0])
        if invariant in broken:
            return
    pytest.fail(f"{mutant} broke {sorted(broken)} and never {invariant}")


def test_every_mutant_has_its_invariant():
    assert len(MUTANTS) - 1 == 6
