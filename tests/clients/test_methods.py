"""Client methods: a number in the plan turns one on, and what nobody knows is refused."""

import pytest
import torch

from fedlearn.arrays import Layout
from fedlearn.clients.methods import METHODS, methods_of
from fedlearn.clients.methods.proximal import Proximal
from fedlearn.errors import ClientError, FormatError
from fedlearn.plan import Plan
from fedlearn.strategies.plans import plan as plan_of
from tests.jobs import run, strategy


def test_a_plan_without_numbers_has_no_methods():
    plan = Plan(1, 0)
    assert methods_of(plan, []) == []
    assert "methods" not in plan.to_json()


def test_fedprox_is_a_method_under_either_name():
    weights = [torch.tensor([1.0, 2.0])]
    for plan in (Plan(1, 0, proximal_mu=0.5), Plan(1, 0, methods={"proximal_mu": 0.5})):
        (method,) = methods_of(plan, weights)
        assert isinstance(method, Proximal)
        gradients = [torch.tensor([0.0, 1.0])]
        method.bend(gradients, [torch.tensor([3.0, 2.0])])
        # 0.5 * (3 - 1) on the first weight, nothing on the one that did not move.
        assert gradients[0].tolist() == [1.0, 1.0]


def test_a_method_that_is_not_here_is_named():
    with pytest.raises(ClientError, match=r"'proximal_m'.*Did you mean 'proximal_mu'"):
        methods_of(Plan(1, 0, methods={"proximal_m": 0.1}), [])


def test_numbers_travel_in_the_plans_text():
    plan = Plan(3, 0, methods={"trim": 0.25})
    assert Plan.from_json(plan.to_json()) == plan
    for wrong in ('{"trim": "much"}', '["trim"]', '{"trim": true}'):
        text = f'{{"round": 1, "seed": 0, "methods": {wrong}}}'
        with pytest.raises(FormatError, match="methods"):
            Plan.from_json(text)


def test_a_table_of_the_strategy_turns_a_method_on(tmp_path):
    fedprox = run(tmp_path / "a", config=strategy("fedprox", proximal_mu=0.5))
    table = run(
        tmp_path / "b", config=strategy("fedavg", methods="{ proximal_mu = 0.5 }")
    )
    plain = run(tmp_path / "c", config=strategy("fedavg"))
    assert fedprox.sha256 == table.sha256 != plain.sha256


@pytest.mark.parametrize(
    ("name", "methods", "words"),
    [
        ("fedavg", "{ proximal = 1 }", "Did you mean 'proximal_mu'?"),
        ("fedavg", '{ proximal_mu = "1" }', "is not a number"),
        ("fedavg", "3", "write a table"),
        ("minibatch-sgd", "{ proximal_mu = 1 }", "take none"),
    ],
)
def test_wrong_methods_are_one_line(name, methods, words, tmp_path, capsys):
    assert run(tmp_path / "run", config=strategy(name, methods=methods)).code == 2
    assert words in capsys.readouterr().err


def test_other_methods_are_trained_one_client_at_a_time():
    from fedlearn.engine.stacked.stack import NotStackable
    from fedlearn.engine.stacked.train import check

    with pytest.raises(NotStackable, match="trim"):
        check(Layout(()), Plan(1, 0, methods={"trim": 1.0}), [])


def test_every_method_has_a_file_and_a_sentence():
    for name, named in METHODS.items():
        assert named.path.startswith("fedlearn.clients.methods."), name
        assert len(named.about) > 20


def test_the_plan_takes_numbers_from_a_strategys_config():
    from fedlearn import config

    experiment = config.validate({}, "here")
    plan = plan_of(experiment, 1, {"method.trim": 0.5, "method.proximal_mu": 0.1})
    assert plan.methods == {"trim": 0.5}
    assert plan.proximal_mu == 0.1
