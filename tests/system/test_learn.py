"""A fleet that drifts learns again, from the weights that it serves to the next rollout."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import fedlearn as fl
from fedlearn.commands import learn, sign
from fedlearn.errors import RunError
from fedlearn.exchange.releases import InstalledReport, WatchFigures
from fedlearn.package import content, keys, signature
from fedlearn.release.learn_file import read_learn_file
from fedlearn.release.learn_work import FleetLearning, LearnPaths
from fedlearn.release.learning import LearnRecord, LearnStep
from fedlearn.release.packing import Wishes, pack
from fedlearn.release.registry import Registry
from fedlearn.release.rollouts import RolloutOptions, start, status
from fedlearn.release.run_store import RunPhase, RunStore
from fedlearn.runs.trained import load
from fedlearn.server.device_store import DeviceEntry, DeviceStore
from fedlearn.server.rollout_plan import RolloutPhase, RolloutProgress
from fedlearn.server.rollout_store import RolloutStore
from fedlearn.system import failpoints
from tests.system.fleets import FleetProcesses

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)  # processes that load torch, one after another
CONFIG = """\
[experiment]
name = "small"
rounds = 2
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
fraction_train = 1.0
[engine]
kind = "serial"
"""
LEARN = """\
[learn]
fleet = "fleet"
config = "small.toml"
registry = "registry"
key = "keys/release.key"
[triggers]
drift = 0.25
rest_h = 0.0
[rollout]
shares = [0.5, 1.0]
"""


class Fleet:
    """A fleet of two devices that serve the package of a run, and drift."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = folder / "fleet"
        self.file = folder / "learn.toml"

    def make(self) -> None:
        """Train, package and serve; once, for all tests."""
        folder = self.folder
        self.file.write_text(LEARN)
        config = folder / "small.toml"
        config.write_text(CONFIG)
        sign.main(["--new-key", str(folder / "keys")])
        fl.run(str(config), out=folder / "run", quiet=True)
        pack(load(str(folder / "run")), folder / "one", Wishes())
        sign.main([str(folder / "one"), "--key", str(folder / "keys" / "release.key")])
        self.fleet.mkdir()
        self.serve()

    def serve(self) -> None:
        """Have both devices run the package, and see other inputs than it was trained on."""
        store = RolloutStore(self.fleet)
        plan = start(self.fleet, self.folder / "one", RolloutOptions(devices=(0, 1)))
        store.keep_progress(1, RolloutProgress(RolloutPhase.DONE))
        devices = DeviceStore(self.fleet)
        entry = DeviceEntry(True, figures=WatchFigures(100, drift=0.9))
        for device in (0, 1):
            store.keep_report(device, InstalledReport("disk", 1, plan.release))
        devices.keep({0: entry, 1: entry})
        devices.close()
        store.close()

    def learn(self, *words: str, points: str = "") -> int:
        """Have a process learn; returns its exit code."""
        environment = {**os.environ, failpoints.VARIABLE: points}
        done = subprocess.run(
            [sys.executable, "-m", "fedlearn", "learn", str(self.file), *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            check=False,
            timeout=280,
        )
        return done.returncode


@pytest.fixture(scope="module")
def drifting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet") / "all"
    folder.mkdir()
    Fleet(folder).make()
    return folder


@pytest.fixture
def fleet(drifting, tmp_path):
    """A fleet of the test's own."""
    return Fleet(Path(shutil.copytree(drifting, tmp_path / "all")))


def test_a_fleet_that_drifts_gets_a_candidate_once_wherever_learning_is_killed(
    fleet, capsys
):
    words = ("--once", "--rollout")
    for points in (
        "learn.after-record=kill@2",
        "learn.done=kill",
        "learn.done=kill@2",
        "learn.done=kill@2",
    ):
        assert fleet.learn(*words, points=points) == -signal.SIGKILL
    assert fleet.learn(*words) == 0
    value = status(fleet.fleet)
    assert (value["rollout"], value["phase"]) == (2, "running")
    assert value["release"].startswith("small 2 (")
    assert [sum(wave.values()) for wave in value["waves"]] == [1, 1]
    # One candidate, signed; the registry began with what the fleet serves.
    with Registry(fleet.folder / "registry") as registry:
        versions = registry.versions("small")
        assert [version.counter for version in versions] == [2, 1]
        assert registry.aliases("small") == {"candidate": 2}
    package = content.read(fleet.fleet / "learn" / "packages" / "1")
    pem = keys.read(fleet.folder / "keys" / "release.pem")
    signature.verify(package, {keys.fingerprint(pem): pem})
    # The run began where the fleet stands.
    before = json.loads((fleet.folder / "run" / "summary.json").read_text())
    lines = (fleet.fleet / "learn" / "runs" / "1" / "metrics.jsonl").read_text()
    assert json.loads(lines.splitlines()[0])["accuracy"] == before["accuracy"]
    # The same drift again is no reason, whatever process asks.
    assert learn.main([str(fleet.file), *words]) == 0
    assert status(fleet.fleet)["rollout"] == 2
    capsys.readouterr()
    assert learn.main([str(fleet.file), "--status", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["number"], value["step"], value["due"]) == (1, "idle", None)
    assert value["outcome"].endswith("is in rollout 2")


def test_without_rollout_a_person_decides(fleet, capsys):
    assert learn.main([str(fleet.file), "--once"]) == 0
    err = capsys.readouterr().err
    assert "learning 1 begins from small 1" in err
    assert "2 of 2 devices drift above 0.25" in err
    assert status(fleet.fleet)["rollout"] == 1
    assert learn.main([str(fleet.file), "--status"]) == 0
    out = capsys.readouterr().out
    assert "is a candidate" in out and "due       nothing" in out


def test_the_fleets_own_agents_learn_what_a_simulation_does(fleet, capsys):
    processes = FleetProcesses(fleet.folder)
    text = LEARN.replace("[triggers]", 'clients = "fleet"\n[triggers]')
    fleet.file.write_text(text)
    try:
        coordinator = processes.serve()
        for client in (0, 1):
            processes.attend(client)
        processes.wait(lambda: processes.attending() == {0, 1}, coordinator)
        assert learn.main([str(fleet.file), "--once"]) == 0
    finally:
        processes.end()
    record = capsys.readouterr().err
    assert "is a candidate" in record
    summaries = []
    # The same learning by simulated clients, in another folder.
    fleet.file.write_text(LEARN)
    for name in ("learn", "simulated"):
        if name == "simulated":
            (fleet.fleet / "learn").rename(fleet.fleet / "by-agents")
            shutil.rmtree(fleet.folder / "registry")
            assert learn.main([str(fleet.file), "--once"]) == 0
        path = fleet.fleet / "learn" / "runs" / "1" / "summary.json"
        summaries.append(json.loads(path.read_text()))
    assert [summary["engine"] for summary in summaries] == ["fleet", "serial"]
    assert summaries[0]["model_sha256"] == summaries[1]["model_sha256"]


def test_a_fleets_run_that_fails_is_told_and_wished_anew(fleet):
    fleet.file.write_text(LEARN.replace("[triggers]", 'clients = "fleet"\n[triggers]'))
    file = read_learn_file(fleet.file)
    work = FleetLearning(LearnPaths.of(fleet.file, file), file)
    base = work.look().serving
    record = LearnRecord(1, LearnStep.TRAINING, base=base)
    with pytest.raises(RunError, match="nobody serves the fleet"):
        work.train(record)
    store = RunStore(fleet.fleet)
    store.keep(1, RunPhase.FAILED, "a cable was pulled")
    with pytest.raises(RunError, match="nobody serves the fleet"):
        work.train(record)
    # The one that waits is not wished a second time.
    with pytest.raises(RunError, match="nobody serves the fleet"):
        work.train(record)
    assert [run.phase for run in store.runs()] == [RunPhase.FAILED, RunPhase.WANTED]
    store.close()


def test_a_fleet_that_is_well_learns_nothing(fleet, capsys):
    store = DeviceStore(fleet.fleet)
    calm = {
        device: replace(entry, figures=WatchFigures(100, drift=0.1))
        for device, entry in store.entries().items()
    }
    store.keep(calm)
    store.close()
    assert learn.main([str(fleet.file), "--once"]) == 0
    assert not (fleet.fleet / "learn" / "runs").exists()
    assert not (fleet.folder / "registry").exists()


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("drift = 0.25", "", "[triggers] says nothing"),
        (
            "drift = 0.25",
            "drft = 1.0",
            "unknown key 'triggers.drft'. Did you mean 'drift'?",
        ),
        (
            "drift = 0.25",
            'drift = "x"',
            "'triggers.drift': should be a number (got 'x')",
        ),
        ("drift = 0.25", "share = 2.0", "'triggers.share': input should be less than"),
        ('fleet = "fleet"', "", "'learn.fleet' is missing"),
        ('"fleet"', '"nowhere"', "is no fleet's folder"),
        ("keys/release.key", "keys/none", "fedlearn sign --new-key DIR makes one"),
        ("[learn]", "[learn", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, capsys, before, after, line):
    (tmp_path / "fleet").mkdir()
    RolloutStore(tmp_path / "fleet").close()
    sign.main(["--new-key", str(tmp_path / "keys")])
    file = tmp_path / "learn.toml"
    file.write_text(LEARN.replace(before, after))
    capsys.readouterr()
    assert learn.main([str(file), "--once"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and line in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere.toml"], "cannot read nowhere.toml"),
        (["x", "--pause-s", "nan"], "--pause-s nan: 0.1 or more"),
        (["x", "--json"], "--json goes with --status"),
    ],
)
def test_wrong_arguments_are_one_line(words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert learn.main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and line in err
