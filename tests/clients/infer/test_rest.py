"""Inference requests in JSON and in binary, and their answers."""

import json
import struct

import numpy as np
import pytest

from fedlearn.clients.infer import rest
from fedlearn.clients.infer.model import load
from fedlearn.clients.infer.refusal import Refusal
from tests.clients.infer.graphs import scaled, two_inputs

X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(scaled(tmp_path_factory.mktemp("model") / "scaled.onnx"))


def entry(**more):
    values = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": X.tolist()}
    return {key: value for key, value in {**values, **more}.items() if value is not ...}


def body(*inputs, **more) -> bytes:
    return json.dumps({"inputs": list(inputs or [entry()]), **more}).encode()


def answered(data: bytes, length, model):
    question = rest.read(data, length, model)
    outputs = model.run(model.checked(question.tensors))
    return rest.write(question, "m", model, outputs)


def test_json_in_and_out(model):
    data, length = answered(body(id="7"), None, model)
    answer = json.loads(data)
    assert length is None
    assert (answer["model_name"], answer["id"]) == ("m", "7")
    assert answer["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [2, 3], "data": [2, 4, 6, 8, 10, 12]}
    ]


def test_flat_data_is_the_same_as_nested(model):
    flat = body(entry(data=[1, 2, 3, 4, 5, 6]))
    assert answered(flat, None, model) == answered(body(), None, model)


def binary(**more) -> tuple[bytes, int]:
    parameters = {"binary_data_size": X.nbytes}
    head = body(entry(data=..., parameters=parameters), **more)
    return head + X.tobytes(), len(head)


def test_binary_tensors_in_and_out(model):
    data, length = binary(parameters={"binary_data_output": True})
    answer, head = answered(data, length, model)
    output = json.loads(answer[:head])["outputs"][0]
    assert output["parameters"] == {"binary_data_size": 24}
    np.testing.assert_array_equal(np.frombuffer(answer[head:], "<f4"), 2 * X.ravel())


def test_binary_in_and_json_out_as_an_output_asks(model):
    outputs = [{"name": "y", "parameters": {"binary_data": False}}]
    more = {"parameters": {"binary_data_output": True}, "outputs": outputs}
    answer, head = answered(*binary(**more), model)
    assert head is None
    assert json.loads(answer)["outputs"][0]["data"][0] == 2


def test_a_body_without_json_is_the_only_input(model):
    answer, head = answered(X.tobytes(), 0, model)
    assert json.loads(answer[:head])["outputs"][0]["shape"] == [2, 3]
    with pytest.raises(Refusal, match="7 bytes is no input"):
        rest.read(b"1234567", 0, model)


def test_raw_samples_are_prepared(model):
    answer, _ = answered(
        body(entry(datatype="UINT8", shape=[1, 3], data=[0, 51, 255])), None, model
    )
    values = json.loads(answer)["outputs"][0]["data"]
    np.testing.assert_allclose(values, [0, 0.4, 2], rtol=1e-6)


def test_classes_with_their_labels(model):
    parameters: dict = {"classification": 2}
    outputs = [{"name": "y", "parameters": parameters}]
    answer, _ = answered(body(outputs=outputs), None, model)
    output = json.loads(answer)["outputs"][0]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"][:2] == ["6.000000:2:high", "4.000000:1:middle"]
    parameters["binary_data"] = True
    answer, head = answered(body(outputs=outputs), None, model)
    (length,) = struct.unpack_from("<I", answer, head)
    assert answer[head + 4 :][:length] == b"6.000000:2:high"


