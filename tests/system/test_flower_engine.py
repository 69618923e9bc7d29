"""An experiment under `flwr run`, with a SuperLink and SuperNodes of its own, gives the model
of a simulation.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.jobs import run

ROOT = Path(__file__).parents[2]
APP = ROOT / "experiments" / "flower"
SMALL = (APP / "small.toml").read_text()
pytestmark = pytest.mark.timeout(
    300
)  # a round takes Flower some 10 s: it polls, and starts a process for every task


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass(frozen=True)
class Federation:
    """A SuperLink and two SuperNodes on loopback, and the `flwr` that runs apps on them."""

    folder: Path
    environment: dict[str, str]
    app: Path

    def flwr(self, *changes: str, **values: str) -> str:
        """Run the app, and return what Flower says of it."""
        told = " ".join(
            f'{key}="{value}"'
            for key, value in {**values, "set": " ".join(changes)}.items()
        )
        command = [
            "flwr",
            "run",
            str(self.app),
            "test",
            "--stream",
            "--run-config",
            told,
        ]
        ran = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("flower")
    bin = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{bin}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    link, *ports = free_ports(3)
    (folder / "home").mkdir()
    (folder / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "test"\n\n[superlink.test]\n'
        f'address = "127.0.0.1:{link}"\ninsecure = true\n'
    )
    shutil.copytree(APP, folder / "app")
    commands = [
        [
            "flower-superlink",
            "--insecure",
            "--port",
            str(link),
            "--disable-runtime-dependency-installation",
        ]
    ]
    commands += [
        [
            "flower-supernode",
            "--insecure",
            "--superlink",
            f"127.0.0.1:{link}",
            "--port",
            str(port),
            "--node-config",
            f"partition-id={client}",
        ]
        for client, port in enumerate(ports)
    ]
    processes = []
    try:
        for number, command in enumerate(commands):
            with open(folder / f"{number}.log", "w") as log:
                processes.append(
                    subprocess.Popen(
                        command, cwd=folder, env=environment, stdout=log, stderr=log
                    )
                )
            if not number:
                wait_for(link, processes[0])
        yield Federation(folder, environment, folder / "app")
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while True:
        assert process.poll() is None
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)


def test_flowers_engine_gives_what_a_simulation_gives(federation, tmp_path):
    # Differences from each client's copy, and error feedback: what a client holds lies in its
    # context's state.
    changes = (
        "codec.up=ef+topk(0.1)+q8",
        "codec.down=eden1",
        "evaluate.clients=true",
        "experiment.rounds=2",
    )
    simulated = run(tmp_path / "simulated", *changes, config=SMALL)
    said = federation.flwr(*changes, out=str(tmp_path / "flower"))
    assert "Traceback" not in said
    summary = json.loads((tmp_path / "flower" / "summary.json").read_text())
    assert summary["engine"] == "flower"
    for key in ("model_sha256", "bytes_up", "bytes_down", "accuracy", "failed"):
        assert summary[key] == simulated.summary[key], key


def test_a_users_mistake_is_one_line_in_flowers_log(federation):
    said = federation.flwr("train.lrr=0.1")
    assert (
        "fedlearn: --set train.lrr=0.1: unknown key 'train.lrr'. Did you mean 'lr'?"
        in said
    )
    assert "Traceback" not in said
