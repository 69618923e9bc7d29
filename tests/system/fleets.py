"""A fleet's coordinator and agents as processes, for tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedlearn.server.device_store import DeviceEntry, DeviceStore

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class FleetProcesses:
    """Processes in one folder; `end` kills those that run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = folder / "fleet"
        self.port = free_port()
        self.metrics = free_port()
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *words: Any) -> subprocess.Popen[bytes]:
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

    def serve(self) -> subprocess.Popen[bytes]:
        ports = ("--port", self.port, "--metrics-port", self.metrics)
        process = self.start(
            "fleet", self.fleet, "--insecure", *ports, "--silent-s", "1"
        )
        self.wait(lambda: (self.fleet / "address.json").exists(), process)
        return process

    def attend(self, client: int) -> subprocess.Popen[bytes]:
        place = ("--coordinator", f"127.0.0.1:{self.port}", "--client", client)
        state = self.folder / f"state{client}"
        return self.start("agent", *place, "--insecure", "--state", state)

    def entries(self) -> dict[int, DeviceEntry]:
        store = DeviceStore(self.fleet)
        try:
            return store.entries()
        finally:
            store.close()

    def attending(self) -> set[int]:
        return {device for device, entry in self.entries().items() if entry.attending}

    def wait(
        self,
        condition: Callable[[], bool],
        process: subprocess.Popen[bytes] | None = None,
        seconds: float = 100.0,
    ) -> None:
        """Wait until a condition holds, and while a process runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            assert process is None or process.poll() is None
            time.sleep(0.05)

    def end(self) -> None:
        for process in self.running:
            if process.poll() is None:
                kill(process)
            process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
