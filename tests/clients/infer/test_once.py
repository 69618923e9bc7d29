"""A batch: every source and every kind of answer, cut off and gone on with."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from fedlearn.clients.infer import once, sink
from fedlearn.clients.infer.model import load
from fedlearn.commands.infer import main
from fedlearn.errors import DataError, UserError
from tests.clients.infer import graphs


@pytest.fixture
def model(tmp_path):
    return graphs.scaled(tmp_path / "m.onnx")


def printed(model, source, batch=4):
    lines: list[str] = []
    once.print_answers(load(model), source, batch, lines.append)
    return list(csv.reader(lines))


def test_files_of_numbers(model, tmp_path):
    x = np.arange(18, dtype=np.float32).reshape(6, 3)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", x=x, y=np.zeros(6))
    np.save(tmp_path / "one.npy", x[1])
    rows = printed(model, tmp_path / "a.npy")
    assert rows == printed(model, tmp_path / "a.npz")
    assert [row[0] for row in rows] == list("012345")
    assert rows[1][2:] == ["high", "10.0", "", "6.0", "8.0", "10.0"]
    assert [row[2:] for row in printed(model, tmp_path / "one.npy")] == [rows[1][2:]]


def test_rows_of_csv_are_raw_samples_as_the_model_says(model, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("red,green,blue\n0,51,255\n255,0,0\n")
    rows = printed(model, path)
    assert [row[2] for row in rows] == ["high", "low"]
    assert float(rows[0][6]) == pytest.approx(0.4)
    path.write_text("0,51,256\n")
    with pytest.raises(DataError, match="sample '0': line 1: a value is no uint8"):
        printed(model, path)
    path.write_text("0,51\n")
    with pytest.raises(DataError, match="2 values, and a sample has 3"):
        printed(model, path)


def test_samples_of_any_length_are_computed_apart(tmp_path):
    model = graphs.lengths(tmp_path / "m.onnx")
    folder = tmp_path / "samples"
    folder.mkdir()
    for length in (1, 2, 2, 3):
        name = folder / f"{len(list(folder.iterdir()))}.npy"
        np.save(name, np.full((length, 2), length, np.float32))
    rows = printed(model, folder)
    assert [row[5] for row in rows] == ["1.0", "2.0", "2.0", "3.0"]


def test_a_model_of_one_sample_at_a_time(tmp_path):
    model = graphs.fixed(tmp_path / "m.onnx")
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3, 4]], np.float32))
    rows = printed(model, tmp_path / "a.npy")
    assert [row[5:] for row in rows] == [["1.0", "4.0"], ["9.0", "16.0"]]


@pytest.mark.parametrize("kind", ["file", "csv"])
def test_a_folder_goes_on_where_it_was_cut_off(model, tmp_path, monkeypatch, kind):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(10):
        np.save(folder / f"{number}.npy", np.full(3, number, np.float32))
    whole = tmp_path / "whole"
    once.compute(load(model), folder, (kind, whole), 2, lambda text: None)
    out = tmp_path / "out"
    write = sink.AnswerFile.write

    def cut(self, answers):
        write(self, answers)
        if len(self.names) == 0 and b"5" in self._part.read_bytes():
            raise KeyboardInterrupt

    monkeypatch.setattr(sink.AnswerFile, "write", cut)
    with pytest.raises(KeyboardInterrupt):
        once.compute(load(model), folder, (kind, out), 2, lambda text: None)
    monkeypatch.undo()
    part = tmp_path / "out.part"
    # Half of a line, as a killed process leaves it.
    data = part.read_bytes()
    part.write_bytes(data[:-4])
    assert not out.exists() and 2 <= data.count(b"\n") < 10
    lines: list[str] = []
    once.compute(load(model), folder, (kind, out), 2, lines.append)
    assert out.read_bytes() == whole.read_bytes()
    assert "are answered already" in lines[0]
    assert not part.exists()


def test_another_version_does_not_go_on(model, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    part = tmp_path / "out.part"
    part.write_text('{"sample":"0","version":"old"}\n')
    with pytest.raises(Exception, match="was begun with version old"):
        once.compute(
            load(model),
            tmp_path / "a.npy",
            ("file", tmp_path / "out"),
            2,
            lambda text: None,
        )


def test_a_sample_that_cannot_be_read_has_a_line(model, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "a.npy", np.ones(3, np.float32))
    (folder / "b.png").write_bytes(b"no picture")
    np.save(folder / "c.npy", np.ones(4, np.float32))
    np.save(folder / "d.npy", np.array([np.nan, 1, 1], np.float32))
    (folder / "notes.txt").write_text("not a sample")
    out = tmp_path / "out.jsonl"
    arguments = [str(model), "--source", f"folder:{folder}", "--to", f"file:{out}"]
    assert main(arguments) == 3
    assert "3 samples could not be computed" in capsys.readouterr().err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["sample"] for line in lines] == ["a.npy", "b.png", "c.npy", "d.npy"]
    assert lines[0]["output"] == [2, 2, 2] and lines[0]["label"] == "low"
    assert "no PNG picture" in lines[1]["error"]
    assert "shape [4], and the model takes [3]" in lines[2]["error"]
    assert "no numbers" in lines[3]["error"]
    assert main(arguments) == 2
    assert "is there already" in capsys.readouterr().err


def test_pictures(tmp_path):
    from onnx import helper

    x = helper.make_tensor_value_info("x", graphs.FLOAT, ["batch", 1, 2, 2])
    y = helper.make_tensor_value_info("y", graphs.FLOAT, ["batch", 1, 2, 2])
    facts = {
        "fedlearn.preprocessing": '{"dtype":"uint8","cast":"float32","divide":255}'
    }
    node = helper.make_node("Identity", ["x"], ["y"])
    model = graphs._write(tmp_path / "m.onnx", [node], [x], [y], [], facts)
    folder = tmp_path / "in"
    folder.mkdir()
    for name, value in (("2.png", 255), ("10.png", 51)):
        Image.fromarray(np.full((2, 2), value, np.uint8)).save(folder / name)
    gray = Image.fromarray(np.full((2, 2, 2), 255, np.uint8), "LA")
    gray.save(folder / "11.png")
    Image.fromarray(np.zeros((3, 2), np.uint8)).save(folder / "12.png")
    rows: list[str] = []
    with pytest.raises(DataError, match=r"12.png.*shape \[1, 3, 2\]"):
        once.print_answers(load(model), folder, 2, rows.append)
    parsed = list(csv.reader(rows))
    assert [row[0] for row in parsed] == ["2.png", "10.png", "11.png"]
    assert [float(row[5]) for row in parsed] == pytest.approx([1.0, 0.2, 1.0])
    # One picture alone is a source too; what stands beside gray is no channel.
    assert printed(model, folder / "11.png")[0][5:] == parsed[2][5:]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.npy", "there is no"),
        ("a.txt", "none of .npy"),
        ("bad.npy", "no array of numpy"),
        ("bad.npz", "no arrays of numpy"),
        ("two.npz", "name the samples 'x'"),
        ("pickle.npy", "no array of numpy"),
        ("empty", "has no .npy or .png or .jpg or .jpeg files"),
    ],
)
def test_sources_that_are_none(model, tmp_path, name, words):
    (tmp_path / "a.txt").write_text("1")
    (tmp_path / "bad.npy").write_bytes(b"x")
    (tmp_path / "bad.npz").write_bytes(b"x")
    np.savez(tmp_path / "two.npz", a=np.ones(3), b=np.ones(3))
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises((DataError, UserError), match=words):
        printed(model, tmp_path / name)
