"""Graphs of functions whose values a reader can compute, sound ones and hostile ones."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
UINT8 = TensorProto.UINT8
INT64 = TensorProto.INT64
OPSET = 17


def graph(nodes, inputs, outputs, constants=(), opsets=(("", OPSET),)):
    """Return a graph's bytes. inputs, outputs: (name, element, shape); constants: by name."""
    values = [
        numpy_helper.from_array(array, name) for name, array in dict(constants).items()
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "function",
            [helper.make_tensor_value_info(*port) for port in inputs],
            [helper.make_tensor_value_info(*port) for port in outputs],
            values,
        ),
        opset_imports=[helper.make_opsetid(*opset) for opset in opsets],
        ir_version=8,
    )
    return model.SerializeToString()


def doubled(length=6):
    """Return a function before the small model: each of its numbers comes twice, uint8."""
    nodes = [
        helper.make_node("Slice", ["pairs", "zero", "end", "axis", "two"], ["single"]),
    ]
    constants = {
        "zero": np.array([0]),
        "end": np.array([2 * length]),
        "axis": np.array([1]),
        "two": np.array([2]),
    }
    pairs = ("pairs", UINT8, ["n", 2 * length])
    return graph(nodes, [pairs], [("single", UINT8, ["n", length])], constants)


def halved(length=6):
    """Return a function before the small model: x / 2 of float32, as the model takes them."""
    nodes = [helper.make_node("Mul", ["raw", "half"], ["x"])]
    constants = {"half": np.array(0.5, np.float32)}
    raw = ("raw", FLOAT, ["n", length])
    return graph(nodes, [raw], [("x", FLOAT, ["n", length])], constants)


def shares(classes=3, source="scores"):
    """Return a function after the model: softmax of its scores."""
    nodes = [helper.make_node("Softmax", [source], ["shares"], axis=1)]
    scores = (source, FLOAT, ["n", classes])
    return graph(nodes, [scores], [("shares", FLOAT, ["n", classes])])


def best(classes=3):
    """Return a function of two outputs: the highest share, and the number of its class."""
    nodes = [helper.make_node("TopK", ["shares", "one"], ["share", "class"], axis=1)]
    outputs = [("share", FLOAT, ["n", 1]), ("class", INT64, ["n", 1])]
    inputs = [("shares", FLOAT, ["n", classes])]
    return graph(nodes, inputs, outputs, {"one": np.array([1])})


def slow(count=300, side=192):
    """Return a function after the small model that multiplies large matrices, one by one.

    4 GFLOP for a sample: no core does them in 1 ms.
    """
    matrix = np.eye(side, dtype=np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["scores"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("ReduceMean", ["nothing"], ["v"], axes=[0, 1], keepdims=0),
        helper.make_node("Add", ["eye", "v"], ["m0"]),
    ]
    for index in range(count):
        nodes.append(
            helper.make_node("MatMul", [f"m{index}", "eye"], [f"m{index + 1}"])
        )
    nodes += [
        helper.make_node("ReduceMax", [f"m{count}"], ["one"], keepdims=0),
        helper.make_node("Mul", ["scores", "one"], ["answer"]),
    ]
    constants = {"eye": matrix, "zero": np.array(0, np.float32)}
    ports = ([("scores", FLOAT, ["n", 3])], [("answer", FLOAT, ["n", 3])])
    return graph(nodes, *ports, constants)


def swelling(megabytes=40):
    """Return a function after the small model that has more memory at once than it gives."""
    values = megabytes << 20 >> 2
    nodes = [
        helper.make_node("ReduceMax", ["scores"], ["most"], keepdims=0),
        helper.make_node("Expand", ["most", "shape"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["again"], keepdims=0),
        helper.make_node("Sub", ["again", "most"], ["zero"]),
        helper.make_node("Add", ["scores", "zero"], ["answer"]),
    ]
    ports = ([("scores", FLOAT, ["n", 3])], [("answer", FLOAT, ["n", 3])])
    return graph(nodes, *ports, {"shape": np.array([values])})


def mixing():
    """Return a function that takes the mean over samples, which it must not."""
    nodes = [
        helper.make_node("ReduceMean", ["scores"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["scores", "mean"], ["answer"]),
    ]
    return graph(nodes, [("scores", FLOAT, ["n", 3])], [("answer", FLOAT, ["n", 3])])


def endless():
    """Return a function that loops as often as its samples say."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"]),
            helper.make_node("Add", ["v", "v"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, ["n", 3]),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, ["n", 3]),
        ],
    )
    nodes = [helper.make_node("Loop", ["often", "", "scores"], ["answer"], body=body)]
    ports = ([("scores", FLOAT, ["n", 3])], [("answer", FLOAT, ["n", 3])])
    return graph(nodes, *ports, {"often": np.array(1 << 40)})


def custom(domain="my.own"):
    """Return a function of somebody's own operation."""
    nodes = [helper.make_node("Thing", ["scores"], ["answer"], domain=domain)]
    ports = ([("scores", FLOAT, ["n", 3])], [("answer", FLOAT, ["n", 3])])
    return graph(nodes, *ports, opsets=(("", OPSET), (domain, 1)))


def drawn():
    """Return a function whose answers are noise."""
    nodes = [
        helper.make_node("RandomNormalLike", ["scores"], ["answer"]),
    ]
    return graph(nodes, [("scores", FLOAT, ["n", 3])], [("answer", FLOAT, ["n", 3])])


def unknown():
    """Return a function with a tensor whose size depends on values."""
    nodes = [
        helper.make_node("NonZero", ["scores"], ["places"]),
        helper.make_node("Cast", ["places"], ["numbers"], to=FLOAT),
        helper.make_node("ReduceMax", ["numbers"], ["most"], keepdims=0),
        helper.make_node("Add", ["scores", "most"], ["answer"]),
    ]
    return graph(nodes, [("scores", FLOAT, ["n", 3])], [("answer", FLOAT, ["n", 3])])


# Of a machine that may be busy with other tests.
PATIENT_MS = 50_000


def swollen_at_loading():
    """Return a function whose constant takes a gigabyte once it is computed."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["zero"], keepdims=0),
        helper.make_node("Add", ["scores", "zero"], ["answer"]),
    ]
    ports = ([("scores", FLOAT, ["n", 3])], [("answer", FLOAT, ["n", 3])])
    return graph(nodes, *ports, {"shape": np.array([1 << 28])})
