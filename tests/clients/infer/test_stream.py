"""Streams: every source, every outlet, and each answer once over kills and changes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fedlearn.clients.infer import stream, stream_state
from fedlearn.clients.infer.followed_folder import FollowedFolder
from fedlearn.clients.infer.followed_rows import FollowedRows
from fedlearn.clients.infer.outlets import FileOutlet
from fedlearn.clients.infer.tally import Tally, moment
from fedlearn.commands.infer import main
from fedlearn.errors import RunError, UserError
from tests.clients.infer import graphs

WAIT_S = 30.0


@pytest.fixture
def model(tmp_path):
    return graphs.scaled(tmp_path / "m.onnx", labels=False)


@pytest.fixture
def state(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(folder, *numbers):
    folder.mkdir(exist_ok=True)
    for number in numbers:
        # As a program writes that others must not see half-way.
        part = folder / f".{number}.npy"
        np.save(part, np.full(3, number, np.float32))
        part.rename(folder / f"{number}.npy")


def arguments(tmp_path, source, to, *more):
    return [
        *(str(tmp_path / "m.onnx"), "--source", source, "--to", to, "--quiet"),
        *("--state", str(tmp_path / "state"), *more),
    ]


def until(condition):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


class Stopped(threading.Event):
    """Set after some waits: a stream that follows would never end by itself."""

    def __init__(self, waits):
        super().__init__()
        self._waits = waits

    def wait(self, timeout=None):
        self._waits -= 1
        if self._waits < 0:
            self.set()
        return self.is_set()


def run(model, source, outlet, stopping=None, **settings):
    tally = settings.pop("tally", None)
    watched = stream.WatchedModel(model, False, lambda text: None)
    streaming = stream.Stream(
        watched,
        source,
        outlet,
        stream.StreamSettings(**settings),
        lambda text: None,
        stopping or threading.Event(),
        tally,
    )
    try:
        streaming.run()
    finally:
        source.close()
        outlet.close(0.0)
    return streaming


def test_new_files_are_taken_once(model, tmp_path, state):
    folder = tmp_path / "in"
    out = tmp_path / "out"
    write(folder, 2, 10, 1)
    streaming = run(
        model,
        FollowedFolder(folder, state, True, stopping := Stopped(3)),
        FileOutlet(out),
        stopping,
    )
    assert streaming.count == 3
    write(folder, 11)
    (folder / "notes.txt").write_text("no sample")
    (folder / ".12.npy").write_bytes(b"being written")
    run(model, FollowedFolder(folder, state, False, Stopped(9)), FileOutlet(out))
    answers = rows(out)
    # In the order in which people count; files that came later come after.
    assert [answer["sample"] for answer in answers] == [
        *("1.npy", "2.npy", "10.npy", "11.npy")
    ]
    assert [answer["score"] for answer in answers] == [2.0, 4.0, 20.0, 22.0]
    assert {"id", "sample", "version", "label", "score", "time", "output"} == {
        *answers[0]
    }


def test_a_file_that_is_still_written_is_waited_for(model, tmp_path, state):
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "1.npy"
    source = FollowedFolder(folder, state, True, Stopped(99))
    path.write_bytes(b"half")
    assert source.take(9) == []
    # Its bytes have changed: it has to be the same in two looks.
    np.save(path, np.ones(3, np.float32))
    assert source.take(9) == []
    assert [arrival.name for arrival in source.take(9)] == ["1.npy"]
    source.close()


def test_a_file_that_is_replaced_is_a_new_sample(model, tmp_path, state):
    folder = tmp_path / "in"
    out = tmp_path / "out"
    write(folder, 1)
    for value in (5, 6):
        np.save(folder / "1.npy", np.full(3, value, np.float32))
        os.utime(folder / "1.npy", ns=(value, value))
        run(model, FollowedFolder(folder, state, False, Stopped(9)), FileOutlet(out))
        run(model, FollowedFolder(folder, state, False, Stopped(9)), FileOutlet(out))
    assert [answer["score"] for answer in rows(out)] == [10.0, 12.0]


def test_the_ledger_forgets_files_that_have_gone(tmp_path, state):
    folder = tmp_path / "in"
    write(folder, 1)
    source = FollowedFolder(folder, state, False, Stopped(9))
    source.note(source.take(1))
    source._ledger.add(f"{number:016x}" for number in range(3000))
    source.close()
    assert (state / "ledger").stat().st_size == 3001 * 17
    source = FollowedFolder(folder, state, False, Stopped(9))
    assert source.take(9) == [] and source.is_over
    source.close()
    assert (state / "ledger").stat().st_size == 17


def test_a_torn_ledger_is_cut_off(tmp_path, state):
    folder = tmp_path / "in"
    write(folder, 1, 2)
    source = FollowedFolder(folder, state, False, Stopped(9))
    source.note(source.take(2))
    source.close()
    data = (state / "ledger").read_bytes()
    (state / "ledger").write_bytes(data[:-3])
    source = FollowedFolder(folder, state, False, Stopped(9))
    assert len(source.take(9)) == 1
    source.close()


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_an_answer_that_is_stored_and_not_noted_is_not_repeated(
    model, tmp_path, state, monkeypatch, kind
):
    """The moment between the two: as after a kill."""
    folder = tmp_path / "in"
    write(folder, *range(6))
    table = tmp_path / "in.csv"
    table.write_text("".join(f"{number},0,0\n" for number in range(6)))
    out = tmp_path / "out"

    def source():
        if kind == "folder":
            return FollowedFolder(folder, state, False, Stopped(9))
        return FollowedRows(table, state, False, Stopped(9))

    first = source()
    note = first.note

    def killed(arrivals):
        if arrivals[0].name.startswith("2"):
            raise KeyboardInterrupt
        note(arrivals)

    monkeypatch.setattr(first, "note", killed)
    with pytest.raises(KeyboardInterrupt):
        run(model, first, FileOutlet(out), batch=2)
    assert len(rows(out)) == 4
    # Half of a line is what a kill may leave, too.
    with open(out, "a") as file:
        file.write('{"id":"0123')
    run(model, source(), FileOutlet(out), batch=2)
    scores = [answer["output"][0] for answer in rows(out)]
    assert scores == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]


def test_rows_that_are_added_are_taken_once(model, tmp_path, state):
    table = tmp_path / "in.csv"
    out = tmp_path / "out"
    table.write_text("a,b,c\n1,0,0\n2,0,0\n\n3,0")

    def go_on():
        source = FollowedRows(table, state, True, stopping := Stopped(1))
        run(model, source, FileOutlet(out), stopping)

    go_on()
    assert [answer["sample"] for answer in rows(out)] == ["0", "1"]
    with open(table, "a") as file:
        file.write(",0\nx,0,0\n4,0,0\n")
    go_on()
    assert [answer.get("score", answer.get("error")) for answer in rows(out)] == [
        *(2.0, 4.0, 6.0, "'x' is no number", 8.0)
    ]
    # A table in its place begins with its own first row.
    table.unlink()
    table.write_text("7,0,0\n")
    go_on()
    assert rows(out)[-1]["score"] == 14.0 and rows(out)[-1]["sample"] == "0"
    assert len(rows(out)) == 6


def test_a_table_that_is_rotated_is_read_to_its_end_first(model, tmp_path, state):
    table = tmp_path / "in.csv"
    table.write_text("1,0,0\n")
    source = FollowedRows(table, state, True, Stopped(99))
    source.note(source.take(9))
    with open(table, "a") as file:
        file.write("2,0,0\n")
    table.rename(tmp_path / "in.csv.1")
    table.write_text("3,0,0\n")
    values = []
    for _ in range(3):
        arrivals = source.take(1)
        values += [arrival.read()[0] for arrival in arrivals]
        source.note(arrivals)
    source.close()
    assert values == [2.0, 3.0]


def test_a_model_changes_while_the_stream_goes_on(tmp_path, state):
    graphs.scaled(tmp_path / "a.onnx", factor=1.0, labels=False)
    graphs.scaled(tmp_path / "b.onnx", factor=3.0, labels=False)
    graphs.two_inputs(tmp_path / "two.onnx")
    serving = tmp_path / "serving.json"
    serving.write_text('{"model": "a.onnx"}')
    said: list[str] = []
    watched = stream.WatchedModel(serving, False, said.append)
    first = watched.model.version
    for name in ("two", "absent"):
        part = tmp_path / "part"
        part.write_text(json.dumps({"model": f"{name}.onnx"}))
        part.rename(serving)
        watched.look()
        assert watched.model.version == first and "goes on" in said[-1]
    part.write_text('{"model": "b.onnx"}')
    part.rename(serving)
    watched.look()
    assert watched.model.version != first and "in the place of" in said[-1]
    count = len(said)
    watched.look()
    assert len(said) == count
    watched.is_asked_again = True
    watched.look()
    assert len(said) == count + 1


def test_counts_by_class_come_once(tmp_path, state, monkeypatch):
    model = graphs.scaled(tmp_path / "m.onnx")
    table = tmp_path / "in.csv"
    table.write_text("9,1,1\n9,1,1\n1,9,1\n1,2,300\n1,1,9\n")
    out = tmp_path / "out"
    # Killed after the second group was counted, before its rows were noted.
    source = FollowedRows(table, state, False, Stopped(9))
    note = source.note
    counts = state / stream_state.COUNTS

    def killed(arrivals):
        if arrivals[0].name == "2":
            raise KeyboardInterrupt
        note(arrivals)

    monkeypatch.setattr(source, "note", killed)
    with pytest.raises(KeyboardInterrupt):
        run(model, source, FileOutlet(out), batch=2, tally=Tally(counts, 3600))
    assert rows(out) == []
    source = FollowedRows(table, state, False, Stopped(9))
    run(model, source, FileOutlet(out), batch=2, tally=Tally(counts, 3600))
    [answer] = rows(out)
    assert answer["count"] == {"high": 1, "low": 2, "middle": 1}
    assert answer["errors"] == 1
    assert answer["since"] <= answer["time"]


def test_a_window_that_was_stored_before_a_kill_is_not_stored_again(tmp_path, state):
    model = graphs.scaled(tmp_path / "m.onnx")
    table = tmp_path / "in.csv"
    table.write_text("9,1,1\n")
    out = tmp_path / "out"
    counts = state / stream_state.COUNTS
    tally = Tally(counts, 3600)
    tally.add([{"label": "low"}], ["0" * 16], "1")
    outlet = FileOutlet(out)
    outlet.put([tally.answer()])
    outlet.close(0.0)
    tally.close()
    table.write_text("")
    source = FollowedRows(table, state, False, Stopped(9))
    run(model, source, FileOutlet(out), tally=Tally(counts, 3600))
    assert len(rows(out)) == 1


def test_a_window_ends_when_the_clock_is_set_back(state):
    tally = Tally(state / "counts", 60)
    assert tally.is_empty and not tally.is_due()
    tally.add([], [], "1")
    assert not tally.is_due()
    tally._since += 3600
    assert tally.is_due()
    tally.close()


def test_moments():
    assert moment(0.0) == "1970-01-01T00:00:00.000Z"
    assert moment(1e9 + 0.9996) == "2001-09-09T01:46:40.999Z"


def test_two_streams_need_two_folders(tmp_path):
    first = stream_state.StreamState(tmp_path / "s")
    first.note({"to": "file:x"})
    with pytest.raises(RunError, match="give another --state"):
        stream_state.StreamState(tmp_path / "s")
    first.close()
    again = stream_state.StreamState(tmp_path / "s")
    assert again.name == first.name
    again.close()


def test_the_folder_of_a_source_must_be_there(tmp_path, state):
    with pytest.raises(UserError, match="there is no folder"):
        FollowedFolder(tmp_path / "absent", state, True, Stopped(1))
    with pytest.raises(UserError, match="cannot be read: No such file"):
        FollowedRows(tmp_path / "absent", state, True, Stopped(1))


def test_the_command_follows_a_folder_and_ends_in_order(model, tmp_path):
    folder = tmp_path / "in"
    write(folder, 1)
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "fedlearn", "infer"]
    command += arguments(tmp_path, f"folder:{folder}", f"file:{out}", "--follow")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: out.exists() and len(rows(out)) == 1)
        write(folder, 2)
        until(lambda: len(rows(out)) == 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.communicate()
    assert [row["output"] for row in rows(out)] == [[2.0] * 3, [4.0] * 3]


def test_the_command_is_killed_and_each_answer_is_there_once(model, tmp_path):
    folder = tmp_path / "in"
    write(folder, *range(40))
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "fedlearn", "infer"]
    command += arguments(tmp_path, f"folder:{folder}", f"file:{out}", "--batch", "1")
    # Not by a source's kind: a folder that is not followed would be a batch.
    command += ["--follow"]
    for wanted in (10, 25):
        process = subprocess.Popen(command)
        until(lambda count=wanted: out.exists() and len(lines(out)) >= count)
        process.kill()
        process.wait()
    process = subprocess.Popen(command)
    try:
        until(lambda: len(lines(out)) >= 40)
    finally:
        process.terminate()
        process.wait(WAIT_S)
    assert sorted(int(Path(row["sample"]).stem) for row in rows(out)) == [*range(40)]


def lines(path):
    return path.read_bytes().splitlines()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--source", "folder:x", "--to", "csv:y", "--follow"], "is for a batch"),
        (["--source", "csv:x", "--to", "file:y", "--post", "top:3"], "add --follow"),
        (["--source", "folder:x", "--to", "mqtt:a/#"], "are for subscribers"),
        (["--source", "mqtt:a#", "--to", "file:y"], "--source mqtt:a#"),
        (
            ["--source", "folder:x", "--to", "file:y", "--follow", "--every", "1"],
            "--every goes with",
        ),
        (
            ["--source", "folder:x", "--to", "mqtt:y", "--outbox-mb", "nan"],
            "--outbox-mb nan",
        ),
        (
            ["--source", "folder:x", "--to", "file:y", "--follow", "--pre", "resise:1"],
            "there is no step 'resise'. Did you mean 'resize'?",
        ),
        (
            ["--source", "csv:x", "--to", "mqtt:y", "--broker", "u:p@h"],
            "do not go into the address",
        ),
    ],
)
def test_wrong_arguments_are_one_line(model, tmp_path, more, words, capsys):
    assert main([str(model), "--state", str(tmp_path / "s"), *more]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
