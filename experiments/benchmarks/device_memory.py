"""What an agent of a fleet takes of a device's memory, idle and with a model that it serves.

    python -m fedlearn.experiments.benchmarks.device_memory PACKAGE [--requests 1000]
        [--python FILE]

A coordinator and one real agent over mutual TLS, in processes of their own. The agent attends,
installs the package by a rollout, and serves it; then it is asked. Memory is in MB of 2²⁰
bytes: the resident set (VmRSS), and in brackets the share that no other process has of it
(Pss). An idle agent's is read before its first rollout. --python: of an environment with
numpy, protobuf, grpcio and onnxruntime alone, to see a device's.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.commands.arguments import Parser, ended
from fedlearn.experiments.benchmarks.fleet_place import FleetPlace, fleet, until
from fedlearn.package import content, golden
from fedlearn.package.content import Package
from fedlearn.release import rollouts

# From the last event until memory is read: what was freed is given back by then.
SETTLE_S = 3.0

SETTINGS = """\
[releases]
accept = {name}
keys = {key}
watch_s = 1
serve = --port {port} --name m
[rules]
memory_mb = 0
memory_low_mb = 0
"""


def memory_mb(process: int) -> tuple[float, float]:
    """Return a process's resident set, and the share of it that it has alone."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    sizes = dict(re.findall(r"^(Rss|Pss): +(\d+) kB", text, re.MULTILINE))
    return int(sizes["Rss"]) / 1024, int(sizes["Pss"]) / 1024


def children(process: int) -> list[int]:
    """Return the processes that a process has started and that run."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def tell(step: str, processes: Sequence[int]) -> None:
    """Print the memory of some processes together."""
    sizes = [memory_mb(process) for process in processes]
    resident = sum(size for size, _ in sizes)
    alone = sum(size for _, size in sizes)
    print(f"{step:<44}{resident:6.1f} MB ({alone:.1f})", flush=True)


def ask(port: int, package: Package, requests: int) -> None:
    """Ask the served model for one sample at a time, over one connection."""
    # The package's own, so any package can be measured.
    sample = golden.read(package).inputs[:1]
    entry: dict[str, Any] = {"name": package.manifest.input.name}
    entry |= {"datatype": "UINT8", "shape": sample.shape}
    if sample.dtype != np.uint8:
        entry["datatype"] = "FP32"
    body = json.dumps({"inputs": [{**entry, "data": sample.reshape(-1).tolist()}]})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    # Over one connection: what is measured is the server, not its handshakes.
    for _ in range(requests):
        connection.request("POST", "/v2/models/m/infer", body)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(text.decode())
    connection.close()


def free_port() -> int:
    """Return a port of this machine that nobody has."""
    with socket.socket() as probe:
        # Given back before the agent takes it; nobody else here asks for ports meanwhile.
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def attend(ground: FleetPlace, package: Package, port: int, python: str) -> int:
    """Start a coordinator and an agent; returns the agent's process once it attends."""
    address = f"localhost:{ground.coordinator()}"
    settings = ground.place.path / "agent.ini"
    name = package.manifest.name
    text = SETTINGS.format(name=name, key=ground.public_key, port=port)
    settings.write_text(text)
    state = ground.place.enroll(0)
    words = ("--coordinator", address, "--state", state, "--settings", settings)
    process = ground.start("agent", *words, python=python)
    until(
        lambda: bool(rollouts.status(ground.folder)["devices"]), "report of the agent"
    )
    return process.pid


def measure(folder: Path, requests: int, python: str) -> None:
    """Print what the agent takes, step by step."""
    package = content.read(folder)
    port = free_port()
    with fleet() as ground:
        agent = attend(ground, package, port, python)
        time.sleep(SETTLE_S)
        tell("an idle agent, which has no model", [agent])
        ground.roll_out(ground.signed(folder), 1)
        ground.wait_until_done()
        time.sleep(SETTLE_S)
        # One: whatever else the agent started has ended by now.
        (server,) = children(agent)
        tell("the agent, whose model is served", [agent])
        tell("what serves it", [server])
        ask(port, package, requests)
        tell(f"what serves it, after {requests:,} requests", [server])
        tell("both", [agent, server])


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    words = Parser(
        prog="python -m fedlearn.experiments.benchmarks.device_memory",
        description="Measure the memory of an agent and of what it serves.",
    )
    words.add_argument("package", type=Path, help="a package; a copy of it is signed")
    words.add_argument("--requests", type=int, default=1000)
    words.add_argument(
        "--python",
        default=sys.executable,
        help="the agent's, of an environment with a device's packages alone",
    )
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(
        lambda: measure(arguments.package, arguments.requests, arguments.python)
    )


if __name__ == "__main__":
    sys.exit(main())
