"""``fedlearn simulate --profile``: what it leaves, and that it changes nothing else."""

import json

import pytest

from fedlearn.commands.simulate import main
from fedlearn.config import read as read_config
from fedlearn.devices.peak import Peak
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs import profiling
from tests.jobs import CONFIG, run

# Of one sample: 64 inputs, 10 outputs, an addition and a multiplication each, forward and for the
# weights' gradient.
TRAINING_FLOPS = 2 * 2 * 64 * 10


@pytest.fixture(autouse=True)
def _no_measurement(monkeypatch):
    monkeypatch.setattr(
        profiling, "measure", lambda workers: Peak(5.0, 8.0, workers, 4, "torch.mm")
    )


def profiled(folder, *arguments, engine="serial", config=CONFIG):
    """Run with --profile; returns the exit code and profile.json, None where there is none."""
    file = folder.with_suffix(".toml")
    file.write_text(config)
    code = main(
        [
            str(file),
            "--out",
            str(folder),
            "--profile",
            "--set",
            f"engine.kind={engine}",
            *arguments,
        ]
    )
    found = folder / "profile.json"
    return code, json.loads(found.read_text()) if found.exists() else None


@pytest.mark.parametrize("engine", ["serial", "pool"])
def test_the_model_is_the_same_with_and_without(tmp_path, engine):
    plain = run(tmp_path / "plain", engine=engine)
    code, _ = profiled(tmp_path / "profiled", "--quiet", engine=engine)
    assert code == 0
    assert (
        json.loads((tmp_path / "profiled" / "summary.json").read_text())["model_sha256"]
        == plain.sha256
    )
    assert not (plain.folder / "profile.json").exists()
    assert not (plain.folder / "plots" / "profile.png").exists()


def test_operations_clients_and_phases_are_told(tmp_path, capsys):
    code, found = profiled(
        tmp_path / "run",
        "--set",
        "strategy.fraction_train=1.0",
        "--set",
        "train.epochs=2",
        engine="pool",
    )
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    samples = sum(map(sum, manifest["data"]["label_counts"]["counts"]))
    assert code == 0
    assert [row["flops"] for row in found["by_round"]] == [
        2 * samples * TRAINING_FLOPS
    ] * 3
    assert found["peak"] == {
        "one_gflops": 5.0,
        "all_gflops": 8.0,
        "processes": found["workers"],
        "cores": 4,
        "by": "torch.mm",
    }
    lines = [
        json.loads(line)
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    for row, line in zip(found["by_round"], lines[1:], strict=True):
        assert row["training_s"] / row["workers"] == pytest.approx(
            line["seconds_training"]
        )
        assert 0 < row["slowest_s"] <= row["training_s"] and row[
            "slowest_client"
        ] in range(12)
    assert {phase["name"] for phase in found["phases"]} == {
        "prepare",
        "train",
        "encode",
        "aggregate",
        "evaluate",
        "record",
        "other",
    }
    out = capsys.readouterr().out
    assert (
        out.index("run folder")
        < out.index("Where the time goes: 3 rounds")
        < out.index("GFLOP/s while clients train")
    )
    assert (tmp_path / "run" / "plots" / "profile.png").exists()
    assert (
        "The same phases with what none of them accounts for"
        in (tmp_path / "run" / "report.html").read_text()
    )


def test_quiet_is_quiet(tmp_path, capsys):
    code, found = profiled(tmp_path / "run", "--quiet")
    assert (code, found["rounds"]) == (0, 3)
    assert capsys.readouterr().out == ""


def test_a_run_that_misses_what_it_expects_is_profiled_too(tmp_path, capsys):
    code, _ = profiled(tmp_path / "run", "--set", "expect.accuracy=1.0")
    assert code == 4
    assert "Where the time goes" in capsys.readouterr().out


def test_a_resumed_run_adds_its_rounds(tmp_path):
    profiled(tmp_path / "run", "--quiet", "--set", "experiment.rounds=1")
    before = profiled(
        tmp_path / "run", "--quiet", "--resume", "--set", "experiment.rounds=2"
    )[1]["by_round"]
    run(tmp_path / "run", resume=True)  # without --profile: round 3 is not looked at
    code, found = profiled(
        tmp_path / "run", "--quiet", "--resume", "--set", "experiment.rounds=4"
    )
    assert code == 0
    assert [row["round"] for row in found["by_round"]] == [1, 2, 4]
    assert found["by_round"][:2] == before
    assert (found["rounds"], found["training"]["rounds"]) == (4, 3)


class Interrupted(Progress):
    """A display that stops the run after its second round."""

    def round_done(self, line):
        if line["round"] == 2:
            raise KeyboardInterrupt


def test_a_run_that_is_stopped_leaves_what_was_seen(tmp_path):
    (tmp_path / "tiny.toml").write_text(CONFIG)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        profiling.profiled(
            read_config(str(tmp_path / "tiny.toml")),
            folder,
            Interrupted(quiet=True),
            False,
        )
    found = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert [row["round"] for row in found["by_round"]] == [1, 2]
    assert found["peak"] is None


@pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # values that overflow are the point
def test_rounds_that_fail_leave_no_profile_and_stay_an_error(tmp_path):
    assert profiled(
        tmp_path / "run",
        "--quiet",
        "--set",
        "train.lr=1e38",
        "--set",
        "train.momentum=0.9",
    ) == (3, None)


def test_clients_that_fail_count_for_nothing(tmp_path):
    config = CONFIG.replace(
        'name = "digits"', 'name = "tests.wrong:one_bad_client"'
    ).split("[data.partition]")[0]
    config += '[model]\nname = "logistic"\n[strategy]\nfraction_train = 1.0\n'
    code, found = profiled(tmp_path / "run", "--quiet", config=config)
    assert code == 0
    assert [row["flops"] for row in found["by_round"]] == [
        2 * 60 * 4 * 4 * 3
    ] * 3  # two of three clients
    assert 1 not in {row["slowest_client"] for row in found["by_round"]}


def test_simulated_devices_do_not_hide_the_clients(tmp_path):
    code, found = profiled(tmp_path / "run", "--quiet", "--set", 'devices.mix="edge"')
    assert code == 0
    assert all(row["flops"] > 0 for row in found["by_round"])


def test_a_trace_shows_the_operators(tmp_path):
    code, found = profiled(
        tmp_path / "run", "--quiet", "--trace", "--set", "experiment.rounds=1"
    )
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    assert (code, found["rounds"]) == (0, 1)
    assert (
        sum(event["name"] == "aten::addmm" for event in events) == 10
    )  # one linear layer, ten steps
