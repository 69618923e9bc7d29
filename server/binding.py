"""Why a coordinator cannot listen at an address: gRPC does not say."""

from __future__ import annotations

import errno
import socket

_OF_HOSTS = {
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EAFNOSUPPORT: "this machine has no addresses of this kind",
}
_OF_PORTS = {
    errno.EADDRINUSE: "the port is taken",
    errno.EACCES: "this user may not use the port",
}


def why_not(host: str, port: int, option: str) -> str:
    """Return why nobody can listen at a host (a name, or an address without brackets).

    Each of its addresses is tried with a socket of the system's own. option: of the command,
    by which the port was given.
    """
    try:
        _listen(host, port)
    except (OSError, UnicodeError) as error:
        code = getattr(error, "errno", None) or 0
        if code in _OF_PORTS:
            return f"{_OF_PORTS[code]}; give another {option}"
        reason = _OF_HOSTS.get(code) or getattr(error, "strerror", None) or error
        return f"{reason}; give another --host"
    return f"it was taken a moment ago; give another {option}"


def _listen(host: str, port: int) -> None:
    """Listen for a moment; raises OSError, or UnicodeError for what is no name."""
    addresses = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, kind, protocol, _, address in addresses:
        with socket.socket(family, kind, protocol) as probe:
            # As gRPC does: a port whose last connections still close is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
