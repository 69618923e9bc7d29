"""Run folders survive kills: files are whole, torn lines are dropped, one process owns a folder."""

import json
import os

import pytest

from fedlearn.errors import ConfigError, RecordError
from fedlearn.records.writing import RunFolder, read_lines


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    yield folder
    folder.close()


def test_files_are_replaced_whole(folder):
    folder.write("a.txt", "old")
    folder.write("sub/b.txt", b"new")
    folder.write("a.txt", "new")
    assert (folder.path / "a.txt").read_text() == "new"
    assert sorted(p.name for p in folder.path.rglob("*") if p.is_file()) == [
        ".lock",
        "a.txt",
        "b.txt",
    ]


def test_numbers_that_json_lacks_become_null(folder):
    folder.write_json("s.json", {"loss": float("nan"), "list": [float("inf"), 1]})
    assert json.loads((folder.path / "s.json").read_text()) == {
        "loss": None,
        "list": [None, 1],
    }


@pytest.mark.parametrize(
    "torn", [b'{"round": 3, "lo', b"\x00\xff", b"[1]\n", b'{"round": null}\n', b""]
)
def test_a_torn_last_line_is_dropped(folder, torn):
    folder.append({"round": 1})
    folder.append({"round": 2})
    with open(folder.path / "metrics.jsonl", "ab") as file:
        file.write(torn)
    assert [line["round"] for line in folder.lines()] == [1, 2]
    assert [line["round"] for line in folder.rewind(1)] == [1]
    folder.append({"round": 2})
    assert [line["round"] for line in read_lines(folder.path)] == [1, 2]


def test_a_folder_has_one_owner(folder):
    with pytest.raises(ConfigError, match="another process is writing"):
        RunFolder(folder.path)


def test_a_failed_write_names_the_file_and_keeps_the_old_content(folder, monkeypatch):
    folder.write("a.txt", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RecordError, match=r"cannot write .*a\.txt: No space left on device"
    ):
        folder.write("a.txt", "new")
    assert (folder.path / "a.txt").read_text() == "old"
