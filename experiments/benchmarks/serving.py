"""What a served request costs, beside MLServer in the same run; and hot swaps under load.

python -m fedlearn.experiments.benchmarks.serving MODEL.onnx [--mlserver FILE] [--turns N]
    [--requests N] [--swaps N] [--out FILE.json]

MODEL has one float32 input, samples along its first axis. Load comes from h2load (Debian's
nghttp2-client). What is compared is requests per CPU second of the server's process: a busy
machine does not falsify it, as it does latencies. Servers take turns on one core, h2load has
another. MLServer (``pip install mlserver onnxruntime`` in an environment of its own) runs the
same session on one thread, with its batching and without. It has no binary tensors over REST:
its binary requests are gRPC's raw contents.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import RunError, UserError

PORT = 18931
GRPC_PORT = 18932

# Share of the requests that warm a server before those that count.
WARM = 10

CONNECTIONS = (1, 32)

# What MLServer is given to run: the same session as ours, by its own codecs.
RUNTIME = """
import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Runtime(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        y = self.session.run(None, {self.input: x})[0]
        outputs = [NumpyCodec.encode_output("y", y)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""


@dataclass
class Server:
    """A server that runs. kinds: the requests that it takes."""

    name: str
    process: subprocess.Popen[bytes]
    kinds: tuple[str, ...]

    def cpu_s(self) -> float:
        """Return the processor seconds that it has used so far."""
        fields = (
            Path(f"/proc/{self.process.pid}/stat")
            .read_text()
            .rpartition(")")[2]
            .split()
        )
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Return its resident memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024


def write_requests(model: Path, folder: Path) -> None:
    """Write one sample as a JSON body, a binary body with its length, and a gRPC message."""
    import onnxruntime

    from fedlearn.exchange import inference_pb2 as pb

    port = onnxruntime.InferenceSession(
        str(model), providers=["CPUExecutionProvider"]
    ).get_inputs()[0]
    shape = [length if isinstance(length, int) else 1 for length in port.shape]
    x = np.random.default_rng(0).random(shape, dtype=np.float32).round(4)
    entry: dict[str, Any] = {"name": port.name, "shape": shape, "datatype": "FP32"}
    values = [round(float(value), 4) for value in x.ravel()]
    body = {"id": "1", "inputs": [{**entry, "data": values}]}
    (folder / "json").write_text(json.dumps(body))
    binary = {**entry, "parameters": {"binary_data_size": x.nbytes}}
    wishes = {"binary_data_output": True}
    head = json.dumps({"id": "1", "inputs": [binary], "parameters": wishes}).encode()
    (folder / "binary").write_bytes(head + x.tobytes())
    (folder / "length").write_text(str(len(head)))
    message = pb.ModelInferRequest(
        model_name="m", id="1", raw_input_contents=[x.tobytes()]
    )
    message.inputs.add(**entry)
    data = message.SerializeToString()
    # gRPC's frame: not compressed, and the length.
    (folder / "grpc").write_bytes(b"\0" + struct.pack(">I", len(data)) + data)


@contextlib.contextmanager
def ours(model: Path, core: str) -> Iterator[Server]:
    """Run `fedlearn infer`."""
    command = [sys.executable, "-m", "fedlearn", "infer", str(model), "--name", "m"]
    command += ["--port", str(PORT)]
    with _running("fedlearn", command, core, ("json", "binary")) as server:
        yield server


@contextlib.contextmanager
def mlserver(program: Path, model: Path, batch: int, core: str) -> Iterator[Server]:
    """Run MLServer; batch: of its batching, 0: without."""
    settings = {
        "host": "127.0.0.1",
        "http_port": PORT,
        "grpc_port": GRPC_PORT,
        "parallel_workers": 0,
        "debug": False,
        "metrics_endpoint": None,
    }
    about: dict[str, Any] = {
        "name": "m",
        "implementation": "runtime.Runtime",
        "parameters": {"uri": str(model.resolve())},
    }
    if batch:
        about |= {"max_batch_size": batch, "max_batch_time": 0.002}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "settings.json").write_text(json.dumps(settings))
        Path(folder, "model-settings.json").write_text(json.dumps(about))
        Path(folder, "runtime.py").write_text(RUNTIME)
        name = f"MLServer, batches of {batch}" if batch else "MLServer"
        command = [str(program), "start", folder]
        with _running(name, command, core, ("json", "grpc")) as server:
            yield server


@contextlib.contextmanager
def _running(
    name: str, command: list[str], core: str, kinds: tuple[str, ...]
) -> Iterator[Server]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            ["taskset", "-c", core, *command], stdout=log, stderr=log, env=environment
        )
        try:
            if not _is_ready(process):
                log.seek(0)
                text = log.read()[-500:].decode(errors="replace")
                raise RunError(f"{name} does not serve: {text}")
            yield Server(name, process, kinds)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


