"""The comparison with Flower's own loop: it is equal where it is, and tells where it is not."""

import shutil

import numpy as np
import pytest

from fedlearn.experiments.benchmarks.flower_apps import __main__ as command
from fedlearn.experiments.benchmarks.flower_apps.examples import EXAMPLES
from fedlearn.experiments.benchmarks.flower_apps.sides import Side, difference
from fedlearn.experiments.benchmarks.flower_apps.table import Entry, markdown, plain
from tests.apps.plain import SAMPLES


def side(digest="d", failed=0, **arrays):
    values = {name: np.asarray(value) for name, value in arrays.items()}
    return Side({"evaluate loss": 0.5}, values, digest, 4, failed)


def test_differences_are_those_of_the_farthest_values():
    assert difference(side(w=[1.0, 2.0]), side(w=[1.0, 2.5])) == 0.5
    assert difference(side(w=[1.0]), side(w=[1.0])) == 0
    assert difference(side(w=[1.0]), side(v=[1.0])) == float("inf")
    assert difference(side(w=[1.0]), side(w=[1.0, 1.0])) == float("inf")
    assert difference(side(), side()) is None


def test_an_example_is_the_same_only_where_all_its_messages_are():
    same = Entry("a", pairs=[(side(w=[1.0]), side(w=[1.0]))])
    assert same.is_same
    assert same.rows()[0] == (
        "a",
        "evaluate loss",
        "0.5000",
        "0.5000",
        "0",
        "4, equal",
    )
    other = Entry("a", pairs=[*same.pairs, (side(w=[1.0]), side("e", w=[1.1]))])
    assert not other.is_same
    assert other.rows()[0][2:] == (
        "0.5000 ± 0.0000",
        "0.5000 ± 0.0000",
        "0.1",
        "8, differ",
    )
    assert not Entry("a", pairs=[(side(failed=1), side())]).is_same
    assert not Entry("a").is_same
    # Keys that are drawn anew leave the number of messages to compare.
    assert Entry("a", True, [(side(), side("e"))]).is_same
    missing = Entry("b", reason="not installed: opacus")
    assert "| b | not installed: opacus |" in markdown([same, missing])
    assert plain([same, missing]).splitlines()[-1] == "b        not installed: opacus"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}", "quickstart-torch"], "no example 'quickstart-torch'"),
        (["{}", "quickstart-numpy"], "has no example 'quickstart-numpy'"),
        (["{}/..", "quickstart-numpy", "--seeds", "0"], "has no example"),
    ],
)
def test_a_wrong_folder_is_one_line(arguments, message, tmp_path, capsys):
    assert command.main([text.format(tmp_path) for text in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def example(tmp_path, name="quickstart-numpy"):
    """Give a sample of ours the place of one of Flower's examples."""
    assert not EXAMPLES[name].needs
    return shutil.copytree(SAMPLES / "regression", tmp_path / name)


def test_both_sides_of_an_app_are_equal(tmp_path, capsys):
    example(tmp_path)
    arguments = [str(tmp_path), "quickstart-numpy", "--rounds", "1", "--seeds", "1"]
    assert command.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert "evaluate test_accuracy" in output
    assert "8, equal" in output


def test_an_app_that_differs_is_told(tmp_path, capsys):
    file = example(tmp_path) / "reg" / "client_app.py"
    # As an app would that looks at what runs it.
    steps = "_ in range(20 if 'nursery' in sys.argv[0] else 5)"
    text = file.read_text().replace("_ in range(20)", steps)
    assert steps in text
    file.write_text("import sys\n" + text)
    arguments = [str(tmp_path), "quickstart-numpy", "--rounds", "1", "--seeds", "1"]
    assert command.main(arguments) != 0
    captured = capsys.readouterr()
    assert "differ" in captured.out
    assert "not the same on both sides: quickstart-numpy" in captured.err


def test_an_app_that_fails_is_named_with_its_reason(tmp_path, capsys):
    (example(tmp_path) / "reg" / "server_app.py").write_text("raise OSError('no disk')")
    arguments = [str(tmp_path), "quickstart-numpy", "--rounds", "1", "--seeds", "1"]
    assert command.main(arguments) != 0
    assert "OSError: no disk" in capsys.readouterr().out
