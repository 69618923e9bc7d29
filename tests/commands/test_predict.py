"""``fedlearn predict``: the model of a run answers for the samples of a file."""

import csv
import io
import json

import numpy as np
import pytest

import fedlearn
from fedlearn.commands.predict import main
from fedlearn.data.images import digits
from tests.jobs import CONFIG, run

FEATURES = CONFIG.replace('name = "digits"', f'name = "{__name__}:rows"').replace(
    'kind = "dirichlet"\nclients = 12\nalpha = 1.0', 'kind = "iid"\nclients = 4'
)


def rows():
    random = np.random.default_rng(5)
    x = random.normal(size=(300, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    return x[:200], y[:200], x[200:], y[200:]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return run(tmp_path_factory.mktemp("pictures") / "run").folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return run(tmp_path_factory.mktemp("table") / "run", config=FEATURES).folder


def printed(capsys):
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_pictures_get_a_class_each(ending, pictures, tmp_path, capsys):
    x = digits().test.x[:7]
    path = tmp_path / f"new.{ending}"
    np.savez(path, x=x) if ending == "npz" else np.save(path, x)
    assert main([str(pictures), str(path)]) == 0
    classes = [int(row["class"]) for row in printed(capsys)]
    assert classes == fedlearn.load(pictures).predict(x).tolist()


def test_a_csv_with_names_and_one_without(table, tmp_path, capsys):
    x = rows()[2][:4]
    for head in ("a,b,c\n", ""):
        path = tmp_path / f"{len(head)}.csv"
        lines = [",".join(f"{value:.6f}" for value in row) for row in x]
        path.write_text(head + "\n".join(lines) + "\n")
        assert main([str(table), str(path), "--probabilities"]) == 0
        answers = printed(capsys)
        wanted = fedlearn.load(table).predict(x, probabilities=True)
        shares = [[float(row["p0"]), float(row["p1"])] for row in answers]
        assert np.abs(np.array(shares) - wanted).max() < 1e-5


def test_json_and_a_file(table, tmp_path, capsys):
    path = tmp_path / "new.npy"
    np.save(path, rows()[2][:3])
    assert main([str(table), str(path), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["sample"] for line in lines] == [0, 1, 2]
    out = tmp_path / "answers.csv"
    assert main([str(table), str(path), "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 4
    assert main([str(table), str(path), "--out", str(out)]) == 2
    assert "exists; name a new file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("absent.csv", None, "there is no such file"),
        ("empty.csv", "", "holds no sample"),
        ("names.csv", "a,b,c\n", "holds no sample"),
        ("short.csv", "1,2,3\n1,2\n", "row 2: 2 values, where row 1 has 3"),
        (
            "words.csv",
            "a,b,c\n1,2,3\n4,five,6\n",
            "row 3, column 2: 'five' is no number",
        ),
        ("nan.csv", "1,2,nan\n", "column 3: 'nan' is no number"),
        ("wide.csv", "1,2,3,4\n", "samples of shape (4,); the model takes (3,)"),
        ("text.npz", "a,b\n", "is text, such as CSV or JSON"),
        ("text.npy", "a,b\n", "is text, such as CSV or JSON"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    name, content, told, table, tmp_path, capsys
):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    assert main([str(table), str(path)]) == 2
    output = capsys.readouterr()
    assert told in output.err
    assert output.out == ""


def test_an_npy_of_objects_is_never_unpickled(table, tmp_path, capsys):
    path = tmp_path / "objects.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert main([str(table), str(path)]) == 2
    message = capsys.readouterr().err
    assert "cannot be read as an array of numbers" in message
    assert "allow_pickle" not in message


def test_a_folder_that_is_no_run_is_told(tmp_path, capsys):
    assert main([str(tmp_path), str(tmp_path / "x.npz")]) == 2
    assert str(tmp_path) in capsys.readouterr().err
