"""The command ``fedlearn new``: what it shows, and mistakes in one line."""

import os
import subprocess
import sys

import pytest

from fedlearn.commands.new import main
from fedlearn.template.making import FILES


def test_it_shows_what_can_be_done(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["my-apps/first app/walk"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "its package 'walk'" in lines[0]
    assert "  fedlearn run 'my-apps/first app/walk' --nodes 10" in lines
    assert "  fedlearn simulate 'my-apps/first app/walk/experiment.toml'" in lines
    assert (tmp_path / "my-apps/first app/walk/walk/model.py").is_file()
    assert main(["--quiet", "other"]) == 0
    assert capsys.readouterr().out == ""


def test_help_says_what_comes(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for path, about in FILES.items():
        assert f"{path} " in shown and about in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a folder that is new or empty: fedlearn new DIR"),
        ([""], "name a folder that is new or empty"),
        (["full"], "'full' is not empty (note.txt); give a new folder"),
        (["."], "'.' is not empty"),
        (["full/note.txt/walk"], "note.txt' is a file; choose another folder"),
        (["plain"], "'plain' is a file; give a new folder"),
        (["/"], "'/' is no name for a package"),
        (["3d"], "'3d' is no name for a package"),
        (["class"], "'class' is no name for a package"),
        (["a b"], "'a b' is no name for a package"),
        (["walk_"], "'walk_' is no name for a package"),
        (["füße"], "'füße' is no name for a package"),
        (["json"], "'json' is a module of Python"),
        (["flwr"], "'flwr' is a module of Python or of an installed package"),
        (["google"], "such as 'google_app'"),
        (["test-app"], "'test_app' is a module of Python"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    room = tmp_path / "room"
    (room / "full").mkdir(parents=True)
    (room / "full" / "note.txt").write_text("a note")
    (room / "plain").write_text("a file")
    monkeypatch.chdir(room)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert sorted(os.listdir(room)) == ["full", "plain"]
    assert (room / "full" / "note.txt").read_text() == "a note"
    assert os.listdir(room / "full") == ["note.txt"]


def test_it_needs_neither_torch_nor_flwr(tmp_path):
    code = (
        "import sys\nfrom fedlearn.commands.new import main\n"
        f"main([{str(tmp_path / 'walk')!r}])\n"
        "print('LOADED', {'torch', 'flwr', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert ended.stdout.splitlines()[-1] == "LOADED set()"
