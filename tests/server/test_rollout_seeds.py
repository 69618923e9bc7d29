"""The command of many worlds: what it says depends on the seeds alone, and it tells a fault."""

import pytest

from tests.server import rollout_seeds
from tests.server.rollout_seeds import Lives


def lived(jobs, mutant=""):
    lives = Lives()
    for part in rollout_seeds.live_in_processes(range(12), mutant, jobs, chunk=5):
        lives.add(part)
    return lives


def test_processes_change_nothing():
    alone = lived(jobs=1, mutant="early")
    assert alone.worlds == 12
    assert alone.faults
    assert lived(jobs=2, mutant="early") == alone


def test_a_world_that_breaks_is_named_and_repeated(capsys):
    arguments = ["20", "--mutant", "early", "--jobs", "1"]
    assert rollout_seeds.main(arguments) == 1
    output = capsys.readouterr().out
    assert "20 worlds in" in output
    seed = output.split(":")[0].removeprefix("seed ")
    assert rollout_seeds.main(["--seed", seed, "--mutant", "early", "--trace"]) == 1
    assert f"seed {seed}: I5" in capsys.readouterr().out


def test_worlds_that_hold_give_no_error(capsys):
    assert rollout_seeds.main(["3", "5", "--jobs", "1"]) == 0
    assert "2 worlds in" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["5", "3"], ["1", "2", "3"], ["--trace"]])
def test_seeds_that_are_none_are_refused(words):
    with pytest.raises(SystemExit):
        rollout_seeds.main(words)
