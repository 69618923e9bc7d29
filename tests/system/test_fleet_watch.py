"""A fleet that is watched, over real processes: status, figures, the doctor, and who is away."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from fedlearn.commands import doctor, status
from fedlearn.release.fleet_status import is_served
from fedlearn.server.device_store import DeviceStore
from fedlearn.server.observe import read

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(120)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """A coordinator and an agent, which end with the test."""

    def __init__(self, folder):
        self.folder = folder
        self.fleet = folder / "fleet"
        self.port = free_port()
        self.metrics = free_port()
        self.running: list[subprocess.Popen] = []

    def start(self, *words):
        process = subprocess.Popen(
            [sys.executable, "-m", "fedlearn", *map(str, words)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.running.append(process)
        return process

    def serve(self):
        ports = ("--port", self.port, "--metrics-port", self.metrics)
        return self.start("fleet", self.fleet, "--insecure", *ports, "--silent-s", "1")

    def attend(self):
        place = ("--coordinator", f"127.0.0.1:{self.port}", "--client", "4")
        return self.start(
            "agent", *place, "--insecure", "--state", self.folder / "state"
        )

    def entries(self):
        store = DeviceStore(self.fleet)
        try:
            return store.entries()
        finally:
            store.close()

    def wait(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def processes(tmp_path):
    own = Processes(tmp_path)
    yield own
    for process in own.running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_device_is_seen_asked_and_missed(processes, capsys):
    fleet = processes.fleet
    processes.serve()
    processes.wait(lambda: (fleet / "address.json").exists())
    agent = processes.attend()
    processes.wait(lambda: processes.entries().get(4) is not None)
    processes.wait(lambda: processes.entries()[4].attending)
    assert is_served(fleet)
    code = doctor.main(["--fleet", str(fleet), "--wait-s", "60"])
    out = capsys.readouterr().out
    assert "device 4: attends" in out and "link" in out
    assert code == 0 and "all is well" in out
    url = f"http://127.0.0.1:{processes.metrics}"
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:
        assert "fedlearn_fleet_devices 1" in reply.read().decode()
    with urllib.request.urlopen(url, timeout=10) as reply:
        assert reply.read().startswith(b"<!doctype html>")
    os.killpg(agent.pid, signal.SIGKILL)
    names = [event["event"] for event in read(fleet)]
    processes.wait(lambda: "silent" in [event["event"] for event in read(fleet)])
    assert "silent" not in names
    assert status.main([str(fleet)]) == 0
    out = capsys.readouterr().out
    assert "0 of 1 devices attend" in out and "silent, away since" in out
