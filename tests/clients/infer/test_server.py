"""The command as a process: swaps under load, signals, sockets, certificates."""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading

import pytest

from fedlearn.clients.agent.identity import make_key_and_csr
from fedlearn.server import identity
from tests.clients.infer.graphs import scaled
from tests.clients.infer.serving import process

INPUT = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
BODY = json.dumps({"inputs": [INPUT]})


@pytest.fixture
def model(tmp_path):
    return scaled(tmp_path / "m.onnx")


def infer(connection):
    connection.request("POST", "/v2/models/m/infer", BODY)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def status(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/status")
    values = json.loads(connection.getresponse().read())
    connection.close()
    return values


class Load(threading.Thread):
    """A client that asks without a pause; its answers by factor."""

    def __init__(self, port):
        super().__init__()
        self.port = port
        self.is_over = False
        self.counts = {}
        self.errors = []

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self.is_over:
            code, value = infer(connection)
            if code != 200:
                self.errors.append(value)
                continue
            (output,) = value["outputs"]
            pair = (value["model_version"], output["data"][0])
            self.counts[pair] = self.counts.get(pair, 0) + 1
        connection.close()


def test_hot_swaps_under_load_lose_no_request(tmp_path):
    path = scaled(tmp_path / "m.onnx", 1.0)
    other = scaled(tmp_path / "n.onnx", 2.0)
    with process(path, "--port", "0") as server:
        port = server.port()
        clients = [Load(port) for _ in range(4)]
        for client in clients:
            client.start()
        for count in range(1, 21):
            current = path.read_bytes()
            os.replace(other, path)
            other.write_bytes(current)
            server.popen.send_signal(signal.SIGHUP)
            server.wait_for("serves in the place of")
            assert status(port)["swaps"] == count
        for client in clients:
            client.is_over = True
        for client in clients:
            client.join()
        assert [client.errors for client in clients] == [[]] * 4
        pairs = set().union(*(client.counts for client in clients))
        # Each version gave its own answers, and both were seen.
        assert len(pairs) == 2 and {value for _, value in pairs} == {1, 2}


def test_sigterm_answers_what_has_come_and_ends_well(model):
    with process(model, "--port", "0") as server:
        with socket.create_connection(("127.0.0.1", server.port())) as entry:
            head = "POST /v2/models/m/infer HTTP/1.1\r\nhost: h\r\n"
            request = f"{head}content-length: {len(BODY)}\r\n\r\n{BODY}".encode()
            entry.sendall(request * 50)
            # It has begun to answer.
            answer = entry.recv(10)
            server.popen.send_signal(signal.SIGTERM)
            while data := entry.recv(65536):
                answer += data
        assert server.popen.wait(30) == 0
        assert answer.count(b"HTTP/1.1 200 OK") >= 1
        assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 200 OK")


def test_a_unix_socket_is_its_owners_alone(model, tmp_path):
    path = tmp_path / "s"
    with process(model, "--unix", str(path)) as server:
        assert path.stat().st_mode & 0o777 == 0o600
        connection = http.client.HTTPConnection("h")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        assert infer(connection)[0] == 200
        connection.close()
        command = [sys.executable, "-m", "fedlearn", "infer", str(model)]
        second = subprocess.run(
            [*command, "--unix", str(path)], capture_output=True, text=True
        )
        assert second.returncode == 2
        assert "another server listens there" in second.stderr
        server.popen.terminate()
        assert server.popen.wait(30) == 0
        assert not path.exists()
    # What a killed server left behind is no obstacle.
    with process(model, "--unix", str(path)) as server:
        server.popen.kill()
        server.popen.wait()
    assert path.exists()
    with process(model, "--unix", str(path)):
        pass


def test_a_port_in_use_is_one_line(model):
    with process(model, "--port", "0") as server:
        command = [sys.executable, "-m", "fedlearn", "infer", str(model)]
        ended = subprocess.run(
            [*command, "--port", str(server.port())], capture_output=True, text=True
        )
    assert ended.returncode == 3
    assert ended.stderr.startswith("fedlearn: cannot listen on 127.0.0.1 port")
    assert ended.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority's folder, with the server's certificate and a client's in it."""
    folder = tmp_path_factory.mktemp("pki") / "pki"
    identity.make(folder, ["localhost"], 90)
    request = make_key_and_csr(folder / "client")
    (folder / "client" / "client.pem").write_bytes(identity.sign(folder, 0, request))
    return folder


def test_with_certificates_only_who_has_one_is_answered(model, certificates):
    files = [
        "--cert",
        certificates / "server.pem",
        "--key",
        certificates / "server.key",
    ]
    options = [str(word) for word in (*files, "--ca", certificates / "ca.pem")]
    with process(model, "--port", "0", "--grpc-port", "0", *options) as server:
        port = server.port("https")
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        connection = http.client.HTTPSConnection("localhost", port, context=context)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            infer(connection)
        connection.close()
        own = certificates / "client"
        context.load_cert_chain(own / "client.pem", own / "key.pem")
        connection = http.client.HTTPSConnection("localhost", port, context=context)
        assert infer(connection)[0] == 200
        connection.close()
        # Somebody who speaks no TLS is no trouble.
        with socket.create_connection(("127.0.0.1", port)) as entry:
            entry.sendall(b"GET / HTTP/1.1\r\n\r\n")
            entry.settimeout(20)
            assert b"HTTP" not in entry.recv(100)


def test_the_server_loads_neither_torch_nor_a_web_framework(model):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from fedlearn.clients.infer import once, rpc, server\n"
        f"server.ModelSlot(Path({str(model)!r}), print)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(eval(ended.stdout))
    assert {"onnxruntime", "numpy", "grpc"} <= loaded
    heavy = {"torch", "flwr", "pydantic", "fastapi", "starlette", "uvicorn", "onnx"}
    assert loaded & heavy == set()
