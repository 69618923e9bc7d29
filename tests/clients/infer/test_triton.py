"""NVIDIA's own client, unchanged, against the command: HTTP with JSON and binary, and gRPC.

What it sends is kept in ``goldens/``, so that its requests are understood where it is not
installed, too. ``python -m tests.clients.infer.test_triton`` records them anew.
"""

import asyncio
import json
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from fedlearn.clients.infer.rpc import SERVICE
from fedlearn.exchange import inference_pb2 as pb
from tests.clients.infer.graphs import scaled
from tests.clients.infer.serving import process, serving

GOLDENS = Path(__file__).parent / "goldens"
X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    model = scaled(tmp_path_factory.mktemp("model") / "m.onnx")
    with process(model, "--port", "0", "--grpc-port", "0") as server:
        yield server.port(), server.port("grpc")


def http_inputs(library, binary):
    entry = library.InferInput("x", [2, 3], "FP32")
    entry.set_data_from_numpy(X, binary_data=binary)
    return [entry]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_over_http(ports, binary):
    library = pytest.importorskip("tritonclient.http")
    client = library.InferenceServerClient(f"127.0.0.1:{ports[0]}")
    wanted = [library.InferRequestedOutput("y", binary_data=binary)]
    answer = client.infer("m", http_inputs(library, binary), outputs=wanted)
    np.testing.assert_array_equal(answer.as_numpy("y"), 2 * X)
    unnamed = client.infer("m", http_inputs(library, binary), request_id="7")
    np.testing.assert_array_equal(unnamed.as_numpy("y"), 2 * X)
    assert unnamed.get_response()["id"] == "7"
    client.close()


def test_http_tells_of_server_and_model(ports):
    library = pytest.importorskip("tritonclient.http")
    client = library.InferenceServerClient(f"127.0.0.1:{ports[0]}")
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("m") and not client.is_model_ready("other")
    version = client.get_model_metadata("m")["versions"][0]
    assert client.is_model_ready("m", version)
    assert client.get_server_metadata()["name"] == "fedlearn"
    with pytest.raises(Exception, match="there is no model 'other' here"):
        client.infer("other", http_inputs(library, True))
    client.close()


def test_http_gives_classes(ports):
    library = pytest.importorskip("tritonclient.http")
    client = library.InferenceServerClient(f"127.0.0.1:{ports[0]}")
    wanted = [library.InferRequestedOutput("y", binary_data=True, class_count=1)]
    answer = client.infer("m", http_inputs(library, True), outputs=wanted)
    assert answer.as_numpy("y").tolist() == [
        [b"6.000000:2:high"],
        [b"12.000000:2:high"],
    ]
    client.close()


GRPC_SCRIPT = """
import sys, numpy as np, tritonclient.grpc as library
client = library.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}")
x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
entry = library.InferInput("x", [2, 3], "FP32")
entry.set_data_from_numpy(x)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("m")
assert client.get_model_metadata("m").inputs[0].name == "x"
for outputs in (None, [library.InferRequestedOutput("y")]):
    answer = client.infer("m", [entry], outputs=outputs, request_id="7", client_timeout=20)
    assert (answer.as_numpy("y") == 2 * x).all()
try:
    client.infer("other", [entry])
except library.InferenceServerException as error:
    assert "there is no model 'other' here" in str(error), error
else:
    raise SystemExit("no error")
print("ok")
"""


def test_over_grpc(ports):
    """In a process of its own, as clients are: only one copy of a message fits in one."""
    import subprocess

    pytest.importorskip("tritonclient.grpc")
    ended = subprocess.run(
        [sys.executable, "-c", GRPC_SCRIPT, str(ports[1])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout == "ok\n", ended.stderr


def test_its_recorded_requests_are_answered(tmp_path):
    model = scaled(tmp_path / "m.onnx")

    async def go():
        async with serving(model) as here:
            answers = {}
            for path in sorted(GOLDENS.glob("http-*")):
                # It keeps its connection open: the end is ours here.
                data = path.read_bytes().replace(
                    b"Host:", b"Connection: close\r\nHost:"
                )
                answers[path.name] = await here.exchange(data)
            return answers

    answers = asyncio.run(go())
    assert sorted(answers) == ["http-binary", "http-json"]
    for name, answer in answers.items():
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK"), name
        if name == "http-json":
            assert json.loads(body)["outputs"][0]["data"] == [2, 4, 6, 8, 10, 12]
        else:
            np.testing.assert_array_equal(
                np.frombuffer(body[-24:], "<f4"), 2 * X.ravel()
            )


def test_its_recorded_message_is_understood():
    message = pb.ModelInferRequest.FromString((GOLDENS / "grpc").read_bytes())
    assert (message.model_name, message.id) == ("m", "7")
    (entry,) = message.inputs
    assert (entry.name, entry.datatype, list(entry.shape)) == ("x", "FP32", [2, 3])
    assert message.raw_input_contents[0] == X.tobytes()
    assert message.outputs[0].name == "y"


def record() -> None:
    """Write what the client sends into ``goldens/``."""
    import tritonclient.grpc as rpc
    import tritonclient.http as library

    GOLDENS.mkdir(exist_ok=True)
    for name, binary in (("http-binary", True), ("http-json", False)):
        listener = socket.create_server(("127.0.0.1", 0))
        client = library.InferenceServerClient(
            f"127.0.0.1:{listener.getsockname()[1]}", network_timeout=2
        )
        thread = threading.Thread(target=_ask, args=(client, library, binary))
        thread.start()
        entry, _ = listener.accept()
        entry.settimeout(1)
        data = b""
        try:
            while part := entry.recv(65536):
                data += part
        except TimeoutError:
            pass
        (GOLDENS / name).write_bytes(data)
        entry.close()
        listener.close()
        thread.join()
    (GOLDENS / "grpc").write_bytes(_message(rpc))


def _message(library) -> bytes:
    """Return the message that the client sends over gRPC."""
    messages = []

    def infer(data, context):
        messages.append(data)
        return b""

    method = grpc.unary_unary_rpc_method_handler(infer)
    handler = grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": method})
    server = grpc.server(ThreadPoolExecutor(1), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = library.InferenceServerClient(f"127.0.0.1:{port}")
    entry = library.InferInput("x", [2, 3], "FP32")
    entry.set_data_from_numpy(X)
    wanted = [library.InferRequestedOutput("y")]
    client.infer("m", [entry], outputs=wanted, request_id="7")
    server.stop(None)
    return messages[0]


def _ask(client, library, binary) -> None:
    wanted = [library.InferRequestedOutput("y", binary_data=binary)]
    try:
        client.infer("m", http_inputs(library, binary), outputs=wanted)
    # Nobody answers.
    except Exception as error:
        print(type(error).__name__)


if __name__ == "__main__":
    record()
