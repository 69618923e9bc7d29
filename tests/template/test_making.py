"""The template of an app: whole, clean, accepted by Flower, and run in both ways."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tomllib

import fedlearn as fl
from fedlearn.apps import project
from fedlearn.commands.new import NODES
from fedlearn.errors import UserError
from fedlearn.system import files
from fedlearn.template import making
from fedlearn.template.making import FILES, make

ROOT = Path(__file__).parents[2]
ROUNDS = 2


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apps") / "two-moons"
    assert make(folder) == "two_moons"
    return folder


def paths(folder):
    """Return the files below a folder, by their paths from it."""
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    }


def names_of(package):
    return {path.replace(making.PACKAGE, package) for path in FILES}


def test_all_files_come_with_the_name_filled_in(app):
    assert paths(app) == names_of("two_moons")
    for path in app.rglob("*.*"):
        if path.is_file():
            assert "app_package" not in path.read_text()
    assert len((app / "README.md").read_text().splitlines()) <= 15
    assert os.listdir(app.parent) == [app.name]


def test_every_template_is_in_the_table_and_in_the_wheel():
    folder = Path(making.__file__).parent
    assert len(list((folder / "files").rglob("*.in"))) == len(FILES)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["fedlearn.template"]
    packed = {path for pattern in patterns for path in folder.glob(pattern)}
    assert packed == set((folder / "files").rglob("*.in"))


def test_the_files_are_as_ruff_has_them(app):
    rules = ["--isolated", "--no-cache", "--quiet"]
    lint = ["check", "--select", "E,F,I,UP,B,SIM,C4,PT,W", *rules, "."]
    for arguments in (lint, ["format", "--check", *rules, "."]):
        ended = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments],
            cwd=app,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_flower_accepts_the_project(app):
    from flwr.cli.config_utils import load_and_validate

    config, _ = load_and_validate(app / "pyproject.toml")
    components = config["tool"]["flwr"]["app"]["components"]
    assert components["clientapp"] == "two_moons.client_app:app"
    # `flwr run` comments such a table out, in the user's file.
    assert "federations" not in config["tool"]["flwr"]


def test_the_app_and_the_experiment_have_the_same_settings(app):
    config = project.read(app).run_config
    experiment = tomllib.loads((app / "experiment.toml").read_text())
    assert experiment["experiment"]["rounds"] == config["num-server-rounds"]
    assert experiment["strategy"] == {
        "name": "two_moons.strategy:DecayingFedAvg",
        "lr": config["lr"],
        "decay": config["decay"],
        "epochs": config["epochs"],
        "batch_size": config["batch-size"],
    }


def test_the_app_learns(app, tmp_path):
    changes = {"num-server-rounds": ROUNDS}
    run = fl.run(app, changes, out=tmp_path / "run", nodes=NODES, quiet=True)
    assert run.summary["rounds"] == ROUNDS
    assert run.summary["failed"] == 0
    # Four classes: a guess is right once in four times.
    assert run.summary["server"]["accuracy"] > 0.5


def test_the_experiment_learns_by_the_rates_of_the_strategy(app, tmp_path):
    out = tmp_path / "run"
    config = app / "experiment.toml"
    run = fl.run(config, {"experiment.rounds": ROUNDS}, out=out, quiet=True)
    assert run.summary["rounds"] == ROUNDS
    assert run.summary["accuracy"] > 0.5
    changes = {"experiment.rounds": ROUNDS, "strategy.lr": 1e-9}
    still = fl.run(config, changes, out=tmp_path / "still", quiet=True)
    # The strategy's rate is the clients': without one, nothing moves.
    assert still.summary["accuracy"] < 0.5


def test_the_experiment_takes_the_client_app_too(app, tmp_path):
    changes = {
        "experiment.rounds": ROUNDS,
        "client.app": "two_moons.client_app:app",
        "evaluate.clients": True,
    }
    config = app / "experiment.toml"
    run = fl.run(config, changes, out=tmp_path / "run", quiet=True)
    assert run.summary["accuracy"] > 0.5
    assert [line["failed"] for line in run.rounds] == [0] * (ROUNDS + 1)
    metrics = run.rounds[-1]["metrics"]
    assert metrics is not None and metrics["evaluate"]["eval_accuracy"] > 0.5


@pytest.mark.slow
def test_its_own_tests_pass(app, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(app)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "6 passed" in ended.stdout


def test_an_empty_folder_stays_the_folder_that_it_is(tmp_path, monkeypatch):
    folder = tmp_path / "walk"
    folder.mkdir()
    number = folder.stat().st_ino
    monkeypatch.chdir(folder)
    assert make(Path()) == "walk"
    assert folder.stat().st_ino == number
    assert paths(folder) == names_of("walk")


def test_the_umask_says_who_may_read(tmp_path):
    before = os.umask(0o027)
    try:
        make(tmp_path / "walk")
    finally:
        os.umask(before)
    assert (tmp_path / "walk").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "walk" / "walk").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "walk" / "pyproject.toml").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", range(1, 14))
def test_what_is_broken_off_leaves_nothing(tmp_path, monkeypatch, there, error, call):
    """Each file that is written, and each folder that is synced, fails once."""
    folder = tmp_path / "walk"
    if there:
        folder.mkdir()
    count = 0

    def failing(function):
        def once(*arguments):
            nonlocal count
            count += 1
            if count == call:
                raise error
            return function(*arguments)

        return once

    # Not in the module itself, where one calls the other.
    broken = SimpleNamespace(
        replace=failing(files.replace),
        sync_folder=failing(files.sync_folder),
        give_folder=files.give_folder,
    )
    monkeypatch.setattr(making, "files", broken)
    with pytest.raises((UserError, KeyboardInterrupt)) as caught:
        make(folder)
    if isinstance(error, OSError):
        assert "No space left; choose another folder" in str(caught.value)
    # Of a new folder's last sync, nothing is half: all is in place.
    if call == 13 and not there:
        assert paths(folder) == names_of("walk")
    else:
        assert paths(tmp_path) == set()
    monkeypatch.undo()
    shutil.rmtree(folder, ignore_errors=True)
    assert make(folder) == "walk"
