"""A fleet of agents, each a process behind mutual TLS, gives the bytes and the model of a
simulation.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.jobs import run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)  # some 10 s each where there are two idle cores
CONFIG = """\
[experiment]
name = "fleet"
rounds = 4
[data]
name = "digits"
[data.partition]
kind = "iid"
clients = 2
[model]
name = "logistic"
[train]
lr = 0.5
[strategy]
name = "fedavg"
fraction_train = 1.0
"""


def serve(
    folder: Path,
    *sets: str,
    resume: bool = False,
    agents: int = 2,
    options: Sequence[str] = (),
    without: tuple[str, ...] = (),
) -> subprocess.Popen:
    file = folder.with_suffix(".toml")
    file.write_text(CONFIG)
    command = [
        sys.executable,
        "-m",
        "fedlearn.commands.serve",
        str(file),
        "--quiet",
        "--out",
        str(folder),
        "--local-agents",
        str(agents),
        *options,
    ]
    for text in ("engine.kind=serial", *sets):
        command += ["--set", text]
    for text in without:
        command += ["--without", text]
    return subprocess.Popen(
        [*command, "--resume"] if resume else command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def same(simulated: dict, served: dict) -> bool:
    return all(
        simulated[key] == served[key]
        for key in ("model_sha256", "bytes_up", "bytes_down", "accuracy")
    )


@pytest.mark.parametrize(
    "sets",
    [
        ("codec.up=eden1", "codec.down=eden1", "evaluate.clients=true"),
        ("codec.up=ef+topk(0.1)+q8", "codec.down=cvq(1)", "codec.downlink=cast"),
        ("model.name=cnn-small", "model.binary=true", "train.lr=0.05"),
    ],
)
def test_a_fleet_gives_what_a_simulation_gives(sets, tmp_path):
    served = serve(tmp_path / "fleet", *sets)
    simulated = run(tmp_path / "simulated", *sets, config=CONFIG)
    assert served.communicate(timeout=280)[1] == ""
    assert served.returncode == 0
    summary = json.loads((tmp_path / "fleet" / "summary.json").read_text())
    assert same(simulated.summary, summary)
    assert summary["engine"] == "fleet"


def test_a_fleet_starts_from_given_weights_too(tmp_path):
    first = run(tmp_path / "first", config=CONFIG)
    # A model that no agent can make itself, and differences that need the first one.
    sets = (
        f"model.weights={tmp_path / 'first'}",
        "codec.down=cvq(1)",
        "codec.up=eden1",
    )
    served = serve(tmp_path / "fleet", *sets)
    simulated = run(tmp_path / "simulated", *sets, config=CONFIG)
    assert served.communicate(timeout=280)[1] == ""
    summary = json.loads((tmp_path / "fleet" / "summary.json").read_text())
    assert same(simulated.summary, summary)
    assert simulated.lines[0]["accuracy"] == first.summary["accuracy"]


@pytest.mark.parametrize("round", [1, 3])
def test_a_coordinator_that_is_killed_goes_on(round, tmp_path):
    sets = ("codec.up=ef+eden1", "codec.down=eden1", "experiment.rounds=6")
    first = serve(tmp_path / "fleet", *sets)
    lines = tmp_path / "fleet" / "metrics.jsonl"
    while not lines.exists() or len(lines.read_text().splitlines()) < round + 1:
        assert first.poll() is None
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    second = serve(tmp_path / "fleet", *sets, resume=True)
    second.communicate(timeout=280)
    assert second.returncode == 0
    assert same(
        run(tmp_path / "simulated", *sets, config=CONFIG).summary,
        json.loads((tmp_path / "fleet" / "summary.json").read_text()),
    )


def test_a_run_stops_at_its_journals_quota_and_goes_on_with_a_larger_one(tmp_path):
    # Each update has 222 KB, so that the third round's second one is beyond a megabyte.
    sets = ("codec.up=raw32", "codec.down=raw32", "model.name=2nn")
    quota = "--journal-megabytes"
    first = serve(tmp_path / "fleet", *sets, options=(quota, "1"))
    line = first.communicate(timeout=280)[1]
    assert first.returncode == 3
    assert line.count("\n") == 1 and f"give a larger {quota}" in line
    assert "what was acknowledged is kept" in line
    lines = (tmp_path / "fleet" / "metrics.jsonl").read_text().splitlines()
    assert 1 < len(lines) < 5
    second = serve(tmp_path / "fleet", *sets, resume=True, options=(quota, "50"))
    assert second.communicate(timeout=280)[1] == ""
    simulated = run(tmp_path / "simulated", *sets, config=CONFIG)
    summary = json.loads((tmp_path / "fleet" / "summary.json").read_text())
    assert same(simulated.summary, summary)


@pytest.mark.parametrize("cohort", ["available", "fastest"])
def test_a_strategy_may_choose_among_those_that_attend(cohort, tmp_path):
    """Of three clients two attend: nobody else is waited for, and the journal knows enough to
    compute the run again.
    """
    sets = ("data.partition.clients=3", f"fleet.cohort={cohort}", "fleet.min_agents=2")
    first = serve(tmp_path / "fleet", *sets)
    assert first.communicate(timeout=280)[1] == "" and first.returncode == 0
    summary = json.loads((tmp_path / "fleet" / "summary.json").read_text())
    lines = [
        json.loads(line)
        for line in (tmp_path / "fleet" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["clients"] for line in lines[1:]] == [2] * 4
    command = [
        sys.executable,
        "-m",
        "fedlearn.commands.replay",
        str(tmp_path / "fleet"),
    ]
    replayed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert (
        replayed.returncode == 0
        and summary["model_sha256"] in replayed.stdout + replayed.stderr
    )
    told = json.loads((tmp_path / "fleet" / "devices.json").read_text())
    assert told.keys() == {"0", "1"} and all(
        device["step_s"] > 0 and device["torch"] for device in told.values()
    )


def test_a_run_that_answers_end_goes_on_without_them(tmp_path):
    """The strategy cannot go on from what clients 1 and 2 answered in round 2."""
    sets = (
        "strategy.name=tests.faults:FailsOnTwo",
        "data.partition.clients=3",
        "experiment.rounds=2",
    )
    folder = tmp_path / "fleet"

    def go_on(*without: str) -> tuple[int, str]:
        resume = folder.exists()
        served = serve(folder, *sets, resume=resume, agents=3, without=without)
        _, error = served.communicate(timeout=280)
        return served.returncode, error

    first = go_on()
    assert first[0] == 3, first[1]
    assert "raised KeyError in round 2" in first[1]
    assert "go on without it: --resume --without CLIENT/ROUND" in first[1]
    assert go_on("1/2")[0] == 0
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[2])["failures"] == {
        # This one it found by itself, once the other was gone.
        "0": "FailsOnTwo.aggregate_train raised KeyError in round 2: 'two of them'",
        "1": "left out: --without 1/2",
    }
    log = (folder / "fleet.log").read_text()
    assert "round 2 goes on without client 1's answers" in log
    code, error = go_on("0/2")
    assert code == 2 and "the checkpoint of round 2 has that answer in it" in error
    command = [sys.executable, "-m", "fedlearn.commands.replay", str(folder)]
    replayed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert (replayed.returncode, replayed.stderr) == (0, "")


def test_clients_that_nobody_serves_are_not_waited_for(tmp_path):
    process = serve(tmp_path / "fleet", "data.partition.clients=3")
    said = process.communicate(timeout=280)[1]
    assert (
        process.returncode == 2
        and (
            "--local-agents 2 would wait for the others in every round; --set "
            "data.partition.clients=2"
        )
        in said
    )
