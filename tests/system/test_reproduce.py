"""`fedlearn reproduce` with its real runs: verdicts, the cache, kills, what a broken optimiser
does to a claim.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedlearn.commands.reproduce import main
from tests.jobs import CONFIG, run

ROOT = Path(__file__).parents[2]
FEDSGD = (
    (ROOT / "experiments" / "reproduce" / "fedsgd-is-sgd.toml")
    .read_text()
    .replace("ci = [0, 1, 2]", "ci = [0]")
)
HEAD = '[reproduce]\nabout = "a test"\n[seeds]\nci = [0]\n'
CLAIM = '[[claim]]\nwhat = "accuracy"\nat_least = 0.1\n'
SLOW = CONFIG.replace(
    'name = "logistic"', 'name = "tests.faults:Slow"\nseconds = 0.004'
).replace("rounds = 3", "rounds = 10")

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("at_the_root")]


@pytest.fixture
def at_the_root(monkeypatch):
    """Every run is a process that imports from where it starts."""
    monkeypatch.chdir(ROOT)


def command(tmp_path: Path, text: str, *more: str) -> list[str]:
    (tmp_path / "mine.toml").write_text(text)
    return [
        str(tmp_path / "mine.toml"),
        "--runs",
        str(tmp_path / "runs"),
        "--results",
        str(tmp_path),
        *more,
    ]


def reproduce(tmp_path: Path, text: str, *more: str) -> int:
    return main(command(tmp_path, text, *more))


def summary(tmp_path: Path, variant: str = "plain") -> dict:
    found: dict = json.loads(
        next((tmp_path / "runs").glob(f"mine.{variant}.s0.*/summary.json")).read_text()
    )
    return found


def test_fedsgd_is_gradient_descent_and_is_not_run_twice(tmp_path, monkeypatch, capsys):
    assert reproduce(tmp_path, FEDSGD, "--jobs", "2") == 0
    first = capsys.readouterr()
    assert re.search(r"mine +loss: plain − central .* holds\n", first.out)
    assert "[2/2] mine central, seed 0: done, round 1 of 1, best " in first.err
    assert "| holds |" in (tmp_path / "RESULTS.md").read_text()
    assert not list((tmp_path / "runs").glob("*/checkpoint"))
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", None)  # nothing is started
        assert reproduce(tmp_path, FEDSGD) == 0
        changed = FEDSGD.replace("at_most = 1e-5", "at_most = -1")
        assert reproduce(tmp_path, changed) == 4
    second = capsys.readouterr()
    assert "2 runs, 2 of them made before" in second.err
    assert (
        "fedlearn: mine: loss: plain − central: wanted -1e-05 to -1, got " in second.err
    )
    assert (
        second.err.count("\n") == 5
    )  # what is run, where results are; twice; and one line of what is missed


@pytest.mark.parametrize(
    "broken",
    [("strategy.weighted=false",), ("strategy.name=tests.faults:WrongSign",)],
    ids=["weights by client in place of examples", "wrong sign of momentum"],
)
def test_a_broken_optimiser_fails_a_claim(broken, tmp_path, capsys):
    sets = [word for text in broken for word in ("--set", text)]
    assert reproduce(tmp_path, FEDSGD, "--jobs", "2", "--quiet", *sets) == 4
    shown = capsys.readouterr()
    assert " missed\n" in shown.out
    assert (
        shown.err.startswith(
            "fedlearn: mine: loss: plain − central: wanted -1e-05 to +1e-05, got "
        )
        and shown.err.count("\n") == 1
    )
    assert not (tmp_path / "RESULTS.md").exists()  # of a config that is not the file's


def start(tmp_path: Path) -> subprocess.Popen[str]:
    words = [
        sys.executable,
        "-m",
        "fedlearn.commands.reproduce",
        *command(tmp_path, HEAD + SLOW + CLAIM),
    ]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )


def wait_for(tmp_path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 100
    while time.monotonic() < until and process.poll() is None:
        found = list((tmp_path / "runs").glob("*/metrics.jsonl"))
        if found and found[0].read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.01)


def test_ctrl_c_says_how_to_go_on_and_the_run_goes_on(tmp_path):
    process = start(tmp_path)
    wait_for(tmp_path, 4, process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    again = f"fedlearn reproduce {tmp_path / 'mine.toml'} --runs {tmp_path / 'runs'}"
    assert f"interrupted; to go on: {again}" in said
    assert "Traceback" not in said
    lines = next((tmp_path / "runs").glob("*/metrics.jsonl"))
    before = lines.read_text()
    assert before.count("\n") < 11  # it was stopped on its way
    assert reproduce(tmp_path, HEAD + SLOW + CLAIM) == 0
    assert lines.read_text().startswith("".join(before.splitlines(True)[:3]))
    assert (
        summary(tmp_path)["model_sha256"] == run(tmp_path / "whole", config=SLOW).sha256
    )


def test_a_command_that_is_killed_while_its_run_lives_on_ends_alike(tmp_path):
    process = start(tmp_path)
    wait_for(tmp_path, 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert process.stdout is not None
    process.stdout.close()
    assert reproduce(tmp_path, HEAD + SLOW + CLAIM) == 0
    assert (
        summary(tmp_path)["model_sha256"] == run(tmp_path / "whole", config=SLOW).sha256
    )


def test_a_run_that_fails_fails_its_claims_and_a_wrong_input_ends_all(tmp_path, capsys):
    fails = (
        '[variant.lost]\nmodel = { name = "tests.faults:LosesItself" }\n'
        + CLAIM.replace("at_least", 'of = "lost"\nat_least')
    )
    assert reproduce(tmp_path, HEAD + CONFIG + fails + CLAIM, "--jobs", "2") == 4
    shown = capsys.readouterr()
    assert (
        "a run failed (lost, seed 0: the final model's loss on held-out samples is not finite"
        in shown.out
    )
    assert shown.out.count(" holds\n") == 1
    wrong = (
        HEAD
        + CONFIG.replace('name = "digits"', 'name = "tests.wrong:nan_data"')
        + CLAIM
    )
    assert reproduce(tmp_path, wrong) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(
        "fedlearn: mine plain, seed 0: tests.wrong:nan_data: x_train[3] holds NaN"
    )


def test_a_fleet_twin(tmp_path, capsys):
    config = CONFIG.replace("clients = 12", "clients = 2").replace(
        "fraction_train = 0.5", "fraction_train = 1.0"
    )
    claim = '[[claim]]\nwhat = "hash"\nof = "fleet"\nsame_as = "plain"\n'
    twin = f"[variant.fleet]\nagents = 2\n{claim}"
    assert reproduce(tmp_path, HEAD + config + twin) == 0
    assert (
        summary(tmp_path, "fleet")["engine"] == "fleet"
        and summary(tmp_path)["engine"] == "pool"
    )
    assert " = plain " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such"], "no file 'no-such', and no claims of that name."),
        (["default", "--jobs", "0"], "--jobs 0: at least 1"),
        (["default", "--fresh", "--stale"], "give one of them"),
        (
            ["default", "--set", "train.lrr=1"],
            "--set train.lrr=1: unknown key 'train.lrr'. Did you mean 'lr'?",
        ),
        (
            ["default", "--set", "model.name=cn"],
            "model.name: unknown name 'cn'. Did you mean 'cnn'?",
        ),
        (
            ["mnist-2nn-iid"],
            "not on this machine: mnist; run 'fedlearn data fetch mnist', or add --fetch",
        ),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("FEDLEARN_DATA", str(tmp_path))
    assert (
        main([*arguments, "--runs", str(tmp_path / "runs"), "--results", str(tmp_path)])
        == 2
    )
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_two_files_of_one_name_are_refused(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.toml").write_text(
        HEAD + CONFIG.replace("lr = 0.5", "lr = 0.1") + CLAIM
    )
    assert (
        main(
            [
                str(tmp_path / "other" / "mine.toml"),
                *command(tmp_path, HEAD + CONFIG + CLAIM),
            ]
        )
        == 2
    )
    assert "two of the files are called mine" in capsys.readouterr().err


def test_a_tier_that_a_name_is_not_in_and_the_list(tmp_path, capsys):
    late = (HEAD + CONFIG + CLAIM).replace("ci = [0]", "release = [0]")
    assert reproduce(tmp_path, late, "--tier", "nightly") == 2
    assert (
        "tier nightly has no seeds of it; its shortest tier is release: --tier release"
        in capsys.readouterr().err
    )
    assert main(["--list"]) == 0
    assert "mnist-2nn-iid  (ci [0, 1, 2])" in capsys.readouterr().out
