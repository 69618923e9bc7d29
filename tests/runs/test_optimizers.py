"""Whole runs with other optimisers than SGD: one result, and clear refusals."""

import pytest
import torch

from fedlearn.commands.simulate import main
from tests.jobs import CONFIG, run

ADAM = CONFIG.replace("lr = 0.5", 'optimizer = "adam"\nlr = 0.02')
OWN = CONFIG.replace("lr = 0.5", f'optimizer = "{__name__}:Own"\nlr = 0.02')


class Own(torch.optim.Adam):
    """An optimiser of a user's own."""


class Fussy(torch.optim.SGD):
    """An optimiser that cannot be built without more arguments."""

    def __init__(self, weights, lr, *, warmth):
        super().__init__(weights, lr)


def test_serial_and_pool_learn_the_same_and_stacks_nearly(tmp_path):
    serial = run(tmp_path / "serial", config=ADAM, engine="serial")
    pool = run(tmp_path / "pool", config=ADAM, engine="pool")
    assert serial.summary["model_sha256"] == pool.summary["model_sha256"]
    stacked = run(tmp_path / "stacked", config=ADAM, engine="stacked")
    assert stacked.summary["accuracy"] == pytest.approx(
        serial.summary["accuracy"], abs=0.02
    )
    sgd = run(tmp_path / "sgd", config=CONFIG, engine="serial")
    assert serial.summary["model_sha256"] != sgd.summary["model_sha256"]


def test_ones_own_is_torchs_of_the_same_rule(tmp_path):
    own = run(tmp_path / "own", config=OWN, engine="pool")
    adam = run(tmp_path / "adam", config=ADAM, engine="serial")
    assert own.summary["model_sha256"] == adam.summary["model_sha256"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            [f"train.optimizer={__name__}:Fussy"],
            "[train] optimizer 'tests.runs.test_optimizers:Fussy' cannot be built with "
            "lr = 0.5: ",
        ),
        ([f"train.optimizer={__name__}:Fuzzy"], "Fuzzy"),
        (
            ["train.optimizer=adam", "strategy.name=minibatch-sgd"],
            'leave it at "sgd", or choose fedavg',
        ),
        (
            ["train.optimizer=adam", "train.steps=1", "engine.collapse=true"],
            "train.optimizer",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_the_first_round(
    changes, told, tmp_path, capsys
):
    path = tmp_path / "mine.toml"
    path.write_text(CONFIG)
    sets = [word for change in changes for word in ("--set", change)]
    code = main([str(path), "--out", str(tmp_path / "run"), *sets])
    assert code not in (0, 4)
    assert told in capsys.readouterr().err
