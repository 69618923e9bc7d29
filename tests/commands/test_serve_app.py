"""The command ``fedlearn serve APP``: a mistake is one line, before flwr is imported."""

import subprocess
import sys

import pytest

from fedlearn.commands.serve import main
from tests.apps.plain import SAMPLES

REGRESSION = str(SAMPLES / "regression")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([REGRESSION], "make an authority with 'fedlearn pki init'"),
        ([str(SAMPLES)], "has no pyproject.toml; give the folder of a Flower app"),
        ([REGRESSION, "--nodes", "0"], "--nodes 0 is not from 1 to"),
        ([REGRESSION, "--run-config", "penalti=1"], "Did you mean 'penalty'?"),
        (
            [REGRESSION, "--set", "train.lr=1"],
            "knows codec.up, codec.down, codec.first",
        ),
        ([REGRESSION, "--resume"], "--resume: name the run's folder with --out"),
        ([REGRESSION, "--out", ""], "--out is empty"),
        (
            [REGRESSION, "--deadline-s", "0"],
            "--deadline-s 0: a number of seconds above",
        ),
        (
            [REGRESSION, "--answer-megabytes", "0"],
            "--answer-megabytes 0: a number from",
        ),
        (
            [REGRESSION, "--resume", "--out", "x", "--without", "1/2"],
            "--without is of experiments",
        ),
        (
            ["default", "--federation-config", "num-supernodes=3"],
            "--federation-config is of a Flower app",
        ),
        (["default", "--nodes", "3"], "--nodes is of a Flower app, fedlearn serve APP"),
        (["default", "--deadline-s", "3"], "--deadline-s is of a Flower app"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The first is refused because nothing says how agents are known.
    way = [] if arguments == [REGRESSION] else ["--insecure"]
    assert main([*arguments, *way]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_more_local_agents_than_nodes_are_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([REGRESSION, "--local-agents", "4"]) == 2
    assert "--local-agents 4: the app has 3 nodes" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_arguments_are_checked_before_flwr_is_imported():
    code = (
        "import sys\nfrom fedlearn.commands.serve import main\n"
        f"main([{REGRESSION!r}, '--insecure', '--run-config', 'penalti=1'])\n"
        "print('LOADED', {'torch', 'flwr', 'matplotlib'} & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert ended.stdout.splitlines()[-1] == "LOADED set()"
