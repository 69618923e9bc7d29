"""A graph cut in two: head and tail together are the whole, and as little crosses as can."""

import numpy as np
import onnx
import pytest
import torch

from fedlearn.compress.cutting import HEAD_FILE, TAIL_FILE, cut, write
from fedlearn.compress.measuring import scores
from fedlearn.errors import ConfigError, ModelError
from fedlearn.export.onnx import graph_of
from fedlearn.export.onnx import write as write_graph
from fedlearn.export.session import session
from tests.export.models import untrained

# Samples that head and tail are tried on: the batch of the trace was another one.
SAMPLES = 3


def inputs(trained, count):
    generator = torch.Generator().manual_seed(0)
    shape = (count, *trained.population.input_shape)
    if trained.population.modality == "text":
        return torch.randint(1, 128, shape, generator=generator)
    return torch.rand(shape, generator=generator)


def exported(tmp_path, name):
    trained = untrained(name)
    write_graph(graph_of(trained), tmp_path)
    return tmp_path / "graph.onnx", inputs(trained, SAMPLES)


@pytest.mark.parametrize(
    ("name", "layer", "crossing_shape"),
    [
        # Behind the pooling, where a quarter is left.
        ("cnn-small", "conv1", (16, 14, 14)),
        ("cnn-small", "conv2", (32, 7, 7)),
        ("cnn-small", "hidden", (64,)),
        # Behind the mean over time.
        ("lstm-sensor", "lstm", (64,)),
        ("resnet-small", "stages.0", (16, 28, 28)),
        ("resnet-small", "stem", (16, 28, 28)),
    ],
)
def test_head_and_tail_give_the_scores_of_the_whole(
    name, layer, crossing_shape, tmp_path
):
    path, x = exported(tmp_path, name)
    parts = cut(path, layer, x[:1])
    write(parts, tmp_path / "cut")
    for part in (parts.head, parts.tail):
        onnx.checker.check_model(part)
    between = scores(session(tmp_path / "cut" / HEAD_FILE), x)
    assert between.shape == (SAMPLES, *crossing_shape)
    assert parts.crossing_shape == crossing_shape
    assert parts.crossing_bytes == between.nbytes / SAMPLES
    joined = scores(session(tmp_path / "cut" / TAIL_FILE), torch.from_numpy(between))
    assert np.allclose(joined, scores(session(path), x), atol=1e-5)


def test_each_weight_is_in_one_part(tmp_path):
    path, x = exported(tmp_path, "cnn-small")
    parts = cut(path, "conv2", x[:1])
    head = {tensor.name for tensor in parts.head.graph.initializer}
    tail = {tensor.name for tensor in parts.tail.graph.initializer}
    assert {"conv1.weight", "conv2.bias"} <= head
    assert {"hidden.weight", "output.bias"} <= tail
    assert not {name for name in head & tail if name.endswith(("weight", "bias"))}


@pytest.mark.parametrize(
    ("name", "layer", "kind", "message"),
    [
        ("cnn-small", "conv3", ConfigError, "--cut conv3: the model has no such layer"),
        ("cnn-small", "output", ConfigError, "--cut output: the last layer"),
        ("resnet-small", "stages.0.conv1", ModelError, "several tensors pass it by"),
    ],
)
def test_where_no_cut_is_possible(name, layer, kind, message, tmp_path):
    path, x = exported(tmp_path, name)
    with pytest.raises(kind, match=message):
        cut(path, layer, x[:1])
