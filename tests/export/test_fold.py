"""BatchNorms folded into convolutions give the same scores, and a device can fold as well."""

import numpy as np
import onnx
import pytest
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fedlearn.errors import ModelError
from fedlearn.export.fold import fold
from fedlearn.export.onnx import graph_of, write
from fedlearn.export.parity import check, check_graph, compare
from fedlearn.export.session import scorer
from fedlearn.package.int8 import folded
from tests.export.short import short
from tests.export.test_onnx import FEW, of_module

NORMS = {"resnet-small": 9, "mobilenet-small": 16}


def operations(graph: bytes):
    return [node.op_type for node in onnx.load_from_string(graph).graph.node]


@pytest.mark.parametrize("name", NORMS)
def test_no_normalisation_is_left_and_the_scores_are_torchs(name, tmp_path):
    trained = short(name, "model.norm=batch")
    exported = graph_of(trained)
    whole = fold(exported)
    assert operations(exported.graph).count("BatchNormalization") == NORMS[name]
    assert "BatchNormalization" not in operations(whole.graph)
    write(whole, tmp_path)
    check_graph(tmp_path / "graph.onnx")
    check(compare(trained, scorer(tmp_path / "graph.onnx"), FEW), name)
    # A device folds the float tensors itself, to the same bits.
    again = folded(exported.tensors, whole.folds)
    assert list(again) == list(whole.tensors)
    assert all((again[key] == whole.tensors[key]).all() for key in again)


def test_the_weights_are_those_of_torchs_own_folding():
    conv = torch.nn.Conv2d(1, 4, 3)
    norm = torch.nn.BatchNorm2d(4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in norm.state_dict().items():
            if name != "num_batches_tracked":
                tensor += torch.rand(4, generator=generator)
    layers = torch.nn.Sequential(
        conv, norm, torch.nn.Flatten(), torch.nn.Linear(144, 10)
    )
    trained = of_module(layers)
    twin = fuse_conv_bn_eval(conv.eval(), norm.eval())
    tensors = fold(graph_of(trained)).tensors
    for name, tensor in twin.state_dict().items():
        assert np.allclose(tensors[f"0.{name}"], tensor.numpy(), atol=1e-7)


class Shared(torch.nn.Module):
    """One convolution before two normalisations, and a score of its output."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.norm1 = torch.nn.BatchNorm2d(4)
        self.norm2 = torch.nn.BatchNorm2d(4)
        self.output = torch.nn.Linear(144, 10)

    def forward(self, x):
        y = self.conv(x)
        return self.output((self.norm1(y) + self.norm2(y)).flatten(1))


def test_a_convolution_that_others_read_as_well_stays(tmp_path):
    trained = of_module(Shared())
    whole = fold(graph_of(trained))
    assert whole.folds == ()
    assert operations(whole.graph).count("BatchNormalization") == 2


def test_a_folded_graph_is_not_folded_again():
    whole = fold(graph_of(short("resnet-small", "model.norm=batch")))
    with pytest.raises(ModelError, match="folded already"):
        fold(whole)
