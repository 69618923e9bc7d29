"""The command from a run to a chosen variant: its table, its files, and every way to stop."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fedlearn as fl
from fedlearn.commands.compress import main
from fedlearn.compress import making, rounds
from fedlearn.config import read
from fedlearn.runs.trained import load

CONFIG = {
    "experiment": {"name": "digits", "rounds": 6},
    "data": {"name": "digits", "partition": {"kind": "iid", "clients": 4}},
    "model": {"name": "cnn-small"},
    "train": {"lr": 0.1, "epochs": 2},
    "strategy": {"name": "fedavg", "fraction_train": 0.5},
    "engine": {"kind": "serial"},
    "expect": {"accuracy": 0.1},
}
# Quick, and wide enough that no noise of this small test set refuses anything.
QUICK = ["--rounds", "1", "--gate", "90"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compress") / "run"
    return fl.run(CONFIG, out=folder, quiet=True).folder


@pytest.fixture(scope="module")
def out(run, tmp_path_factory):
    """Return the folder of a comparison of every kind of step."""
    folder = tmp_path_factory.mktemp("compared") / "out"
    steps = ["--prune", "0.5", "--binary", "--cut", "conv2", *QUICK]
    assert main([str(run), *steps, "--quiet", "--out", str(folder)]) == 0
    return folder


def facts(out):
    return json.loads((out / "compress.json").read_text())


def rows(out):
    return {row["name"]: row for row in facts(out)["rows"]}


def test_every_step_and_their_combination_is_a_row(out):
    table = rows(out)
    assert list(table) == ["original", "prune-0.5", "binary", "prune-0.5+binary"]
    assert table["original"]["parameters"] == 13_706
    assert table["prune-0.5"]["parameters"] == 3_658
    # 8·8·... bits in the place of floats: hidden has 64 · 128 weights.
    assert table["binary"]["bytes"] < table["original"]["bytes"] / 4
    for row in table.values():
        folder = out / row["folder"]
        assert row["bytes"] == sum((folder / f).stat().st_size for f in row["files"])
        assert 0 <= row["accuracy"] <= 1
        assert row["cpu_us"] > 0
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_the_smallest_that_passed_is_chosen_and_cut(out):
    verdict = facts(out)
    passed = [row for row in verdict["rows"][1:] if not row["refusal"]]
    smallest = min(passed, key=lambda row: row["bytes"])
    assert verdict["chosen"] == smallest["name"]
    assert verdict["cut"]["model"] == smallest["name"]
    assert verdict["cut"]["largest_difference"] <= 1e-4
    assert verdict["cut"]["accuracy"] == smallest["accuracy"]
    assert (out / "cut" / "head.onnx").exists()
    assert (out / "cut" / "tail.onnx").exists()


@pytest.mark.parametrize("name", ["prune-0.5", "prune-0.5+binary"])
def test_a_variants_folder_is_taken_as_a_runs(name, out, tmp_path):
    # Moved: its config means the model beside it, wherever the folder lies.
    folder = shutil.copytree(out / name, tmp_path / "moved")
    trained = load(str(folder))
    assert trained.layout.trained == 3_658
    assert read(str(folder / "config.toml")).model.weights == str(
        folder / "model.safetensors"
    )
    again = fl.run(
        folder / "config.toml",
        {"experiment.rounds": 1},
        out=tmp_path / "run",
        quiet=True,
    )
    assert again.rounds[0]["accuracy"] == rows(out)[name]["accuracy"]
    # And a whole compression begins with it, which finds 8 filters and no more to prune.
    arguments = [str(folder), "--low-rank", "0.5", "--out", str(tmp_path / "out")]
    assert main([*arguments, *QUICK, "--quiet"]) in (0, 4)


def test_what_is_made_is_not_made_again(run, out, tmp_path, monkeypatch):
    out = shutil.copytree(out, tmp_path / "out")
    monkeypatch.setattr(making, "fine_tune", None)
    before = (out / "prune-0.5" / "variant.json").stat().st_mtime_ns
    arguments = [str(run), "--prune", "0.5", *QUICK, "--quiet", "--out", str(out)]
    assert main(arguments) == 0
    assert (out / "prune-0.5" / "variant.json").stat().st_mtime_ns == before
    assert list(rows(out)) == ["original", "prune-0.5"]


def test_a_damaged_variant_is_made_again(run, out, tmp_path):
    out = shutil.copytree(out, tmp_path / "out")
    weights = out / "prune-0.5" / "weights.bin"
    before = weights.read_bytes()
    weights.write_bytes(before[:-4])
    arguments = [str(run), "--prune", "0.5", *QUICK, "--quiet", "--out", str(out)]
    assert main(arguments) == 0
    assert weights.read_bytes() == before


def test_an_interrupted_comparison_goes_on(run, tmp_path, monkeypatch):
    fine_tune = rounds.fine_tune
    names = []

    def interrupted(experiment, name, *rest):
        names.append(name)
        if len(names) == 2:
            raise KeyboardInterrupt
        fine_tune(experiment, name, *rest)

    monkeypatch.setattr(making, "fine_tune", interrupted)
    arguments = [str(run), "--prune", "0.5", "--binary", *QUICK, "--quiet"]
    arguments += ["--out", str(tmp_path / "out")]
    assert main(arguments) == 130
    assert not (tmp_path / "out" / "compress.json").exists()
    assert main(arguments) == 0
    assert names == [
        "digits-prune-0.5",
        "digits-binary",
        "digits-binary",
        "digits-prune-0.5+binary",
    ]


def test_int8_needs_no_rounds_and_what_is_worse_is_not_chosen(run, tmp_path, capsys):
    arguments = [str(run), "--int8", "--gate", "0", "--json"]
    code = main([*arguments, "--out", str(tmp_path / "out")])
    printed = json.loads(capsys.readouterr().out)
    (row,) = printed["rows"][1:]
    assert row["files"] == ["int8.onnx", "int8.bin"]
    assert not (tmp_path / "out" / "int8" / "tuning").exists()
    # On one machine int8 is faster, on another one slower: the code says what the row says.
    assert code == (4 if row["refusal"] else 0)
    assert printed["chosen"] == (None if row["refusal"] else "int8")


def test_nothing_is_chosen_of_variants_that_lose_too_much(run, tmp_path, capsys):
    # Without rounds, what pruning broke stays broken.
    arguments = [str(run), "--prune", "0.9", "--rounds", "0", "--gate", "0"]
    code = main([*arguments, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert code == 4
    assert "refused: loses" in printed.out
    assert printed.err.startswith("fedlearn: no variant passed: ")
    assert facts(tmp_path / "out")["chosen"] is None


def test_a_file_of_weights_is_compressed_with_its_config(run, tmp_path):
    arguments = [str(run / "model.safetensors"), "--config", str(run / "config.toml")]
    arguments += ["--cut", "hidden", "--quiet", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert facts(tmp_path / "out")["cut"]["model"] == "original"


WRONG = [
    (["--gate", "0.5"], "nothing to do: give --prune SHARE"),
    (["--prune", "50"], "--prune 50: give a share of 1"),
    (["--prune", "0.5", "--gate", "-1"], "--gate -1: percentage points from 0 to 100"),
    (["--prune", "0.5", "--gate", "nan"], "--gate nan: percentage points"),
    (["--prune", "0.5", "--rounds", "-1"], "--rounds -1: at least 0"),
    (["--prune", "0.5", "--out", ""], "--out is empty"),
    (["--prune", "0.5", "--set", "train.lrr=1"], "Did you mean"),
    (["--cut", "conv9"], "--cut conv9: the model has no such layer"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_input_is_one_line_and_leaves_no_trace(
    arguments, message, run, tmp_path, capsys
):
    if "--out" not in arguments:
        arguments = [*arguments, "--out", str(tmp_path / "out")]
    assert main([str(run), *arguments]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_no_run_is_named(run, tmp_path, capsys):
    assert main([str(tmp_path / "none"), "--int8"]) == 2
    assert "does not exist; give a run folder" in capsys.readouterr().err
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.toml").write_text((run / "config.toml").read_text())
    assert main([str(tmp_path / "begun"), "--int8"]) == 2
    assert "the run is not finished; resume it first" in capsys.readouterr().err


def test_a_folder_in_use_is_refused_and_stays(run, out, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main([str(run), "--prune", "0.5", "--out", str(tmp_path)]) == 2
    assert (
        "is in use: it is not empty and holds no comparison" in capsys.readouterr().err
    )
    arguments = [str(run), "--prune", "0.5", "--rounds", "2", "--out", str(out)]
    assert main(arguments) == 2
    assert "is in use: its variants are of 1 rounds" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (["--prune", "0.5"], "nothing can be pruned of Logistic"),
        (["--low-rank", "0.5"], "nothing of Logistic can be cut to a lower rank"),
        (["--binary"], "nothing of 'logistic' can be binarised"),
    ],
)
def test_a_step_that_the_model_does_not_allow_is_told_before_any_round(
    step, message, tmp_path, capsys
):
    changes = {"model.name": "logistic", "experiment.rounds": 1}
    folder = fl.run(CONFIG, changes, out=tmp_path / "run", quiet=True).folder
    assert main([str(folder), *step, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["torch_pruning", "onnxruntime", "onnx"])
def test_a_missing_package_is_told_with_its_install_line(
    package, run, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, package, None)
    assert main([str(run), "--prune", "0.5"]) == 2
    line = capsys.readouterr().err
    assert f"compress needs {package.replace('_', '-')}: pip install" in line
    assert "fedlearn[compress]" in line


def test_arguments_are_checked_before_torch_is_imported():
    code = (
        "import sys\nfrom fedlearn.commands.compress import main\n"
        "print(main(['nowhere', '--prune', '0.5']), main(['.', '--prune', '7']))\n"
        "print(sorted({'torch', 'flwr', 'onnx', 'matplotlib'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert process.stdout.splitlines() == ["2 2", "[]"]


def test_the_memory_of_a_model_is_measured_without_fedlearn():
    """The file is run by its path: what it imports of ours would count as the model's."""
    from fedlearn.compress import alone

    assert "fedlearn" not in Path(alone.__file__).read_text().split('"""')[2]
