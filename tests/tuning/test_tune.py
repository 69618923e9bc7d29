"""The command ``fedlearn tune``: what it leaves, what stops it, and that a kill changes nothing."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedlearn.commands import simulate
from fedlearn.commands.tune import main
from fedlearn.tuning import processes, trial
from tests.jobs import CONFIG

ROOT = Path(__file__).parents[2]
TINY = CONFIG.replace("[model]", '[engine]\nkind = "serial"\n\n[model]').replace(
    "rounds = 3", "rounds = 6"
)
GRID = ("--grid", "--search", "train.lr=log:0.01:1")
COLUMNS = (
    "trial",
    "train.lr",
    "state",
    "rounds",
    "accuracy",
    "bytes",
    "model_sha256",
    "run",
    "reason",
)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)


def tune(*arguments: str, out: str = "out") -> int:
    return main(["tiny.toml", "--out", out, *arguments])


def rows(out: str = "out") -> list[dict[str, str]]:
    """Return the recorded grid, without what the clock decides."""
    return [
        {k: row[k] for k in COLUMNS if k in row}
        for row in csv.DictReader((Path(out) / "trials.csv").read_text().splitlines())
    ]


def lines(out: str, trial: int) -> list[dict]:
    return [
        json.loads(line)
        for line in (Path(out) / f"trial-{trial:03d}" / "metrics.jsonl")
        .read_text()
        .splitlines()
    ]


def test_a_grid_needs_no_optuna_and_its_best_config_is_the_trial(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert tune(*GRID) == 0
    found = rows()
    assert [row["train.lr"] for row in found] == [
        "0.01",
        "0.0215",
        "0.0464",
        "0.1",
        "0.215",
        "0.464",
        "1.0",
    ]
    assert {row["state"] for row in found} == {"complete"}
    best = max(found, key=lambda row: float(row["accuracy"]))
    assert simulate.main(["out/best.toml", "--quiet", "--out", "again"]) == 0
    assert (
        json.loads(Path("again/summary.json").read_text())["model_sha256"]
        == best["model_sha256"]
    )
    assert {p.name for p in Path("out/plots").iterdir()} == {"values.png", "curves.png"}
    printed = capsys.readouterr().out
    assert (
        "trial 7 of 7: train.lr = 1; " in printed and "7 trials: 7 complete" in printed
    )
    assert (
        printed.splitlines()[-1]
        == f"trial {best['trial']} as a config: fedlearn simulate out/best.toml"
    )


def test_without_optuna_the_error_names_the_install_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert tune() == 2
    assert capsys.readouterr().err == (
        "fedlearn: --sampler tpe needs Optuna: pip install 'fedlearn[tune]'; "
        "--grid works without it\n"
    )
    assert not Path("out").exists()


def test_trials_have_their_own_rounds_and_the_best_config_has_its_own():
    assert tune(*GRID, "--rounds", "2", "--quiet") == 0
    assert {row["rounds"] for row in rows()} == {"2"}
    best = Path("out/best.toml").read_text()
    assert (
        "\nrounds = 6\n" in best and "# Trials had 2 rounds, the config has 6" in best
    )


def test_a_search_that_was_interrupted_ends_as_the_undisturbed_one(monkeypatch, capsys):
    pytest.importorskip("optuna")
    asked = (
        "--trials",
        "9",
        "--search",
        "train.lr=log:0.01:3",
        "--search",
        "codec.up=choice:raw32,q8",
    )
    assert tune(*asked, out="whole") == 0
    real, calls = trial.run, []

    def stops(job):
        calls.append(job)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(processes, "run", stops)
    assert tune(*asked, out="cut") == 130
    assert (
        capsys.readouterr().out.splitlines()[-1]
        == "to go on: fedlearn tune --resume --out cut"
    )
    assert len(rows("cut")) == 3
    assert main(["--resume", "--out", "cut"]) == 0
    assert rows("cut") == rows("whole") and len(calls) == 10
    assert main(["--resume", "--out", "cut", "--trials", "10"]) == 0
    assert rows("cut")[:9] == rows("whole") and len(rows("cut")) == 10


def test_a_search_that_was_killed_goes_on_inside_its_trial():
    """SIGKILL in the middle of a trial; what is resumed does not begin that trial anew."""
    asked = (
        "--grid",
        "--search",
        "train.lr=choice:0.1,0.2,0.3",
        "--set",
        "model.name=tests.faults:Slow",
        "--set",
        "train.steps=1",
        "--quiet",
    )
    assert tune(*asked, "--set", "model.seconds=0.0", out="whole") == 0
    command = [
        sys.executable,
        "-m",
        "fedlearn.commands.tune",
        "tiny.toml",
        *asked,
        "--set",
        "model.seconds=0.02",
        "--out",
        "cut",
    ]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    second = Path("cut/trial-002/metrics.jsonl")
    while child.poll() is None and not (
        second.exists() and len(second.read_text().splitlines()) > 3
    ):
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert [
        trial["state"]
        for trial in json.loads(Path("cut/trials.json").read_text())["trials"]
    ] == ["complete", "running"]
    before = lines("cut", 2)[2]
    assert main(["--resume", "--out", "cut", "--quiet"]) == 0
    assert rows("cut") == rows("whole")
    assert lines("cut", 2)[2]["seconds"] == before["seconds"], (
        "its first rounds are those of the killed process"
    )


def test_trials_at_a_time_are_the_same_trials():
    search = ("--grid", "--search", "train.lr=choice:0.1,0.2,0.3", "--quiet")
    assert tune(*search) == 0
    assert tune(*search, "--jobs", "2", out="two") == 0
    assert rows("two") == rows()


def test_a_process_that_dies_is_a_failed_trial(tmp_path):
    """Batches of one sample kill the process that trains.

    With the engine "serial" that is the trial's own.
    """
    dies = (
        "--set",
        "model.name=tests.faults:Kills",
        "--set",
        "model.size=1",
        "--set",
        f"model.counter={tmp_path / 'counter'}",
    )
    search = (
        "--grid",
        "--search",
        "model.times=choice:0,9",
        "--set",
        "train.batch_size=1",
    )
    assert tune(*search, *dies, "--jobs", "2", "--rounds", "1", "--quiet") == 0
    first, second = rows()
    assert (first["state"], second["state"], second["reason"]) == (
        "complete",
        "failed",
        "its process died (exit code -9)",
    )


def test_a_trial_that_diverges_is_a_failed_trial_with_its_reason(capsys):
    search = (
        "--grid",
        "--search",
        "strategy.server_lr=choice:1e15,1.0",
        "--search",
        "train.lr=choice:1e30,0.1",
    )
    assert (
        tune(*search, "--set", "model.name=2nn", "--set", "experiment.attempts=1") == 0
    )
    too_large, not_finite, _, fine = rows()
    assert [row["state"] for row in rows()] == [
        "failed",
        "failed",
        "failed",
        "complete",
    ] and fine["reason"] == ""
    assert "diverged" in too_large["reason"]
    assert not_finite["reason"] == "diverged: the loss is not finite at round 1"
    assert f"failed: {not_finite['reason']}" in capsys.readouterr().out


def test_a_search_of_which_nothing_succeeds_is_an_error(capsys):
    assert (
        tune(
            "--grid",
            "--search",
            "train.lr=choice:1e30,1e31",
            "--set",
            "experiment.attempts=1",
            "--quiet",
        )
        == 3
    )
    assert capsys.readouterr().err.startswith(
        "fedlearn: no trial of 2 succeeded; the last: round 1 learned nothing in 1 attempts"
    )
    assert [row["state"] for row in rows()] == ["failed", "failed"]


def test_a_wrong_value_among_right_ones_is_a_failed_trial_and_a_wrong_config_is_the_end(
    capsys,
):
    assert (
        tune("--grid", "--search", "data.partition.alpha=choice:1.0,-1.0", "--quiet")
        == 0
    )
    assert "alpha = -1" in rows()[1]["reason"]
    assert tune(*GRID, "--set", "data.partition.alpha=-1", "--quiet", out="wrong") == 2
    assert "alpha = -1" in capsys.readouterr().err
    assert not Path("wrong").exists()


def test_a_pruned_trial_is_a_run_that_can_go_on():
    """Six learning rates, the last of which is far behind: it stops at round 2 of 6."""
    search = (
        "--grid",
        "--search",
        "train.lr=choice:0.5,0.4,0.3,0.2,0.1,0.0001",
        "--prune",
        "median",
    )
    assert tune(*search, "--quiet") == 0
    last = rows()[-1]
    assert (last["state"], last["rounds"]) == ("pruned", "2") and last[
        "reason"
    ].endswith("%")
    assert simulate.main(["--resume", "--out", "out/trial-006", "--quiet"]) == 0
    assert (
        simulate.main(
            ["tiny.toml", "--set", "train.lr=0.0001", "--out", "undisturbed", "--quiet"]
        )
        == 0
    )
    first, second = (
        json.loads((Path(run) / "summary.json").read_text())
        for run in ("out/trial-006", "undisturbed")
    )
    assert first["model_sha256"] == second["model_sha256"]


def test_a_trial_stops_at_its_target_when_nothing_else_is_asked():
    assert (
        tune(
            "--grid",
            "--search",
            "train.lr=choice:0.5,0.0001",
            "--target",
            "0.6",
            "--quiet",
        )
        == 0
    )
    fast, slow = json.loads(Path("out/trials.json").read_text())["trials"]
    assert (
        fast["figures"]["rounds"] < 6
        and fast["figures"]["rounds_to_target"] <= fast["figures"]["rounds"]
    )
    assert (slow["figures"]["rounds"], slow["figures"]["rounds_to_target"]) == (6, None)
    assert (
        tune(
            "--grid",
            "--search",
            "train.lr=choice:0.5,0.0001",
            "--target",
            "0.6",
            "--objective",
            "accuracy,rounds",
            out="both",
        )
        == 0
    )
    assert [
        trial["figures"]["rounds"]
        for trial in json.loads(Path("both/trials.json").read_text())["trials"]
    ] == [6, 6]


def test_several_objectives_have_a_front(capsys):
    pytest.importorskip("optuna")
    search = (
        "--search",
        "codec.up=choice:raw32,eden1",
        "--search",
        "train.lr=choice:0.5,0.001",
    )
    assert tune(*search, "--objective", "accuracy,bytes", "--trials", "16") == 0
    printed = capsys.readouterr().out
    assert "nsga2" in printed and "not beaten in accuracy and bytes at once:" in printed
    assert "had an earlier one's values, and its result" in printed
    assert len(list(Path("out").glob("trial-*"))) <= 4, "the same values are run once"
    with Path("out/trials.csv").open() as file:
        on_front = [row for row in csv.DictReader(file) if row["front"]]
    assert {row["train.lr"] for row in on_front} == {"0.5"} and {
        row["codec.up"] for row in on_front
    } >= {"eden1"}
    assert Path("out/plots/front.png").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--trials", "0"), "--trials 0: at least 1"),
        (
            ("--grid", "--trials", "5"),
            "--grid tries every point: leave out --sampler and --trials",
        ),
        (
            ("--objective", "accuracy,bytes", "--prune", "median"),
            "--prune median compares trials by their accuracy at a round",
        ),
        (
            ("--search", "train.lrr=log:0.1:1"),
            "unknown key 'train.lrr'. Did you mean 'lr'?",
        ),
        (("--search", "codec.up=choice:raw32,raw33"), "codec.up: "),
        (
            ("--search", "model.name=choice:logistic,logistik"),
            "Did you mean 'logistic'?",
        ),
        (("--resume",), "--resume: out holds no search"),
        (("--out", ""), "--out is empty"),
        (("--out", "tiny.toml"), "is a file"),
        (("--out", "."), "--out . is not empty and holds no search"),
    ],
)
def test_what_does_not_go_together_is_one_line_and_leaves_nothing(
    arguments, told, capsys
):
    assert tune(*arguments) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not Path("out").exists()


def test_a_search_is_not_resumed_with_seed_0_where_it_had_another(capsys):
    assert (
        tune(
            "--grid",
            "--search",
            "train.lr=choice:0.5",
            "--rounds",
            "1",
            "--seed",
            "3",
            "--quiet",
        )
        == 0
    )
    assert main(["--resume", "--out", "out", "--seed", "0"]) == 2
    assert "leave out --seed" in capsys.readouterr().err


def test_a_folder_that_holds_a_search_is_resumed_as_it_was_begun(capsys):
    assert (
        tune("--grid", "--search", "train.lr=choice:0.5", "--rounds", "1", "--quiet")
        == 0
    )
    assert (
        tune("--grid") == 2
        and "add --resume to go on with it" in capsys.readouterr().err
    )
    for changed in (
        ["tiny.toml"],
        ["--rounds", "2"],
        ["--grid"],
        ["--search", "train.lr=log:0.1:1"],
    ):
        assert main([*changed, "--resume", "--out", "out"]) == 2
        assert "as it was begun: leave out" in capsys.readouterr().err
    Path("out/trials.json").write_text("{")
    assert main(["--resume", "--out", "out"]) == 3
    assert "cannot read out/trials.json" in capsys.readouterr().err
