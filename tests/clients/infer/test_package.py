"""A package is served as it was checked, by its counter, its labels and its preprocessing."""

import numpy as np
import pytest

from fedlearn.clients.infer.model import load
from fedlearn.clients.infer.question import InferQuestion
from fedlearn.errors import PackageError, UserError
from fedlearn.release.packing import Wishes, pack
from tests.export.models import untrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages") / "seven"
    pack(untrained("logistic"), folder, Wishes(counter=7, int8=True))
    return folder


def test_its_answers_are_the_golden_ones(folder):
    from fedlearn.package import content, golden

    model = load(folder)
    assert model.version == "7" and model.labels == tuple("0123456789")
    assert model.batches
    content_ = golden.read(content.read(folder))
    assert content_.inputs.dtype == np.uint8
    inputs = model.checked({model.inputs[0].name: content_.inputs})
    np.testing.assert_allclose(
        model.run(inputs)[0], content_.outputs, atol=float(content_.tolerance)
    )


def test_its_int8_model_serves_too(folder):
    model = load(folder, int8=True)
    x = np.zeros((2, *model.inputs[0].shape[1:]), np.uint8)
    question = InferQuestion("", {model.inputs[0].name: x})
    assert model.run(model.checked(question.tensors))[0].shape == (2, 10)


def test_a_bit_that_flipped_is_refused(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = copy / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    with pytest.raises(PackageError, match="another SHA-256"):
        load(copy)


def test_int8_needs_a_package_that_has_it(folder, tmp_path):
    with pytest.raises(UserError, match="no package, which --int8 needs"):
        load(folder / "graph.onnx", int8=True)
    plain = tmp_path / "plain"
    pack(untrained("logistic"), plain, Wishes())
    with pytest.raises(PackageError, match="int8"):
        load(plain, int8=True)
