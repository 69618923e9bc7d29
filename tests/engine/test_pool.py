"""The pool survives what kills its workers."""

import pytest

from tests.jobs import CONFIG, run

# 1,438 samples in 12 equal parts: ten clients of 120 and two of 119, whose last batch has 9 samples.
EQUAL = CONFIG.replace('"dirichlet"', '"iid"').replace("alpha = 1.0\n", "").replace("fraction_train = 0.5", "fraction_train = 1.0")
KILLS = EQUAL.replace('name = "logistic"', 'name = "tests.faults:Kills"\nsize = 9\ncounter = "{counter}"\ntimes = {times}')


@pytest.fixture
def deadly(tmp_path):
    def deadly(times: int) -> str:
        (tmp_path / "counter").write_bytes(b"")
        return KILLS.format(counter=tmp_path / "counter", times=times)

    return deadly


def test_a_worker_killed_by_chance_changes_nothing(deadly, tmp_path):
    calm = run(tmp_path / "calm", config=deadly(0), engine="pool")
    hit = run(tmp_path / "hit", config=deadly(1), engine="pool")
    assert (tmp_path / "counter").read_bytes() == b"x"
    assert hit.sha256 == calm.sha256
    assert sum(line["failed"] for line in hit.lines) == 0


def test_a_client_that_kills_its_worker_is_recorded_and_the_round_goes_on(deadly, tmp_path):
    ran = run(tmp_path / "run", config=deadly(10_000), engine="pool")
    assert ran.code == 0
    reasons = [reason for line in ran.lines for reason in line["failures"].values()]
    assert len(reasons) == 2 * 3
    assert all("killed by SIGKILL twice (out of memory?" in reason for reason in reasons)


def test_evaluation_that_kills_workers_is_an_error_not_a_loop(tmp_path, capsys):
    config = CONFIG.replace('name = "logistic"', 'name = "tests.engine.test_pool:DiesInEvaluation"')
    ran = run(tmp_path / "run", config=config, engine="pool")
    assert ran.code == 3
    assert "evaluation of held-out samples failed: its worker process was ended with code 7 twice" in capsys.readouterr().err


def DiesInEvaluation(input_shape, classes):  # a factory, named as the class it stands for
    import os

    from torch import nn

    class Dies(nn.Linear):
        def forward(self, x):
            if not self.training and len(x) > 2:
                os._exit(7)
            return super().forward(x.flatten(1))

    return Dies(64, classes)
