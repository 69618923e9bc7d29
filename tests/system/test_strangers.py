"""A coordinator under strangers: the benchmark's attack in short form, without its clock."""

import pytest

from fedlearn.experiments.benchmarks.strangers import (
    Attack,
    StrangersResult,
    measure,
)

ATTACK = Attack(connections=1500, guessers=32, boards=5, agents=2, seconds=3.0)


@pytest.mark.timeout(240)
def test_strangers_end_no_run_and_keep_no_board_out():
    # Raises when a round fails or an answer is not what was sent.
    result = measure(ATTACK)
    assert result.opened == 1500 and result.guesses > 0 and result.rounds > 0
    assert (result.enrolled, result.reasons) == (5, ())


def test_the_verdict_names_what_does_not_hold():
    sound = StrangersResult(200.0, 299.0, 9, 1500, 80, 5, ())
    assert sound.verdict(ATTACK) is None
    slow = StrangersResult(200.0, 301.0, 9, 1500, 80, 5, ())
    assert "1.5 times the undisturbed time" in str(slow.verdict(ATTACK))
    shut = StrangersResult(200.0, 200.0, 9, 1500, 80, 3, ("no", "no"))
    assert "3 of 5 boards enrolled" in str(shut.verdict(ATTACK))
