"""Plans of rounds: schedules, and what a strategy may ask."""

import re

import pytest

from fedlearn.config import Experiment
from fedlearn.errors import RunError
from fedlearn.strategies.plans import learning_rate, plan, unread


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
    request = {"proximal-mu": 0.1, "seed": 99, "round": 7, "unknown": 1}
    changed = plan(experiment, 4, request)
    assert (changed.round, changed.seed, changed.codec) == (4, 0, "q8")
    assert (changed.proximal_mu, changed.clip_norm, changed.epochs) == (0.1, 2.0, 3)
    assert plan(experiment, 1, {"clip_norm": 0.5}).clip_norm == 0.5
    assert unread({**request, "server-round": 4, "method.trim": 1.0}) == [
        "seed",
        "round",
        "unknown",
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 4),
        ("steps", 7),
        ("batch-size", 0),
        ("momentum", 0.5),
        ("weight_decay", 0.01),
        ("label-smoothing", 0.1),
        ("accumulate", 2),
        ("lr", 0.0),
    ],
)
def test_a_strategys_setting_is_the_clients(key, value):
    changed = plan(Experiment.model_validate({}), 2, {key: value})
    assert getattr(changed, key.replace("-", "_")) == value
    assert unread({key: value}) == []


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"epochs": 0}, "epochs = 0: Input should be greater than or equal to 1"),
        ({"batch_size": 2.5}, "batch_size = 2.5: Input should be a valid integer"),
        ({"momentum": float("nan")}, "momentum = nan: Input should be a finite number"),
        ({"nesterov": True}, "nesterov = True: Value error, nesterov = true needs mom"),
        ({"lr": "fast"}, "lr = 'fast': it is a number, at least 0"),
        ({"proximal-mu": -1.0}, "proximal-mu = -1.0: it is a number, at least 0"),
        (
            {"augment": "flip"},
            "augment = 'flip', which no strategy can change; set tra",
        ),
    ],
)
def test_a_setting_that_no_client_could_follow_is_refused_by_name(request_, message):
    with pytest.raises(RunError, match=re.escape(message)):
        plan(Experiment.model_validate({}), 1, request_)
