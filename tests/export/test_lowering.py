"""The formats with extras of their own, where these are installed: CI has none of them."""

import importlib.util

import pytest

from fedlearn.errors import ModelError
from fedlearn.export import executorch, litert, lowering, openvino
from fedlearn.export.parity import check, compare
from tests.export.short import short

FEW = ((1, 4),)


def extra(module):
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


FORMATS = [
    pytest.param(executorch.export, marks=extra("executorch")),
    pytest.param(litert.export, marks=extra("litert_torch")),
]


@extra("openvino")
@pytest.mark.parametrize("name", ["cnn-small", "lstm-sensor", "transformer-char"])
def test_openvino_scores_as_torch_does_and_writes_the_same_bytes_twice(name, tmp_path):
    trained = short(name)
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        artefact = openvino.export(trained, folder)
        contents.append([(folder / file).read_bytes() for file in artefact.files])
        check(compare(trained, artefact.score, ((1, 2), (2, 4), (8, None))), name)
    assert contents[0] == contents[1]


@pytest.mark.parametrize("export", FORMATS)
def test_a_lowered_model_scores_as_torch_does(export, tmp_path):
    trained = short("cnn-small")
    artefact = export(trained, tmp_path)
    check(compare(trained, artefact.score, FEW), artefact.label)
    assert artefact.notes


@pytest.mark.parametrize("export", FORMATS)
def test_a_model_that_takes_too_long_says_so(export, tmp_path):
    with pytest.raises(ModelError, match=r"is not lowered for \w+ after 0 s of CPU"):
        export(short("lstm-sensor"), tmp_path, limit_s=0)
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_fails_tells_its_last_line(monkeypatch):
    # A target that no child knows.
    with pytest.raises(
        ModelError, match="cannot be lowered for Nothing: KeyError: 'Nothing'"
    ):
        lowering.lowered(short("logistic", "data.name=digits"), "Nothing")
