"""When a trial is given up, on curves that can be checked by hand."""

from fedlearn.tuning.pruning import RULES, PastTrial, accuracy_by, halving, median


def straight(slope: float, rounds: int = 9) -> tuple[tuple[int, float], ...]:
    return tuple((r, slope * r) for r in range(rounds + 1))


PAST = tuple(
    PastTrial(straight(slope), True) for slope in (0.01, 0.02, 0.03, 0.04, 0.05)
)


def test_a_trial_that_ended_keeps_its_best_and_one_given_up_has_none_later():
    # It had reached its target.
    assert accuracy_by(PastTrial(straight(0.1, 3), True), 5) == 0.1 * 3
    assert accuracy_by(PastTrial(straight(0.1, 3), False), 5) is None
    assert accuracy_by(PastTrial(straight(0.1, 3), False), 2) == 0.2
    # Round 3 was not evaluated.
    assert accuracy_by(PastTrial(((0, 0.1), (4, 0.5)), True), 3) == 0.1


def test_median_gives_up_what_is_behind_half():
    assert (
        median(straight(0.02, 3), PAST, 9)
        == "6.00 % at round 3, below the median of 5 trials, 9.00 %"
    )
    assert median(straight(0.03, 3), PAST, 9) == ""
    assert median(straight(0.02, 2), PAST, 9) == "", "before a quarter of the rounds"
    assert median(straight(0.02, 3), PAST[:4], 9) == "", "four trials are too few"
    assert (
        median(straight(0.02, 3), (*PAST[:4], PastTrial(straight(0.05, 2), False)), 9)
        == ""
    ), "the fifth did not come as far"


def test_halving_lets_a_third_go_on_and_asks_at_rungs_only():
    assert halving(straight(0.045, 1), PAST, 9) == "", (
        "one of five is ahead, of which two may go on"
    )
    assert (
        halving(straight(0.03, 1), PAST, 9) == "3.00 % at round 1, behind 2 of 5 trials"
    )
    assert halving(straight(0.03, 2), PAST, 9) == "", "rungs of 9 rounds are 1 and 3"
    assert halving(straight(0.03, 3), PAST, 9).startswith("9.00 % at round 3")
    assert halving(((0, 0.0), (5, 0.01)), PAST, 9).startswith("1.00 % at round 5"), (
        "the first evaluation after a rung"
    )
    assert halving(straight(0.001, 1), PAST[:1], 9) == "", "one trial is too few"


def test_none_gives_nothing_up():
    assert RULES["none"](straight(0.0, 5), PAST, 9) == ""
