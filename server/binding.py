"""Why a coordinator cannot listen at an address: gRPC does not say."""

from __future__ import annotations

import errno
import socket

_REASONS = {
    errno.EADDRINUSE: "the port is taken",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EAFNOSUPPORT: "this machine has no addresses of this kind",
    errno.EACCES: "this user may not use the port",
}


def why_not(host: str, port: int) -> str:
    """Return why nobody can listen at a host (a name, or an address without brackets).

    Each of its addresses is tried with a socket of the system's own.
    """
    try:
        addresses = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        return f"the host is not known ({getattr(error, 'strerror', None) or error})"
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                # As gRPC does: a port whose last connections still close is free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            code = error.errno or 0
            return _REASONS.get(code, error.strerror or str(error))
    return "it was taken a moment ago, or gRPC refuses it"
