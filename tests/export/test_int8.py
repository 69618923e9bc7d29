"""int8 models: what may be made, that a device makes the same bits, and what it costs."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnx.reference
import pytest
import torch

from fedlearn.errors import ModelError
from fedlearn.export import products
from fedlearn.export.int8 import (
    calibration,
    dynamic_int8,
    quantised,
    static_int8,
    write_int8,
)
from fedlearn.export.onnx import graph_of, write
from fedlearn.export.parity import check_graph
from fedlearn.export.session import scorer
from fedlearn.package.int8 import file_bytes, rebuild
from tests.export.models import ALL, DATA, IDS, untrained
from tests.export.short import short
from tests.export.test_fold import operations
from tests.export.test_onnx import of_module

RECURRENT = ("lstm-char", "lstm-sensor", "lstm-rows", "transformer-char")
DENSE = ("logistic", "2nn")


@pytest.mark.parametrize(("name", "changes"), ALL, ids=IDS)
def test_a_device_makes_every_tensor_bit_for_bit(name, changes, tmp_path):
    trained = untrained(name, *changes)
    exported = graph_of(trained)
    int8 = quantised(trained, exported)
    is_dynamic = name in RECURRENT + DENSE
    assert int8.kind == ("dynamic" if is_dynamic else "static")
    # What a manifest carries is JSON.
    recipe = json.loads(json.dumps(int8.recipe))
    rebuilt = rebuild(exported.tensors, recipe)
    assert file_bytes(rebuilt) == int8.weights
    assert list(rebuilt) == list(int8.tensors)
    weights = [tensor for tensor in rebuilt.values() if tensor.dtype == np.int8]
    matrices = [t.size for t in exported.tensors.values() if t.ndim > 1]
    # Embeddings are looked up in floats.
    assert sum(t.size for t in weights if t.ndim > 1) >= 0.85 * sum(matrices)
    # It runs, and says nearly the same.
    write(exported, tmp_path)
    write_int8(int8, tmp_path)
    x = np.ascontiguousarray(calibration(trained)[:16])
    expected = scorer(tmp_path / "graph.onnx")(x)
    scores = scorer(tmp_path / "int8.onnx")(x)
    assert scores.shape == expected.shape
    assert np.abs(scores - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["cnn-small", "lstm-sensor"])
def test_two_makings_are_the_same_bytes(name):
    trained = untrained(name)
    exported = graph_of(trained)
    first = quantised(trained, exported)
    second = quantised(trained, exported)
    assert (first.graph, first.weights) == (second.graph, second.weights)
    assert first.recipe == second.recipe


@pytest.mark.parametrize("name", ["cnn-small", "lstm-sensor", "transformer-char"])
def test_another_training_of_the_model_rebuilds_by_its_own_recipe(name, tmp_path):
    trained = untrained(name, seed=1)
    exported = graph_of(trained)
    first = quantised(untrained(name), graph_of(untrained(name)))
    second = quantised(trained, exported)
    # The graph stays, so that float weights and scales are all that a new version sends.
    assert first.graph == second.graph
    assert file_bytes(rebuild(exported.tensors, second.recipe)) == second.weights
    assert first.weights != second.weights


def test_a_static_model_is_checked_by_onnx_and_has_no_slow_operation(tmp_path):
    trained = untrained("cnn-small")
    int8 = quantised(trained, graph_of(trained))
    write_int8(int8, tmp_path)
    check_graph(tmp_path / "int8.onnx")
    kinds = set(operations(int8.graph))
    # QOperator's and dynamic convolutions.
    assert not kinds & {"QLinearConv", "QLinearMatMul", "ConvInteger"}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    # Every channel has a scale of its own.
    assert int8.tensors["conv2.weight_scale"].shape == (32,)
    activations = [t for t in int8.tensors.values() if t.dtype == np.uint8]
    assert activations and all(t.shape == () for t in activations)


@pytest.mark.parametrize("name", ["Bare", "Steps"])
def test_dense_layers_without_a_bias_are_int8_too(name, tmp_path):
    trained = short(f"tests.export.bare:{name}", samples=60)
    exported = graph_of(trained)
    assert "MatMul" in operations(exported.graph)
    int8 = quantised(trained, exported)
    assert int8.kind == "static"
    for layer, tensor in exported.tensors.items():
        if tensor.ndim > 1:
            assert int8.tensors[f"{layer}_quantized"].dtype == np.int8
    recipe = json.loads(json.dumps(int8.recipe))
    assert file_bytes(rebuild(exported.tensors, recipe)) == int8.weights
    # The same scores, but for the rounding.
    write(exported, tmp_path)
    write_int8(int8, tmp_path)
    for batch in (1, 16):
        x = np.ascontiguousarray(calibration(trained)[:batch])
        expected = scorer(tmp_path / "graph.onnx")(x)
        scores = scorer(tmp_path / "int8.onnx")(x)
        assert scores.shape == expected.shape
        assert np.abs(scores - expected).max() < 0.05 * np.abs(expected).max()


def test_a_product_is_joined_only_where_it_is_a_layer():
    port = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0]),
        onnx.helper.make_node("Transpose", ["x"], ["across"], perm=[1, 0]),
        onnx.helper.make_node("MatMul", ["x", "turned"], ["y"]),
        onnx.helper.make_node("MatMul", ["x", "across"], ["z"]),
    ]
    weight = onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3))
    weight.name = "w"
    kind = onnx.TensorProto.FLOAT
    ports = [port(name, kind, None) for name in ("y", "z", "turned")]
    graph = onnx.helper.make_graph(
        nodes, "joined", [port("x", kind, ["n", 3])], ports, [weight]
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    before = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    products.join(model)
    assert [node.op_type for node in model.graph.node].count("Gemm") == 1
    # The turned weight is an output here, and so is the product of two values.
    after = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    for first, second in zip(before, after, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-6)


def test_dynamic_int8_of_convolutions_cannot_be_asked_for():
    with pytest.raises(ModelError, match="slower than floats"):
        dynamic_int8(graph_of(untrained("cnn-small")))


def test_a_model_without_such_layers_says_so():
    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.ones(10))

        def forward(self, x):
            return x.flatten(1)[:, :10] * self.factor

    with pytest.raises(ModelError, match="no layer of this model can be int8"):
        dynamic_int8(graph_of(of_module(Scale())))


class Both(torch.nn.Module):
    """An LSTM of two directions, which stays in floats, and a matrix that two products use."""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(8, 8, batch_first=True, bidirectional=True)
        self.shared = torch.nn.Linear(16, 16)
        self.output = torch.nn.Linear(16, 10)

    def forward(self, x):
        hidden, _ = self.lstm(x[:, 0])
        hidden = self.shared(self.shared(hidden))
        return self.output(hidden.mean(1))


def test_what_cannot_be_int8_stays_in_floats(tmp_path):
    trained = of_module(Both())
    exported = graph_of(trained)
    int8 = dynamic_int8(exported)
    names = [name for name, tensor in int8.tensors.items() if tensor.dtype == np.int8]
    assert names == ["output.weight_quantized"]
    write(exported, tmp_path)
    write_int8(int8, tmp_path)
    x = calibration(trained)[:8]
    expected = scorer(tmp_path / "graph.onnx")(x)
    assert np.abs(scorer(tmp_path / "int8.onnx")(x) - expected).max() < 0.02


def test_weights_that_are_all_0_stay_0(tmp_path):
    trained = untrained("logistic")
    zeros = trained.state.copy()
    zeros.floats[:] = 0
    trained = replace(trained, state=zeros)
    int8 = dynamic_int8(graph_of(trained))
    assert not int8.tensors["linear.weight_quantized"].any()
    write_int8(int8, tmp_path)
    assert not scorer(tmp_path / "int8.onnx")(calibration(trained)[:4]).any()


def test_calibration_takes_the_first_samples_of_many_clients():
    trained = untrained("cnn-small")
    samples = calibration(trained)
    assert samples.shape == (200, 1, 28, 28) and samples.dtype == np.float32
    # 10 clients give 20 each.
    first = trained.population.clients[9].x[:20].astype(np.float32) / np.float32(255)
    assert (samples[180:] == first).all()
    assert calibration(untrained("lstm-sensor")).shape[0] == 200
    assert DATA["lstm-sensor"] == "watch-mini"


def test_a_quantiser_that_fails_is_one_line(monkeypatch):
    def fails(*arguments, **options):
        raise ValueError("no\nluck")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", fails)
    trained = untrained("cnn-small")
    with pytest.raises(
        ModelError, match="cannot be made int8: ValueError: no luck; export"
    ):
        static_int8(graph_of(trained), calibration(trained))


def test_a_recipe_that_would_not_give_the_bits_is_refused(monkeypatch):
    monkeypatch.setattr("fedlearn.export.int8._same", lambda first, second: False)
    with pytest.raises(ModelError, match="would not rebuild 'linear"):
        dynamic_int8(graph_of(untrained("logistic")))


def test_the_graph_of_int8_has_the_metadata(tmp_path):
    trained = untrained("2nn")
    exported = graph_of(trained)
    model = onnx.load_from_string(dynamic_int8(exported).graph)
    props = {item.key: item.value for item in model.metadata_props}
    assert props == exported.metadata
