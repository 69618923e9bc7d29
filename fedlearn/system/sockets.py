"""This process's TCP connections, also those that gRPC has opened and gives no access to."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# Where Linux lists the open files of this process.
_FILES = "/proc/self/fd"

# Silence after which the kernel asks whether the other end is there, the pause between such
# questions, and how many stay unanswered before the connection has died: 25 s together.
KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))

# Of Linux's struct tcp_info (linux/tcp.h): where the bytes that came are counted, and its size
# up to there. Kernels before 4.1 do not count them.
_RECEIVED_AT = 128
_INFO_BYTES = _RECEIVED_AT + 8

# Of TCP, over IPv4 and IPv6.
_FAMILIES = (socket.AF_INET, socket.AF_INET6)

# Host and port of one end.
End = tuple[str, int]


@dataclass(frozen=True)
class Connection:
    """A connection of this process. heard_bytes: that came so far, as TCP counts them."""

    descriptor: int
    local: End
    peer: End
    heard_bytes: int


def open_files() -> int:
    """Return how many files this process has open, connections among them."""
    # Linux 6.2 and later tell the number; it is 0 before.
    return os.stat(_FILES).st_size or len(os.listdir(_FILES))


def connections() -> Iterator[Connection]:
    """Yield the TCP connections of this process, as it has them now; none beyond Linux."""
    if not os.path.isdir(_FILES):
        return
    for name in os.listdir(_FILES):
        # Closed meanwhile, or no connection: a file, a pipe, a socket that listens.
        with contextlib.suppress(OSError), _borrowed(int(name)) as entry:
            if entry.type == socket.SOCK_STREAM and entry.family in _FAMILIES:
                local = _end(entry.getsockname())
                peer = _end(entry.getpeername())
                yield Connection(int(name), local, peer, _heard_bytes(entry))


def keep_alive(connection: Connection) -> None:
    """Have the kernel notice when the other end of a connection has gone without a word."""
    with contextlib.suppress(OSError), _borrowed(connection.descriptor) as entry:
        entry.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, number in KEEPALIVE:
            entry.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), number)


def end(connection: Connection) -> None:
    """End a connection; whoever owns it reads its end, and closes it."""
    with contextlib.suppress(OSError), _borrowed(connection.descriptor) as entry:
        # Its number may stand for another connection by now, which is none of ours to end.
        if _end(entry.getpeername()) == connection.peer:
            entry.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Yield a socket of somebody else's; raises OSError for what is none."""
    entry = socket.socket(fileno=descriptor)
    try:
        yield entry
    finally:
        # It stays its owner's to close.
        entry.detach()


def _end(address: tuple[str, int]) -> End:
    """Return one end; an IPv4 address stays one on a socket of IPv6."""
    host = address[0].removeprefix("::ffff:")
    return host, address[1]


def _heard_bytes(entry: socket.socket) -> int:
    info = entry.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    if len(info) < _INFO_BYTES:
        return 0
    received: int = struct.unpack_from("=Q", info, _RECEIVED_AT)[0]
    return received
