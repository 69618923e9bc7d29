"""``fedlearn release``: what a person does with it, in order, and what they are told."""

import os

import pytest

import fedlearn as fl
from fedlearn.commands import release, sign
from fedlearn.package import content, keys
from tests.package import small
from tests.release.test_packing import CONFIG


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a run of one round, and the same trained on for another."""
    folder = tmp_path_factory.mktemp("runs")
    first = fl.run(CONFIG, out=folder / "a", quiet=True)
    weights = {"model.weights": str(first.folder)}
    second = fl.run(CONFIG, weights, out=folder / "b", quiet=True)
    return str(first.folder), str(second.folder)


def line(*words) -> list[str]:
    return [str(word) for word in words]


def test_from_two_runs_to_a_stable_version_and_back(runs, tmp_path, capsys):
    registry = tmp_path / "registry"
    first, second = runs
    assert release.main(line(first, "--registry", registry)) == 0
    out = capsys.readouterr().out
    assert out.startswith("small-net 1: candidate\n")
    assert "there is no release before it" in out
    assert release.main(line("promote", "small-net", "--registry", registry)) == 0

    package = tmp_path / "package"
    words = line(second, "--registry", registry, "--out", package, "--gate", 100)
    assert release.main(words) == 0
    out = capsys.readouterr().out
    assert "from version 1; whole" in out
    assert content.read(package).manifest.deltas

    assert sign.main(line("--new-key", tmp_path / "keys")) == 0
    assert sign.main(line(package, "--key", tmp_path / "keys" / "release.key")) == 0
    capsys.readouterr()
    assert release.main(line(package, "--registry", registry)) == 0
    assert "small-net 2: candidate, 1 signature" in capsys.readouterr().out
    assert release.main(line("promote", "small-net:2", "--registry", registry)) == 0
    assert release.main(line("list", "--registry", registry)) == 0
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split()[-1] for row in rows] == ["stable", "previous"]

    fetched = tmp_path / "fetched"
    words = line("fetch", "small-net@stable", "--out", fetched, "--registry", registry)
    assert release.main(words) == 0
    assert small.sha256(fetched) == small.sha256(package)
    assert release.main(line("rollback", "small-net", "--registry", registry)) == 0
    assert capsys.readouterr().out.endswith("small-net 1: stable\n")
    assert release.main(line("history", "small-net", "--registry", registry)) == 0
    history = capsys.readouterr().out.splitlines()
    assert len(history) == 10
    fingerprint = keys.fingerprint((tmp_path / "keys" / "release.pem").read_bytes())
    signed = [row for row in history if "  sign " in row]
    assert len(signed) == 1
    assert f"2: model.sig, key none → {fingerprint[:12]}" in signed[0]
    # Between the release and the promotion, as it came.
    assert "add" in history[history.index(signed[0]) - 1]
    assert "promote" in history[history.index(signed[0]) + 1]
    assert "rollback stable         2 → 1" in history[-2]
    assert history[-2].endswith(first)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--registry", "r"], "there is no 'nowhere'"),
        (["list", "--registry", "nowhere"], "has no registry.db"),
        (["promote", "a@stable", "--registry", "r"], "write NAME, or NAME:COUNTER"),
        (["promote", "a:x", "--registry", "r"], "no counter after the colon"),
        (["{run}", "--registry", "r", "--alias", "No!"], "cannot be an alias"),
        (["{run}", "--registry", "r", "--gate", "-1"], "write points, from 0 to 100"),
        (["{run}", "--registry", "r", "--codec", "f16"], "is for whole models"),
        (["{run}", "--registry", "r", "--codec", "cvc"], "unknown stage 'cvc'"),
        (["{run}", "--registry", "r", "--expires", "soon"], "write YYYY-MM-DD"),
        (["{run}", "--registry", "r", "--expires", "2001-01-01"], "is past, so no"),
        (["{run}", "--registry", "r", "--out", "{run}"], "is there already"),
        (["{package}", "--registry", "r", "--whole"], "is kept as it is"),
    ],
)
def test_a_mistake_is_one_line(words, message, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small.written(tmp_path / "package")
    names = {"run": runs[0], "package": str(tmp_path / "package")}
    assert release.main([word.format(**names) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "r").exists() or words[0] == "promote"


def test_nothing_is_left_of_a_release_that_failed(runs, tmp_path, capsys):
    registry = tmp_path / "registry"
    assert release.main(line(runs[0], "--registry", registry, "--name", "No Name")) == 2
    assert "cannot be a package's name" in capsys.readouterr().err
    assert [path.name for path in registry.glob(".*")] == []


def test_what_a_killed_command_left_is_swept_after_a_day(runs, tmp_path):
    registry = tmp_path / "registry"
    assert release.main(line(runs[0], "--registry", registry, "--name", "a")) == 0
    old, new = registry / ".building-old", registry / ".building-new"
    for folder in (old, new):
        (folder / "package").mkdir(parents=True)
    os.utime(old, (0, 0))
    assert release.main(line(runs[0], "--registry", registry, "--name", "b")) == 0
    assert [path.name for path in registry.glob(".*")] == [new.name]


def test_arguments_are_checked_before_torch_is_imported(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys\nfrom fedlearn.commands import release\n"
        f"release.main([{str(tmp_path)!r}, '--registry', 'r', '--gate', '-1'])\n"
        "print(sorted({'torch', 'flwr'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"
