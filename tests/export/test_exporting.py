"""``fedlearn export``: a run becomes a folder, whole and proven, or nothing."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from itertools import groupby

import pytest

import fedlearn as fl
from fedlearn.commands import export as command
from fedlearn.errors import ModelError, UserError
from fedlearn.export import exporting, parity
from fedlearn.export.exporting import Options, export
from fedlearn.export.latency import TURNS, microseconds
from fedlearn.export.onnx import graph_of
from fedlearn.runs.trained import load
from tests.export.short import short

CONFIG = {
    "experiment": {"name": "export", "rounds": 2},
    "data": {"name": "digits", "partition": {"kind": "iid", "clients": 3}},
    "model": {"name": "cnn-small"},
    "train": {"lr": 0.1},
    "strategy": {"name": "fedavg", "fraction_train": 1.0},
    "engine": {"kind": "serial"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "run"
    return fl.run(CONFIG, out=folder, quiet=True)


def test_a_run_becomes_a_folder_and_a_table(run, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(run.folder), "--int8", "--gate", "3", "--out", str(out)]
    assert command.main(arguments) == 0
    shown = capsys.readouterr().out.splitlines()
    labels = [line.split("  ")[0] for line in shown[1:4]]
    assert labels == ["torch", "onnx", "onnx int8 static"]
    assert shown[-1] == str(out)
    names = {"graph.onnx", "weights.bin", "int8.onnx", "int8.bin", "export.json"}
    assert {path.name for path in out.iterdir()} == names
    record = json.loads((out / "export.json").read_text())
    assert record["model_sha256"] == run.summary["model_sha256"]
    onnx, int8 = record["artefacts"]
    assert onnx["accuracy"] == onnx["torch_accuracy"] == run.summary["accuracy"]
    assert onnx["changed"] == 0 and onnx["largest_difference"] < 1e-4
    assert int8["torch_accuracy"] - int8["accuracy"] <= 0.03


@pytest.mark.parametrize("target", ["onnx", "torchscript"])
def test_two_processes_write_the_same_bytes(target, run, tmp_path):
    for name in ("first", "second"):
        code = (
            "import sys; from fedlearn.commands.export import main; "
            f"sys.exit(main([{str(run.folder)!r}, '--to', {target!r}, '--out', "
            f"{str(tmp_path / name)!r}]))"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert len(files) == (3 if target == "onnx" else 2)
    for file in files:
        first = (tmp_path / "first" / file).read_bytes()
        assert first == (tmp_path / "second" / file).read_bytes()
        # Nothing tells where it was made.
        assert str(tmp_path).encode() not in first


def test_a_file_of_weights_is_exported_with_its_config(run, tmp_path):
    arguments = [str(run.folder / "model.safetensors"), "--out", str(tmp_path / "out")]
    config = str(run.folder / "config.toml")
    assert command.main([*arguments, "--config", config]) == 0
    weights = (tmp_path / "out" / "weights.bin").read_bytes()
    trained = load(str(run.folder))
    assert weights == trained.state.floats.astype("<f4").tobytes()


def test_a_folded_export_says_so(tmp_path):
    trained = short("resnet-small", "model.norm=batch")
    report = export(trained, tmp_path / "out", Options(fold=True))
    assert report.rows[0].label == "onnx folded"
    assert report.rows[0].bytes < 4 * trained.layout.floats + 30_000


def test_a_groupnorm_model_says_that_int8_gains_little(tmp_path):
    trained = short("resnet-small")
    report = export(trained, tmp_path / "out", Options(int8=True, gate=100))
    assert any('norm = "batch"' in note for note in report.notes)
    batch = short("resnet-small", "model.norm=batch")
    report = export(batch, tmp_path / "batch", Options(int8=True, gate=100))
    assert not any('norm = "batch"' in note for note in report.notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--int8", "--to", "litert"], "--int8 is for --to onnx"),
        (["{run}", "--fold", "--to", "openvino"], "--fold is for --to onnx"),
        (["{run}", "--gate", "1"], "--gate is for --int8"),
        (["{run}", "--int8", "--gate", "nan"], "percentage points from 0 to 100"),
        (["{run}", "--int8", "--gate", "-1"], "percentage points from 0 to 100"),
        (["{run}", "--to", "tflite"], "invalid choice: 'tflite'"),
        (["{run}", "--out", "{run}"], "exists; remove it"),
        (["{tmp}/none"], "is no run folder"),
        (["{tmp}/unfinished"], "the run is not finished; resume it first"),
        (["{run}/model.safetensors"], "is no run folder"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, message, run, tmp_path, capsys):
    (tmp_path / "unfinished").mkdir()
    config = (run.folder / "config.toml").read_text()
    (tmp_path / "unfinished" / "config.toml").write_text(config)
    texts = [text.format(run=run.folder, tmp=tmp_path) for text in arguments]
    try:
        code = command.main(texts)
    except SystemExit as ending:
        code = int(ending.code or 0)
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == 1 and message in lines[0]


def test_arguments_are_checked_before_torch_is_imported():
    code = (
        "import sys\nfrom fedlearn.commands.export import main\n"
        "main(['run', '--gate', '1'])\nprint({'torch', 'flwr', 'onnx'} & set(sys.modules))"
    )
    shown = subprocess.check_output(
        [sys.executable, "-c", code], text=True, stderr=subprocess.DEVNULL
    )
    assert shown.splitlines()[-1] == "set()"


def test_a_graph_that_is_not_the_model_leaves_nothing(monkeypatch, tmp_path):
    trained = short("logistic", "data.name=digits")
    other = short("logistic", "data.name=digits", seed=1)
    graph = graph_of(other)
    monkeypatch.setattr(exporting, "graph_of", lambda _: graph)
    with pytest.raises(
        ModelError, match="onnx: the exported model is not the trained one"
    ):
        export(trained, tmp_path / "out", Options())
    assert list(tmp_path.iterdir()) == []


def test_int8_that_loses_too_much_leaves_nothing(monkeypatch, tmp_path):
    trained = short("logistic", "data.name=digits")
    proof = parity.Parity(0.5, 0, 3, 1000, accuracy=0.85, torch_accuracy=0.862)
    whole = parity.compare

    def compare(model, score, batches):
        is_int8 = len(batches) == 1
        return proof if is_int8 else whole(model, score, batches)

    monkeypatch.setattr(parity, "compare", compare)
    with pytest.raises(
        ModelError,
        match=r"onnx int8 dynamic: accuracy falls from 86\.20 % to 85\.00 %, by 1\.20",
    ):
        export(trained, tmp_path / "out", Options(int8=True))
    assert list(tmp_path.iterdir()) == []
    export(trained, tmp_path / "out", Options(int8=True, gate=1.3))


def test_an_empty_folder_may_be_the_place(tmp_path):
    (tmp_path / "out").mkdir()
    trained = short("logistic", "data.name=digits")
    report = export(trained, tmp_path / "out", Options())
    assert (report.folder / "graph.onnx").exists()
    with pytest.raises(UserError, match="exists; remove it"):
        export(trained, tmp_path / "out", Options())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    trained = short("logistic", "data.name=digits")
    with pytest.raises(UserError, match="choose another folder by --out"):
        export(trained, tmp_path / "file" / "out", Options())


def test_calls_take_turns():
    order = []

    def call(name):
        order.append(name)
        sum(range(2000))

    figures = microseconds({"a": lambda: call("a"), "b": lambda: call("b")})
    assert figures.keys() == {"a", "b"} and min(figures.values()) > 0
    turns = "".join(name for name, _ in groupby(order))
    # Each warms up and is estimated once; then they alternate.
    assert turns == "ab" + "ab" * TURNS


@pytest.mark.parametrize("target", ["openvino", "executorch", "litert"])
def test_an_extra_that_is_missing_is_one_line(target, monkeypatch, tmp_path):
    real = importlib.import_module

    def imported(name):
        if name.partition(".")[0] in ("openvino", "executorch", "ai_edge_litert"):
            raise ImportError(f"No module named '{name}'")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", imported)
    trained = short("logistic", "data.name=digits")
    with pytest.raises(UserError, match=rf"pip install 'fedlearn\[{target}\]'"):
        export(trained, tmp_path / "out", Options(target))
    assert list(tmp_path.iterdir()) == []


def test_a_report_names_its_folder(tmp_path):
    trained = short("logistic", "data.name=digits")
    report = export(replace(trained), tmp_path / "a" / "b", Options())
    assert report.folder == tmp_path / "a" / "b"
    assert report.torch_microseconds > 0 and report.rows[0].microseconds > 0
