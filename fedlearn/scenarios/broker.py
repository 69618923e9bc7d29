"""A mosquitto of a scenario's own, on a free port of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import time
from contextlib import suppress
from importlib.util import find_spec

from fedlearn.errors import RunError
from fedlearn.scenarios.players import Troupe, free_port
from fedlearn.system import files

_CONFIG = "mosquitto.conf"

# Somebody may take a free port before mosquitto does.
_ATTEMPTS = 5
_START_S = 10.0


def missing() -> str:
    """Return what this machine has not that MQTT needs; "": it has all."""
    if _program() is None:
        return "mosquitto is not installed (apt-get install mosquitto)"
    if find_spec("paho") is None:
        return "paho-mqtt is not installed (pip install 'fedlearn[mqtt]')"
    return ""


def started(troupe: Troupe) -> str:
    """Start a broker with mosquitto's defaults, and return its address, HOST:PORT.

    Raises RunError.
    """
    for _ in range(_ATTEMPTS):
        port = free_port()
        if _listens(troupe, port):
            return f"127.0.0.1:{port}"
    raise RunError("mosquitto does not start; see mosquitto.log")


def _program() -> str | None:
    # Debian has it where only root's PATH leads.
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


def _listens(troupe: Troupe, port: int) -> bool:
    """Start a broker on a port, and tell whether it listens there."""
    text = f"listener {port} 127.0.0.1\nallow_anonymous true\n"
    # It would become a user who cannot read the scenario's folder.
    if os.geteuid() == 0:
        text += "user root\n"
    files.replace(troupe.folder / _CONFIG, text.encode())
    broker = troupe.start("mosquitto", [_program() or "mosquitto", "-c", _CONFIG])
    end_s = time.monotonic() + _START_S
    while time.monotonic() < end_s:
        with suppress(RunError):
            broker.check()
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                return True
            time.sleep(0.02)
            continue
        # It has ended: the port is another's.
        return False
    return False