def test_named_outputs_in_their_order(tmp_path):
    model = load(two_inputs(tmp_path / "two.onnx"))
    inputs = [
        {"name": "b", "shape": [1], "datatype": "INT64", "data": [1]},
        {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
    ]
    named = [{"name": "rows"}, {"name": "total"}]
    answer, _ = answered(body(*inputs, outputs=named), None, model)
    pairs = [(o["name"], o["data"]) for o in json.loads(answer)["outputs"]]
    assert pairs == [("rows", [30, 40]), ("total", [31, 42])]
    answer, _ = answered(body(*inputs), None, model)
    assert [o["name"] for o in json.loads(answer)["outputs"]] == ["total", "rows"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no JSON"),
        (b"[1]", "no JSON object"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"inputs": [{"name": "x", "data": [NaN]}]}', "no JSON"),
        (b"{}", "no list of 1 to 64 'inputs'"),
        (body([]), "an input is no JSON object"),
        (body(entry(name=7)), "no name"),
        (body(entry(), entry()), "comes twice"),
        (body(entry(name="z")), "inputs are 'x'; the request has 'z'"),
        (body(entry(datatype="BYTES")), "'BYTES' is none of"),
        (body(entry(datatype="FP64")), "FP64, and the model takes FP32 or UINT8"),
        (
            body(entry(shape=[3, 2])),
            r"shape is \[3, 2\], and the model takes \[-1, 3\]",
        ),
        (body(entry(shape=[-1, 3])), "axis of"),
        (body(entry(shape=[True, 3])), "axis of"),
        (body(entry(shape=[2**31, 3])), "axis of"),
        (body(entry(shape=[1] * 9)), "no list of 1 to 8"),
        (body(entry(shape=[2, 4])), "6 values came"),
        (body(entry(shape=[0, 3], data=[])), "no samples"),
        (body(entry(data=...)), "neither data nor binary_data_size"),
        (body(entry(data=7)), "neither data"),
        (body(entry(data=["1", 2, 3, 4, 5, 6])), "not of FP32"),
        (body(entry(data=[None, 2, 3, 4, 5, 6])), "not of FP32"),
        (body(entry(data=[[1, 2], [3], [4, 5, 6]])), "no list of numbers"),
        (
            body(entry(datatype="UINT8", data=[1, 2, 3, 4, 5, 256])),
            "out of UINT8's range",
        ),
        (
            body(entry(datatype="UINT8", data=[1, 2, 3, 4, 5, -1])),
            "out of UINT8's range",
        ),
        (body(entry(datatype="UINT8", data=[1, 2, 3, 4, 5, 0.5])), "not of UINT8"),
        (body(entry(datatype="INT64", data=[10**30] * 6)), "not of INT64"),
        (body(entry(parameters={"binary_data_size": 4})), "both data"),
        (body(entry(data=..., parameters={"binary_data_size": 4})), "not in the body"),
        (body(entry(data=..., parameters={"binary_data_size": -4})), "not in the body"),
        (body(entry(data=..., parameters={"binary_data_size": "4"})), "no int"),
        (body(entry(parameters=3)), "no JSON object"),
        (body(id=7), "id is no text"),
        (body(outputs=[{"name": "q"}]), "no output 'q'"),
        (body(outputs=[{"name": "y"}, {"name": "y"}]), "asked for twice"),
        (body(outputs=[{"name": "y", "parameters": {"classification": -1}}]), "from 1"),
        (body(parameters={"timeout": -1}), "microseconds"),
        (body(parameters={"binary_data_output": 1}), "no bool"),
    ],
)
def test_what_is_wrong_is_named(data, words, model):
    with pytest.raises(Refusal, match=words) as caught:
        model.checked(rest.read(data, None, model).tensors)
    assert caught.value.status == 400


def test_bytes_that_no_input_has_are_refused(model):
    data, length = binary()
    with pytest.raises(Refusal, match="3 bytes follow the last tensor"):
        rest.read(data + b"abc", length, model)
    with pytest.raises(Refusal, match="shorter than"):
        rest.read(data[:20], length, model)
    with pytest.raises(Refusal, match="takes 48"):
        rest.read(data.replace(b"[2, 3]", b"[4, 3]"), length, model)


def test_json_has_no_nan_and_binary_data_has(model):
    head = body(
        entry(data=..., shape=[1, 3], parameters={"binary_data_size": 12}),
        parameters={"binary_data_output": True},
    )
    data = head + np.array([np.nan, np.inf, 1], np.float32).tobytes()
    answer, start = answered(data, len(head), model)
    assert np.isnan(np.frombuffer(answer[start:], "<f4")[0])
    plain = head.replace(b"true", b"false")
    with pytest.raises(Refusal, match="ask for binary data"):
        answered(plain + data[len(head) :], len(plain), model)


def test_every_datatype_travels_both_ways():
    from fedlearn.clients.infer import tensors

    draw = np.random.default_rng(3)
    for name, dtype in tensors.DTYPES.items():
        values = (draw.random((2, 3)) * 2).astype(dtype)
        raw = tensors.to_bytes(values)
        assert len(raw) == 6 * dtype.itemsize
        np.testing.assert_array_equal(
            tensors.from_bytes(raw, dtype, (2, 3), name), values
        )
        listed = tensors.to_values(values, name)
        text = json.loads(json.dumps(listed))
        np.testing.assert_array_equal(
            tensors.from_values(text, dtype, (2, 3), name), values
        )
    with pytest.raises(Refusal, match="0 or 1"):
        tensors.from_bytes(b"\2", np.dtype("?"), (1,), "b")
