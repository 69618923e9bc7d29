"""What a trial is judged by, with numbers that can be checked by hand."""

from typing import Any

import pytest

from fedlearn.errors import ConfigError
from fedlearn.tuning.objectives import (
    Objectives,
    front,
    parse_objectives,
    trial_curve,
    trial_figures,
)

ACCURACIES = (0.1, 0.5, 0.4, 0.9)
LINES: list[Any] = [
    {
        "round": r,
        "accuracy": a,
        "bytes_up": 10 * bool(r),
        "bytes_down": 30 * bool(r),
        "seconds": 2.0 * bool(r),
    }
    for r, a in enumerate(ACCURACIES)
]


def test_figures_to_a_target_are_interpolated_on_the_best_so_far():
    found = trial_figures(
        LINES, 0.7
    )  # half way from 0.5, the best until round 2, to 0.9 at round 3
    assert (found.rounds, found.accuracy, found.bytes, found.time) == (3, 0.9, 120, 6)
    assert (
        found.rounds_to_target,
        found.bytes_to_target,
        found.time_to_target,
    ) == pytest.approx((2.5, 100, 5))
    assert trial_curve(LINES) == ((0, 0.1), (1, 0.5), (2, 0.5), (3, 0.9))


def test_rounds_that_were_not_evaluated_are_left_out():
    lines = [
        line | ({"accuracy": None} if line["round"] == 2 else {}) for line in LINES
    ]
    assert trial_curve(lines) == ((0, 0.1), (1, 0.5), (3, 0.9))
    assert trial_figures(lines, 0.7).rounds_to_target == pytest.approx(2)


def test_scores_are_of_the_whole_run_without_a_target_and_until_it_with_one():
    assert Objectives(("accuracy", "bytes", "time")).scores(
        trial_figures(LINES, None)
    ) == [
        0.9,
        120,
        6,
    ]
    assert Objectives(("rounds", "bytes", "accuracy"), 0.7).scores(
        trial_figures(LINES, 0.7)
    ) == pytest.approx([2.5, 100, 0.9])


def test_a_trial_short_of_the_target_counts_more_than_its_run_by_what_it_lacked():
    asked = Objectives(("rounds", "bytes"), 0.99)
    near, far = trial_figures(LINES, 0.99), trial_figures(LINES[:3], 0.99)
    assert near.rounds_to_target is None
    assert asked.scores(near) == pytest.approx(
        [3 * (1 + 0.09 / 0.99), 120 * (1 + 0.09 / 0.99)]
    )
    assert asked.scores(far)[0] == pytest.approx(2 * (1 + 0.49 / 0.99))


def test_the_front_is_what_nothing_beats():
    found = {1: (0.9, 100), 2: (0.8, 50), 3: (0.8, 60), 4: (0.95, 200), 5: (0.7, 200)}
    assert front(found, ["maximize", "minimize"]) == [4, 1, 2]
    assert front({1: (3.0,), 2: (1.0,), 3: (2.0,)}, ["minimize"]) == [2]


@pytest.mark.parametrize(
    ("text", "target", "told"),
    [
        ("acuracy", None, "unknown name 'acuracy'. Did you mean 'accuracy'?"),
        ("accuracy,accuracy", None, "given twice"),
        ("rounds", None, "add --target"),
        ("bytes", None, "least where nothing is learned"),
        ("bytes,time", None, "least where nothing is learned"),
        ("accuracy", 97.0, "--target 97: give a share of 1"),
    ],
)
def test_what_cannot_be_judged_is_an_error(text, target, told):
    with pytest.raises(ConfigError, match=told):
        parse_objectives(text, target)


def test_defaults():
    assert parse_objectives(None, None) == Objectives(
        ("accuracy",)
    ) and parse_objectives(None, 0.9) == Objectives(("rounds",), 0.9)
    assert (
        parse_objectives("bytes", 0.9).stops
        and not parse_objectives("accuracy,bytes", 0.9).stops
        and not parse_objectives(None, None).stops
    )
    assert (
        parse_objectives(None, 0.9).comparable
        and not parse_objectives("bytes", 0.9).comparable
    )
