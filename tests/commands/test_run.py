"""The command ``fedlearn run``: what is wrong with its arguments is one line, before flwr."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedlearn.commands.run import main

SAMPLES = Path(__file__).parents[1] / "apps" / "samples"
REGRESSION = str(SAMPLES / "regression")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the folder of a Flower app: fedlearn run APP"),
        (["no-such-folder"], "there is no folder 'no-such-folder'"),
        ([str(SAMPLES)], "has no pyproject.toml; give the folder of a Flower app"),
        ([REGRESSION, "--nodes", "0"], "--nodes 0 is not from 1 to"),
        ([REGRESSION, "--workers", "-1"], "--workers -1 is not from 0 to"),
        ([REGRESSION, "--run-config", "penalti=1"], "Did you mean 'penalty'?"),
        (
            [REGRESSION, "--set", "train.lr=1"],
            "knows codec.up, codec.down, codec.first, engine",
        ),
        (
            [REGRESSION, "--set", "codec.first=q8"],
            "codec.first = 'q8' needs codec.down",
        ),
        (
            [REGRESSION, "--set", "engine.client_timeout_s=soon"],
            "engine.client_timeout_s = 'soon' is no number of seconds",
        ),
        (
            [REGRESSION, "--federation-config", "num-supernode=3"],
            "Did you mean 'num-supernodes'?",
        ),
        (
            [REGRESSION, "--federation-config", "num-supernodes=2.5"],
            "num-supernodes = 2.5 is no whole number",
        ),
        (
            [REGRESSION, "--nodes", "3", "--federation-config", "num-supernodes=4"],
            "--nodes 3 and --federation-config num-supernodes=4 both say",
        ),
        ([REGRESSION, "--resume"], "--resume: name the run's folder with --out"),
        ([REGRESSION, "--out", ""], "--out is empty"),
        (["--resume", "--out", "nowhere"], "holds no run of an app"),
        (
            ["--resume", "--out", "x", "--seed", "1"],
            "--seed: a run that goes on has it",
        ),
        (
            [REGRESSION, "--node-config", "no.toml"],
            "--node-config no.toml: No such file",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_arguments_are_checked_before_flwr_is_imported():
    code = (
        "import sys\nfrom fedlearn.commands.run import main\n"
        f"main([{REGRESSION!r}, '--run-config', 'penalti=1'])\n"
        "print('LOADED', {'torch', 'flwr', 'matplotlib'} & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert ended.stdout.splitlines()[-1] == "LOADED set()"


def test_a_run_shows_its_rounds_and_its_end(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--run-config", "num-server-rounds=2", "--nodes", "2", "--out", str(out)]
    assert main([REGRESSION, *options]) == 0
    shown = capsys.readouterr().out
    assert "regression: 2 nodes" in shown
    assert "round   2" in shown
    assert "train train_logloss" in shown
    assert f"run       {out}" in shown
    page = (out / "report.html").read_text()
    assert "test_accuracy" in page and "data:image/png" in page
