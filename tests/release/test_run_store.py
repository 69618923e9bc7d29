"""Runs that a fleet is to do: written down, done in their order, and one goes on first."""

from typing import Any

import pytest
import tomllib

from fedlearn.commands import fleet as command
from fedlearn.release import fleet_runs
from fedlearn.release.run_store import RunPhase, RunStore
from fedlearn.server.rollout_store import RolloutStore


@pytest.fixture
def store(tmp_path):
    own = RunStore(tmp_path)
    yield own
    own.close()


def test_the_run_that_goes_on_comes_before_those_that_wait(store, tmp_path):
    assert store.next() is None
    for name in ("a", "b", "c"):
        store.wish("x", tmp_path / name)
    assert store.next().number == 1
    store.keep(2, RunPhase.RUNNING)
    assert store.next().number == 2
    store.keep(2, RunPhase.FAILED, "a cable")
    store.keep(1, RunPhase.DONE)
    assert store.next().number == 3
    assert [(run.phase, run.reason) for run in store.runs()] == [
        (RunPhase.DONE, ""),
        (RunPhase.FAILED, "a cable"),
        (RunPhase.WANTED, ""),
    ]


def test_a_folder_is_that_of_its_last_run(store, tmp_path):
    assert store.newest_in(tmp_path / "a") is None
    store.wish("x", tmp_path / "a")
    store.keep(1, RunPhase.FAILED)
    store.wish("x", tmp_path / "a")
    assert store.newest_in(tmp_path / "a").number == 2


@pytest.fixture
def fleet(tmp_path):
    RolloutStore(tmp_path).close()
    return tmp_path


def wish(fleet, *words):
    return command.main(["run", *words, "--fleet", str(fleet)])


def test_a_wish_is_whole_and_scores_in_the_coordinators_own_process(fleet, capsys):
    assert wish(fleet, "--set", "train.lr=0.25", "--set", "engine.kind=pool") == 0
    run = RunStore(fleet).next()
    assert run is not None
    table = tomllib.loads(run.config)
    assert (table["train"]["lr"], table["engine"]["kind"]) == (0.25, "serial")
    assert run.folder.parent == fleet / "runs"
    assert f"see fedlearn status {run.folder}" in capsys.readouterr().out


def test_a_folder_has_one_run_at_a_time(fleet, capsys):
    out = ("--out", str(fleet / "r"))
    assert wish(fleet, *out) == 0
    assert wish(fleet, *out) == 2
    assert "run 1 is in" in capsys.readouterr().err
    store = RunStore(fleet)
    store.keep(1, RunPhase.FAILED, "x")
    store.close()
    assert wish(fleet, *out) == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--set", "train.lrr=1"], "unknown key 'train.lrr'"),
        (["nothing.toml"], "no file 'nothing.toml'"),
        (["--set", "data.name=nothing"], "nothing"),
    ],
)
def test_a_wrong_config_is_told_at_once_and_not_noted(fleet, capsys, words, line):
    assert wish(fleet, *words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and line in err
    assert RunStore(fleet).runs() == []


def test_another_folder_is_no_fleet(tmp_path, capsys):
    assert wish(tmp_path / "none") == 2
    assert "is no fleet's folder" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_without_a_wish_there_is_nothing_to_do(fleet):
    service: Any = None
    assert fleet_runs.do_next(fleet, service) is False
