"""What a service tells systemd: that it is ready, that it lives, how it does; see sd_notify(3)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys

from fedlearn.errors import LINE_CHARACTERS
from fedlearn.text import shortened


def tell(**facts: str | int) -> None:
    """Send facts such as ``READY=1``, ``STATUS="attends"``.

    Nothing happens without systemd, or when it does not listen.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    # Neither a path nor an abstract name: sd_notify(3) knows no other sort here.
    if not address.startswith(("/", "@")):
        return
    # An abstract socket's name begins with a zero byte, which the variable cannot hold.
    if address.startswith("@"):
        address = "\0" + address[1:]
    lines = []
    for name, value in facts.items():
        # Each fact is one line.
        words = " ".join(str(value).split())
        lines.append(f"{name}={words}")
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sender:
        # A full queue must not hold up the agent.
        sender.setblocking(False)
        sender.sendto("\n".join(lines).encode(), address)


def watchdog_s() -> float | None:
    """Return the seconds between ``WATCHDOG=1``; None: systemd does not watch this process.

    It is half of the time that systemd waits, as sd_watchdog_enabled(3) recommends.
    """
    wait_us = os.environ.get("WATCHDOG_USEC", "")
    process = os.environ.get("WATCHDOG_PID", "")
    if not wait_us.isdecimal() or int(wait_us) == 0:
        return None
    # Inherited from a parent that systemd watches, so not meant for this process.
    if process not in ("", str(os.getpid())):
        return None
    return int(wait_us) / 1e6 / 2


async def beat() -> None:
    """Tell systemd that this agent lives, as often as its watchdog wants it."""
    tell(READY=1)
    while (pause_s := watchdog_s()) is not None:
        tell(WATCHDOG=1)
        await asyncio.sleep(pause_s)


def say(text: str) -> None:
    """Print a line for whoever reads the log, and for systemd if it runs this."""
    # Some of it are a coordinator's words, or a model's.
    line = shortened(text, LINE_CHARACTERS)
    # At once: the line says what the process does now.
    print(line, file=sys.stderr, flush=True)
    tell(STATUS=line)
