"""The reader of ONNX graphs: standard operations, and weights in their place."""

import random

import numpy as np
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from fedlearn.errors import PackageError
from fedlearn.package import graph
from fedlearn.package.graph import External
from tests.package import small

BYTES = 84


def inspect(model):
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return graph.inspect(data, "graph.onnx", "weights.bin", BYTES)


def refusal(model):
    with pytest.raises(PackageError) as caught:
        inspect(model)
    return caught.value


def test_a_sound_graph_is_read():
    found = inspect(small.model())
    assert found.external == {"w": External(0, 72, True), "b": External(72, 12, True)}
    assert found.inputs == {"x": "float32"}
    assert found.outputs == {"y": "float32"}
    assert found.opsets == {"": small.OPSET}


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "weights.bin2", "", "sub/weights.bin", "WEIGHTS.BIN"],
)
def test_weights_elsewhere_are_refused(location):
    tensor = small.outside("w", (6, 3), 0, location=location)
    assert refusal(small.model(initializers=[tensor])).name == "path"


@pytest.mark.parametrize(
    ("shape", "offset", "length"),
    [
        ((6, 3), 16, None),
        ((6, 3), 0, 68),
        ((6, 3), -4, None),
        ((8, 3), 0, None),
        ((6, 3), 2**62, None),
        ((2**40,), 0, 72),
        ((-6, -3), 0, 72),
        ((1,) * 9, 0, 4),
    ],
)
def test_weights_out_of_bounds_are_refused(shape, offset, length):
    if offset == 16:
        offset = BYTES - 68
    tensor = small.outside("w", shape, offset, length=length)
    assert refusal(small.model(initializers=[tensor])).name == "tensor"


def test_a_place_that_is_not_whole_is_refused():
    for keys in (["location"], ["location", "offset"], []):
        tensor = small.outside("w", (6, 3), 0)
        for entry in list(tensor.external_data):
            if entry.key not in keys:
                tensor.external_data.remove(entry)
        assert refusal(small.model(initializers=[tensor])).name == "tensor"
    tensor = small.outside("w", (6, 3), 0)
    tensor.external_data.add(key="location", value="../x")
    assert refusal(small.model(initializers=[tensor])).name == "path"
    tensor = small.outside("w", (6, 3), 0)
    tensor.raw_data = W_BYTES
    tensor.data_location = TensorProto.DEFAULT
    assert "inside and outside" in str(refusal(small.model(initializers=[tensor])))


W_BYTES = small.W.tobytes()


def branch(node):
    return helper.make_graph([node], "inner", [], [])


@pytest.mark.parametrize(
    ("domain", "operation"),
    [
        ("my.ops", "Evil"),
        ("com.microsoft", "EPContext"),
        ("ai.onnx.contrib", "X"),
        ("ai.Onnx", "Add"),
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_operations_of_others_are_refused_inside_of_branches_too(
    domain, operation, depth
):
    node = helper.make_node(operation, [], ["z"], domain=domain)
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["z"], then_branch=branch(node))
    error = refusal(small.model([*small.nodes(), node]))
    assert error.name == "graph"
    assert f"'{domain}.{operation}'" in str(error)


def test_weights_of_a_branch_are_checked_too():
    inner = helper.make_graph(
        [], "inner", [], [], [small.outside("v", (6, 3), 0, "../x")]
    )
    node = helper.make_node("If", ["c"], ["z"], then_branch=inner)
    assert refusal(small.model([node])).name == "path"
    constant = helper.make_node("Constant", [], ["v"])
    attribute = AttributeProto(name="value", type=AttributeProto.TENSOR)
    attribute.t.CopyFrom(small.outside("v", (6, 3), 0, "/dev/zero"))
    constant.attribute.append(attribute)
    assert refusal(small.model([constant])).name == "path"


def test_graphs_inside_one_another_have_a_limit():
    node = helper.make_node("Add", ["x", "x"], ["y"])
    for _ in range(9):
        node = helper.make_node("If", ["c"], ["z"], then_branch=branch(node))
    assert "inside one another" in str(refusal(small.model([node])))


def test_the_runtimes_own_operations_of_int8_are_allowed():
    node = helper.make_node("DynamicQuantizeLSTM", ["x"], ["z"], domain="com.microsoft")
    assert inspect(small.model([*small.nodes(), node])).inputs == {"x": "float32"}


@pytest.mark.parametrize("kind", ["functions", "training_info"])
def test_functions_and_training_are_refused(kind):
    model = small.model()
    getattr(model, kind).add()
    assert "field" in str(refusal(model))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int64),
        np.float32(3),
        np.zeros((0, 4), np.float32),
        np.ones(3, bool),
    ],
)
def test_constants_in_the_graph_have_as_many_values_as_their_shape(array):
    tensor = numpy_helper.from_array(np.asarray(array), "c")
    assert inspect(small.model(initializers=[tensor]))
    tensor.dims.append(2)
    if array.size:
        assert "number of values" in str(refusal(small.model(initializers=[tensor])))
    tensor.dims[-1] = 2**30
    if array.size:
        assert refusal(small.model(initializers=[tensor])).name == "tensor"


def test_constants_in_typed_fields_are_counted():
    values = [1, 200, -3, 2**40]
    tensor = helper.make_tensor("c", TensorProto.INT64, [4], values)
    assert inspect(small.model(initializers=[tensor]))
    tensor.int64_data.append(1)
    assert "number of values" in str(refusal(small.model(initializers=[tensor])))
    floats = helper.make_tensor("c", TensorProto.FLOAT, [2], [0.5, 1.5])
    assert inspect(small.model(initializers=[floats]))
    text = TensorProto(name="c", data_type=TensorProto.STRING, dims=[1])
    text.string_data.append(b"x")
    assert refusal(small.model(initializers=[text])).name in ("graph", "tensor")


def test_two_graphs_in_one_file_are_refused():
    """One reader would take the last, and another would join them."""
    data = small.model().SerializeToString()
    assert "twice" in str(refusal(data + data))


def test_mutated_graphs_never_end_the_reader():
    draw = random.Random(3)
    data = small.model().SerializeToString()
    names = set()
    for _ in range(3000):
        out = bytearray(data)
        for _ in range(draw.choice((1, 2, 4))):
            out[draw.randrange(len(out))] = draw.randrange(256)
        if draw.random() < 0.3:
            del out[draw.randrange(len(out)) :]
        try:
            inspect(bytes(out))
            names.add("sound")
        except PackageError as error:
            names.add(error.name)
    assert names >= {"sound", "graph", "tensor", "path"}
