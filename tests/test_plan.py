"""Plans travel as one line of text."""

import pytest

from fedlearn.errors import FormatError
from fedlearn.plan import Plan


def test_round_trip():
    plan = Plan(round=3, seed=2**62, lr=0.05, nesterov=True, augment="flip")
    assert Plan.from_json(plan.to_json()) == plan


def test_what_a_plan_asks_for_is_called_task_in_its_text_as_in_the_first_release():
    text = Plan(round=3, seed=2, answer="gradient").to_json()
    assert text.startswith('{"round":3,"seed":2,"task":"gradient","epochs":1,')
    assert Plan.from_json(text).answer == "gradient"
    with pytest.raises(FormatError, match="not a plan: 'task' is 5, not str"):
        Plan.from_json('{"round":1,"seed":0,"task":5}')


def test_agents_that_do_not_know_stragglers_can_read_plans_without_any():
    assert "straggler" not in Plan(round=3, seed=2).to_json()
    plan = Plan(round=3, seed=2, stragglers=0.5, straggler_work="none")
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"round":1}',
        '{"round":1,"seed":0,"x":1}',
        '{"round":"1","seed":0}',
        '{"round":1,"seed":0,"lr":true}',
        '{"round":1,"seed":0,"answer":"update"}',
    ],
)
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(FormatError, match="not a plan"):
        Plan.from_json(text)