def _is_ready(process: subprocess.Popen[bytes]) -> bool:
    """Wait for a server to say that its model is ready, a minute at most."""
    for _ in range(300):
        time.sleep(0.2)
        if process.poll() is not None:
            return False
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=2)
            connection.request("GET", "/v2/models/m/ready")
            if connection.getresponse().status == 200:
                return True
    return False


def load(kind: str, connections: int, requests: int, folder: Path, core: str) -> int:
    """Send requests by h2load; returns how many were answered well."""
    url = f"http://127.0.0.1:{PORT}/v2/models/m/infer"
    options = ["--h1", "-d", str(folder / kind)]
    if kind == "json":
        options += ["-H", "content-type: application/json"]
    elif kind == "binary":
        length = (folder / "length").read_text()
        options += ["-H", f"inference-header-content-length: {length}"]
    else:
        url = f"http://127.0.0.1:{GRPC_PORT}/inference.GRPCInferenceService/ModelInfer"
        options = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        options += ["-d", str(folder / kind)]
    counts = ["-c", str(connections), "-m", "1", "-t", "1", "-n", str(requests)]
    command = ["taskset", "-c", core, "h2load", *counts, *options, url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"status codes: (\d+) 2xx", output)
    return int(match[1]) if match else 0


def measure(
    server: Server, requests: int, folder: Path, core: str
) -> list[dict[str, Any]]:
    """Return requests per CPU second of each kind and number of connections."""
    rows = []
    for kind in server.kinds:
        for connections in CONNECTIONS:
            count = requests if connections > 1 else requests // 4
            load(kind, connections, max(count // WARM, connections), folder, core)
            before = server.cpu_s()
            answered = load(kind, connections, count, folder, core)
            used_s = server.cpu_s() - before
            if answered != count:
                raise RunError(
                    f"{server.name}: {answered} of {count} {kind} were answered"
                )
            rows.append(
                {
                    "server": server.name,
                    "kind": kind,
                    "connections": connections,
                    "requests_per_cpu_s": answered / used_s,
                }
            )
    return rows


def swap_under_load(
    model: Path, swaps: int, requests: int, folder: Path, cores: tuple[str, str]
) -> dict[str, Any]:
    """Swap a model for another version of itself, so often, while requests come."""
    record = folder / "serving.json"
    with ours(_record(record, model), cores[0]) as server:
        before_mb = server.memory_mb()
        command = ["taskset", "-c", cores[1], sys.executable, "-m", __spec__.name]
        options = ["--load-only", str(folder), "--requests", str(requests)]
        client = subprocess.Popen(
            [*command, str(model), *options], stdout=subprocess.PIPE
        )
        # Not before the load is there.
        while _status()["requests"] < 500:
            time.sleep(0.1)
        for number in range(1, swaps + 1):
            server.process.send_signal(signal.SIGHUP)
            while _status()["swaps"] < number:
                time.sleep(0.01)
        is_under_load = client.poll() is None
        client.terminate()
        text = client.communicate()[0]
        counts = json.loads(text.splitlines()[-1])
        status = _status()
        return {
            "swaps": status["swaps"],
            "failed_swaps": status["failed_swaps"],
            "answered": counts["answered"],
            "errors": counts["errors"],
            "under_load_to_the_end": is_under_load,
            "memory_mb": [round(before_mb, 1), round(server.memory_mb(), 1)],
        }


def _record(path: Path, model: Path) -> Path:
    path.write_text(json.dumps({"model": str(model.resolve())}))
    return path


def _status() -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    connection.request("GET", "/status")
    values: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return values


def ask_until_stopped(folder: Path, connections: int = 16) -> None:
    """Be the load of the swaps: ask without a pause, and print the counts at SIGTERM."""
    import threading

    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    counts = {"answered": 0, "errors": 0}
    lock = threading.Lock()
    body = (folder / "binary").read_bytes()
    headers = {"inference-header-content-length": (folder / "length").read_text()}

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        while not stopping.is_set():
            is_sound = False
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("POST", "/v2/models/m/infer", body, headers)
                answer = connection.getresponse()
                answer.read()
                is_sound = answer.status == 200
            with lock:
                counts["answered" if is_sound else "errors"] += 1
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(connections)]
    for thread in threads:
        thread.start()
    stopping.wait()
    for thread in threads:
        thread.join()
    print(json.dumps(counts))


def summary(rows: Sequence[dict[str, Any]], memory: dict[str, float]) -> list[str]:
    """Return the table's lines: medians over turns, and ratios to the best of MLServer."""
    medians: dict[tuple[str, str, int], float] = {}
    for row in rows:
        key = (row["server"], row["kind"], row["connections"])
        values = [
            other["requests_per_cpu_s"]
            for other in rows
            if (other["server"], other["kind"], other["connections"]) == key
        ]
        medians[key] = statistics.median(values)
    lines = ["| server | requests | connections | per CPU second | MB |", "|-|-|-|-|-|"]
    for (name, kind, connections), value in medians.items():
        lines.append(
            f"| {name} | {kind} | {connections} | {value:,.0f} | {memory[name]:.0f} |"
        )
    for kind, peer_kinds in (("json", ("json",)), ("binary", ("json", "grpc"))):
        for peer_kind in peer_kinds:
            for connections in CONNECTIONS:
                peers = [
                    value
                    for (name, other, count), value in medians.items()
                    if name != "fedlearn" and (other, count) == (peer_kind, connections)
                ]
                if peers:
                    ratio = medians["fedlearn", kind, connections] / max(peers)
                    lines.append(
                        f"{kind}, {connections} connections: {ratio:.1f} times MLServer's "
                        f"best {peer_kind}"
                    )
    return lines


def _run(arguments: argparse.Namespace) -> None:
    if arguments.load_only:
        ask_until_stopped(arguments.load_only)
        return
    if shutil.which("h2load") is None:
        raise UserError("there is no h2load; Debian has it as nghttp2-client")
    cores = sorted(os.sched_getaffinity(0))
    own, other = str(cores[0]), str(cores[-1])
    rows: list[dict[str, Any]] = []
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_requests(arguments.model, folder)
        for _ in range(arguments.turns):
            servers = [ours(arguments.model, own)]
            if arguments.mlserver:
                for batch in (0, 32):
                    servers.append(
                        mlserver(arguments.mlserver, arguments.model, batch, own)
                    )
            for running in servers:
                with running as server:
                    rows += measure(server, arguments.requests, folder, other)
                    memory[server.name] = server.memory_mb()
        swapped = swap_under_load(
            arguments.model, arguments.swaps, arguments.requests, folder, (own, other)
        )
    print("\n".join(summary(rows, memory)))
    print(f"swaps: {json.dumps(swapped)}")
    if arguments.out:
        results = {"rows": rows, "memory_mb": memory, "swaps": swapped}
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    parser = Parser(
        prog="python -m fedlearn.experiments.benchmarks.serving",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--mlserver", type=Path, help="its program")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--requests", type=int, default=6000, help="of each measurement"
    )
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--out", type=Path, help="a JSON file of all figures")
    parser.add_argument("--load-only", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    return ended(lambda: _run(arguments))


if __name__ == "__main__":
    sys.exit(main())
