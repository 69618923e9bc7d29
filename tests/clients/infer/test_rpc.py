"""The protocol over gRPC, by its public names and field numbers."""

import asyncio

import grpc
import numpy as np
import pytest

from fedlearn.clients.infer import rpc
from fedlearn.exchange import inference_pb2 as pb
from tests.clients.infer.graphs import scaled, two_inputs
from tests.clients.infer.serving import serving

X = np.array([[1, 2, 3]], np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return scaled(tmp_path_factory.mktemp("model") / "scaled.onnx")


def called(model, *calls, timeout=20):
    """Return what each (method, message) comes to: an answer, or an error."""

    async def go():
        async with serving(model) as here:
            server = rpc.server(here.served, 1 << 20, 16)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            try:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    return [await call(channel, *entry) for entry in calls]
            finally:
                await server.stop(None)

    async def call(channel, method, message):
        answer = getattr(pb, type(message).__name__.replace("Request", "Response"))
        stub = channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=type(message).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            return await stub(message, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return error

    return asyncio.run(go())


def infer(values=X, raw=True, name="x", datatype="FP32", model="m", **more):
    message = pb.ModelInferRequest(**{"model_name": model, "id": "7", **more})
    entry = message.inputs.add(name=name, datatype=datatype, shape=values.shape)
    if raw:
        message.raw_input_contents.append(values.tobytes())
    else:
        entry.contents.fp32_contents.extend(values.ravel())
    return ("ModelInfer", message)


def test_raw_and_listed_values_give_the_same(model):
    raw, listed = called(model, infer(), infer(raw=False))
    assert raw == listed
    assert (raw.model_name, raw.id) == ("m", "7")
    (output,) = raw.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [1, 3])
    np.testing.assert_array_equal(
        np.frombuffer(raw.raw_output_contents[0], "<f4"), [2, 4, 6]
    )


def test_every_listed_datatype_has_its_field(tmp_path):
    message = pb.ModelInferRequest(model_name="m")
    a = message.inputs.add(name="a", datatype="FP32", shape=[1, 2])
    a.contents.fp32_contents.extend([1, 2])
    b = message.inputs.add(name="b", datatype="INT64", shape=[1])
    b.contents.int64_contents.append(1)
    message.outputs.add(name="rows")
    (answer,) = called(two_inputs(tmp_path / "two.onnx"), ("ModelInfer", message))
    assert [output.name for output in answer.outputs] == ["rows"]
    np.testing.assert_array_equal(
        np.frombuffer(answer.raw_output_contents[0], "<f4"), [30, 40]
    )


def test_server_and_model_tell_of_themselves(model):
    live, ready, model_ready, server, about = called(
        model,
        ("ServerLive", pb.ServerLiveRequest()),
        ("ServerReady", pb.ServerReadyRequest()),
        ("ModelReady", pb.ModelReadyRequest(name="m")),
        ("ServerMetadata", pb.ServerMetadataRequest()),
        ("ModelMetadata", pb.ModelMetadataRequest(name="m")),
    )
    assert live.live and ready.ready and model_ready.ready
    assert server.name == "fedlearn" and "binary_tensor_data" in server.extensions
    assert [(i.name, i.datatype, list(i.shape)) for i in about.inputs] == [
        ("x", "FP32", [-1, 3])
    ]


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        (infer(model="n"), "NOT_FOUND", "no model 'n'"),
        (infer(model_version="9"), "NOT_FOUND", "version '9'"),
        (infer(name="z"), "INVALID_ARGUMENT", "inputs are 'x'"),
        (infer(datatype="FP64"), "INVALID_ARGUMENT", "takes 24"),
        (infer(datatype="BYTES"), "INVALID_ARGUMENT", "'BYTES' is none of"),
        (infer(np.zeros((1, 4), np.float32)), "INVALID_ARGUMENT", r"shape is [1, 4]"),
        (infer(raw_input_contents=[b""]), "INVALID_ARGUMENT", "2 raw contents"),
        (infer(id="a" * 300), "INVALID_ARGUMENT", "256 characters"),
        (infer(np.zeros((99999, 3), np.float32)), "RESOURCE_EXHAUSTED", "larger than"),
        (("ModelReady", pb.ModelReadyRequest(name="q")), "NOT_FOUND", "no model 'q'"),
    ],
)
def test_errors_have_codes_and_one_sentence(model, call, code, words):
    (error,) = called(model, call)
    assert error.code().name == code
    assert words in error.details() and "\n" not in error.details()


def test_classes_come_as_bytes(model):
    message = infer()[1]
    wanted = message.outputs.add(name="y")
    wanted.parameters["classification"].int64_param = 1
    (answer,) = called(model, ("ModelInfer", message))
    assert answer.outputs[0].datatype == "BYTES"
    assert answer.raw_output_contents[0][4:] == b"6.000000:2:high"
