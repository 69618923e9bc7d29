"""A mosquitto of a test's own, with its defaults, that can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# Debian has it where only root's PATH leads.
PROGRAM = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")

needs_mosquitto = pytest.mark.skipif(
    PROGRAM is None, reason="mosquitto is not installed: apt-get install mosquitto"
)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Mosquitto:
    """A broker's process; settings: lines of its configuration besides the listener."""

    def __init__(self, folder: Path, settings: str = "allow_anonymous true\n") -> None:
        assert PROGRAM is not None
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        # All else is mosquitto's default: no persistence, 20 messages in flight.
        self._config.write_text(f"listener {self.port} 127.0.0.1\n{settings}")
        # It would become a user who cannot read a test's folder.
        if os.geteuid() == 0:
            self._config.write_text(self._config.read_text() + "user root\n")
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert PROGRAM is not None
        self._process = subprocess.Popen(
            [PROGRAM, "-c", str(self._config)], stderr=subprocess.DEVNULL
        )
        while True:
            assert self._process.poll() is None, "mosquitto has ended"
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.connect(("127.0.0.1", self.port))
                return
            time.sleep(0.02)

    def kill(self) -> None:
        """End it by SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def mosquitto(folder: Path, settings: str = "allow_anonymous true\n") -> Iterator:
    """Run a broker while the block lasts."""
    broker = Mosquitto(folder, settings)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()
