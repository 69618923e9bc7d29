"""The command of scenarios: its help, a user's mistakes, and what it leaves."""

import json
import sys
from types import SimpleNamespace

import pytest

from fedlearn.commands import scenario
from fedlearn.errors import RunError
from fedlearn.scenarios import scene


def test_help_lists_all_four(capsys):
    with pytest.raises(SystemExit):
        scenario.main(["--help"])
    out = capsys.readouterr().out
    assert len(scene.SCENARIOS) == 4
    for name, about in scene.SCENARIOS.items():
        assert f"{name} " in out and about in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["maintenanse"],
            "unknown scenario 'maintenanse'. Did you mean 'maintenance'?",
        ),
        (["maintenance", "--seed", "-1"], "--seed -1: from 0 to 4294967295"),
        (["maintenance", "--out", "file"], "--out file is a file"),
        (["maintenance", "--out", "full"], "'full' holds something already"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert scenario.main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and line in err
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


def small_scene(claim):
    """Return a scenario as a module has it, whose claim holds or does not."""

    def play(folder, seed, say):
        say("it begins")
        scene.check(claim, "2 is 2 (it was 3)")
        return scene.Outcome([f"seed {seed}"], folder / "scenario.png", {"two": 2})

    return SimpleNamespace(SUMMARY="small", play=play)


def test_what_held_is_told_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fedlearn.scenarios.soil", small_scene(True))
    monkeypatch.setattr(scene, "find_spec", lambda name: name)
    folder = tmp_path / "out"
    assert scenario.main(["soil", "--out", str(folder), "--seed", "7"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == ["it begins", "seed 7"]
    value = json.loads((folder / "outcome.json").read_text())
    assert value == {"scenario": "soil", "seed": 7, "facts": {"two": 2}}


def test_a_claim_that_does_not_hold_ends_with_3_and_leaves_no_outcome(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "fedlearn.scenarios.soil", small_scene(False))
    monkeypatch.setattr(scene, "find_spec", lambda name: name)
    assert scenario.main(["soil", "--out", str(tmp_path / "out"), "--quiet"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "this should hold, and does not: 2 is 2 (it was 3)" in captured.err
    assert list((tmp_path / "out").iterdir()) == []


def test_check_names_the_claim():
    scene.check(True, "all is well")
    with pytest.raises(RunError, match=r"does not: water is dry"):
        scene.check(False, "water is dry")
