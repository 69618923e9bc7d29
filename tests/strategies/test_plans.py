"""Plans of rounds: schedules, and what a strategy may ask."""

import pytest

from fedlearn.config import Experiment
from fedlearn.strategies.plans import learning_rate, plan


def rates(rounds=5, **train):
    section = Experiment.model_validate({"train": train}).train
    return [round(learning_rate(section, r, rounds), 6) for r in range(1, rounds + 1)]


@pytest.mark.parametrize(
    ("train", "wanted"),
    [
        ({"lr": 0.4}, [0.4] * 5),
        ({"lr": 0.4, "warmup_rounds": 3}, [0.1, 0.2, 0.3, 0.4, 0.4]),
        (
            {"lr": 0.4, "schedule": "step", "step_every": 2, "step_factor": 0.5},
            [0.4, 0.4, 0.2, 0.2, 0.1],
        ),
        ({"lr": 0.4, "schedule": "cosine"}, [0.4, 0.341421, 0.2, 0.058579, 0.0]),
        (
            {"lr": 0.4, "schedule": "cosine", "lr_min": 0.2, "warmup_rounds": 2},
            [0.133333, 0.266667, 0.4, 0.3, 0.2],
        ),
    ],
)
def test_schedules_by_hand(train, wanted):
    assert rates(**train) == wanted


def test_a_strategy_changes_what_it_may_and_nothing_else():
    experiment = Experiment.model_validate(
        {"train": {"clip_norm": 2.0, "epochs": 3}, "codec": {"up": "q8"}}
    )
    made = plan(
        experiment, 4, {"proximal-mu": 0.1, "seed": 99, "round": 7, "unknown": 1}
    )
    assert (
        made.round,
        made.seed,
        made.proximal_mu,
        made.clip_norm,
        made.epochs,
        made.codec,
    ) == (4, 0, 0.1, 2.0, 3, "q8")
    assert plan(experiment, 1, {"clip_norm": 0.5}).clip_norm == 0.5
