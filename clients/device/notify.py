"""What a service tells systemd: that it is ready, that it lives, and how it is doing. See sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket


def tell(**facts: str | int) -> None:
    """Send facts such as ``READY=1``, ``STATUS="attends"``; without systemd, or if it does not listen, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    text = "\n".join(
        f"{name}={' '.join(str(value).split())}" for name, value in facts.items()
    )
    with (
        contextlib.suppress(OSError),
        socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        ) as sender,
    ):
        sender.setblocking(False)  # a full queue must not hold up the agent
        sender.sendto(
            text.encode(), "\0" + address[1:] if address.startswith("@") else address
        )


def watchdog_s() -> float | None:
    """Return how often to tell ``WATCHDOG=1``, in seconds: half of what systemd waits. None: it does not watch this process."""
    wait_us, process = (
        os.environ.get("WATCHDOG_USEC", ""),
        os.environ.get("WATCHDOG_PID", ""),
    )
    if (
        not wait_us.isdecimal()
        or int(wait_us) == 0
        or process not in ("", str(os.getpid()))
    ):
        return None
    return int(wait_us) / 2e6
