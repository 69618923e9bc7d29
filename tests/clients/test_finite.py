"""What is not finite, and where that comes from: a rate is blamed where it can be at fault."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlearn.clients.finite import check_finite
from fedlearn.errors import ClientError
from fedlearn.plan import Plan
from tests.jobs import CONFIG, run

PLAN = Plan(round=1, seed=0)
NAN = float("nan")
INF = float("inf")


def reason(losses, floats=(0.0, NAN), plan=PLAN) -> str:
    with pytest.raises(ClientError) as caught:
        check_finite(6, plan, torch.tensor(losses), np.array(floats, np.float32))
    return str(caught.value)


def test_what_is_finite_passes():
    check_finite(6, PLAN, torch.tensor([0.5, 9.0]), np.zeros(3, np.float32))


def test_a_first_loss_that_is_not_finite_is_no_matter_of_the_rate():
    text = reason([NAN, NAN])
    assert text.startswith("client 6: its loss is nan in round 1 before its first step")
    assert "std() of one sample" in text
    assert "train.lr" not in text
    assert "bfloat16" in reason([INF], plan=replace(PLAN, precision="float16"))
    # In a later round the model that was sent may have diverged.
    assert "if earlier losses grew" in reason([NAN], plan=replace(PLAN, round=4))


def test_losses_that_grow_are_a_matter_of_the_rate_alone():
    text = reason([2.0, 50.0, 9000.0, INF])
    assert text == (
        "client 6 diverged in round 1: its loss became inf; "
        "lower train.lr or set train.clip_norm"
    )


def test_a_sudden_loss_may_be_either():
    text = reason([2.0, 1.5, 1.9, NAN])
    assert "lower train.lr" in text
    assert "look in the model" in text


def test_a_gradient_that_is_not_finite_is_told_apart():
    text = reason([0.7])
    assert "its update is not finite in round 1 though its loss is 0.7" in text
    assert "square root at 0" in text


def test_a_model_that_divides_by_a_std_of_one_sample_is_not_told_to_learn_slower(
    tmp_path, capsys
):
    config = CONFIG.replace('"logistic"', '"tests.wrong:Standardises"')
    ran = run(tmp_path / "run", "train.batch_size=1", config=config)
    assert ran.code == 3
    error = capsys.readouterr().err
    assert "std() of one sample" in error
    assert "train.lr" not in error
