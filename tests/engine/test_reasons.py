"""Why a client failed: one line of some length in the record, whoever ran it."""

import pytest

from fedlearn.commands.simulate import main
from tests.engine.test_pool import EQUAL
from tests.jobs import run

FAILS = EQUAL.replace('"logistic"', '"tests.wrong:FailsAtLength"')


@pytest.mark.parametrize("engine", ["serial", "pool", "stacked"])
def test_a_reason_of_many_lines_is_one(engine, tmp_path):
    ran = run(tmp_path / "run", "experiment.rounds=1", config=FAILS, engine=engine)
    assert ran.code == 0
    reasons = list(ran.lines[1]["failures"].values())
    assert len(reasons) == 2
    for reason in reasons:
        assert reason.startswith(r"ValueError: \x1b[31mlayer 0")
        assert reason.endswith("the cause")
        assert len(reason) == 500
        assert reason.isprintable()


def test_a_warning_is_one_line(tmp_path, capsys):
    config = FAILS.replace("[train]", "[train]\nbatch_size = 9")
    (tmp_path / "c.toml").write_text(config)
    code = main([str(tmp_path / "c.toml"), "--out", str(tmp_path / "run")])
    told = capsys.readouterr()
    assert code == 3
    warnings = [line for line in told.out.splitlines() if "usable update" in line]
    assert len(warnings) == 2
    assert all(line.startswith("warning: round 1") for line in warnings)
    assert "\x1b" not in told.out + told.err
    assert len(told.err.splitlines()) == 1
