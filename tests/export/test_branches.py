"""A model whose forward decides by values is not exported as if it went one way."""

import pytest

from fedlearn.errors import ModelError
from fedlearn.export import branches
from fedlearn.export.exporting import Options, export
from fedlearn.export.onnx import example, graph_of, plain_module
from fedlearn.release.packing import Wishes, pack
from tests.export.models import ALL, IDS, untrained
from tests.export.short import short


def model(name):
    return short(f"tests.export.conditions:{name}")


def notes(trained):
    return branches.check(trained, plain_module(trained), example(trained, 2))


@pytest.mark.parametrize(("name", "changes"), ALL, ids=IDS)
def test_no_shipped_model_decides_by_values(name, changes):
    assert notes(untrained(name, *changes)) == ()


@pytest.mark.parametrize("name", ["Dense", "Sizes", "Chosen"])
def test_sizes_and_torchs_own_choices_are_no_reads(name):
    assert notes(model(name)) == ()


@pytest.mark.parametrize("name", ["Branch", "Loop", "Number", "Outside", "Same"])
def test_another_way_for_other_inputs_is_refused_by_its_line(name):
    words = (
        r"reads values of tensors in Python \(conditions.py:\d+\).* ones are answered"
    )
    with pytest.raises(ModelError, match=words):
        notes(model(name))
    with pytest.raises(ModelError, match=words):
        graph_of(model(name))


@pytest.mark.parametrize(("name", "count"), [("Guarded", 2), ("Strict", 0)])
def test_a_read_without_another_way_is_told(name, count):
    (sentence,) = notes(model(name))
    assert "(conditions.py:" in sentence
    assert f"{count} other inputs agreed" in sentence


@pytest.mark.parametrize("target", ["onnx", "torchscript"])
def test_every_format_that_is_traced_refuses_and_tells(target, tmp_path):
    with pytest.raises(ModelError, match=r"conditions.py:\d+"):
        export(model("Branch"), tmp_path / "branch", Options(target))
    assert list(tmp_path.iterdir()) == []
    report = export(model("Guarded"), tmp_path / "guarded", Options(target))
    assert "conditions.py:" in report.notes[0]


def test_no_package_is_made_of_one_branch(tmp_path):
    with pytest.raises(ModelError, match=r"conditions.py:\d+"):
        pack(model("Branch"), tmp_path / "p", Wishes(name="x"))
    assert list(tmp_path.iterdir()) == []
