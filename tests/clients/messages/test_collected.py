"""A collected file has each answer once, whatever comes twice and whenever it is killed."""

import json
import os

import pytest

from fedlearn.clients.messages.collected import Answer, CollectedFile, answer_of
from fedlearn.errors import RecordError, RunError

FIRST = "0123456789abcdef"
SECOND = "fedcba9876543210"


def answer(number, outbox=FIRST, first=0):
    body = {"id": f"{outbox}-{number}", "sample": str(number)}
    return Answer(outbox, number, "site/a", body, first)


def samples(path):
    return [json.loads(line)["sample"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"1",
        b"{}",
        b'{"id":1}',
        b'{"id":"x-1"}',
        b'{"id":"0123456789abcdef-0"}',
        b'{"id":"0123456789abcdef-01"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_what_is_no_answer(payload):
    assert answer_of("t", payload) is None


def test_an_answer_is_read():
    payload = b'{"id":"0123456789abcdef-17","label":"car"}'
    read = answer_of("t", payload, "12")
    assert read is not None
    assert (read.outbox, read.number, read.first) == (FIRST, 17, 12)
    unknown = answer_of("t", payload, "-1")
    assert unknown is not None and unknown.first == 0


def test_each_comes_once_and_duplicates_are_counted(tmp_path):
    path = tmp_path / "out"
    file = CollectedFile(path)
    assert file.write([answer(1), answer(2), answer(2)]) == 2
    assert file.write([answer(2), answer(1, SECOND)]) == 1
    assert file.duplicates == 2 and len(file) == 3
    file.close()
    again = CollectedFile(path)
    assert again.name == file.name and again.duplicates == 2
    assert again.write([answer(1), answer(3)]) == 1
    assert samples(path) == ["1", "2", "1", "3"]
    assert json.loads(path.read_text().splitlines()[0])["topic"] == "site/a"


def test_a_kill_before_the_state_is_noted_loses_nothing(tmp_path):
    path = tmp_path / "out"
    file = CollectedFile(path)
    state = (tmp_path / "out.state").read_bytes()
    file.write([answer(1), answer(2)])
    file.close()
    (tmp_path / "out.state").write_bytes(state)
    with open(path, "ab") as torn:
        torn.write(b'{"id":"0123456789ab')
    file = CollectedFile(path)
    assert file.write([answer(1), answer(2), answer(3)]) == 1
    assert samples(path) == ["1", "2", "3"]


def test_a_file_that_was_taken_away_begins_anew_and_repeats_nothing(tmp_path):
    path = tmp_path / "out"
    file = CollectedFile(path)
    file.write([answer(1)])
    file.close()
    path.rename(tmp_path / "old")
    file = CollectedFile(path)
    assert file.write([answer(1), answer(2)]) == 1
    assert samples(path) == ["2"]


def test_what_an_outbox_has_dropped_is_counted(tmp_path):
    file = CollectedFile(tmp_path / "out")
    # What it had before it was met may be elsewhere.
    file.write([answer(5, first=4)])
    assert file.lost == 0
    file.write([answer(9, first=8)])
    # 4, 6 and 7; 5 came.
    assert file.lost == 3
    file.write([answer(10, first=8)])
    assert file.lost == 3


def test_a_disk_that_refuses_promises_nothing(tmp_path, monkeypatch):
    path = tmp_path / "out"
    file = CollectedFile(path)
    file.write([answer(1)])

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="No space"):
            file.write([answer(2)])
    assert samples(path) == ["1"]
    assert file.write([answer(2)]) == 1
    assert samples(path) == ["1", "2"]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "out"
    path.write_text("my notes\nmore\n")
    with pytest.raises(RecordError, match="what is no answer at byte 0"):
        CollectedFile(path)
    assert path.read_text() == "my notes\nmore\n"
    file = CollectedFile(tmp_path / "b")
    with pytest.raises(RunError, match="another process is writing"):
        CollectedFile(tmp_path / "b")
    file.close()
    (tmp_path / "b.state").write_text("{")
    with pytest.raises(RecordError, match=r"b\.state' is damaged"):
        CollectedFile(tmp_path / "b")
