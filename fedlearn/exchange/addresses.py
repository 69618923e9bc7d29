"""Addresses of coordinators, HOST:PORT, and the proxy that gRPC may take on the way there."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from fedlearn.exchange import CHANNEL
from fedlearn.text import printable

# Where gRPC looks for a proxy, and for the hosts that it reaches without one: the first
# variable that is set counts.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def joined(host: str, port: int) -> str:
    """Return HOST:PORT; an IPv6 address gets brackets, as its colons are no port's."""
    bare = bare_host(host)
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def bare_host(host: str) -> str:
    """Return a host without the brackets of an IPv6 address."""
    is_bracketed = host.startswith("[") and host.endswith("]")
    return host[1:-1] if is_bracketed else host


def host_of(place: str) -> str:
    """Return the host of HOST:PORT, without brackets."""
    host, _, _ = place.rpartition(":")
    return bare_host(host)


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine itself, whatever its network."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def is_everywhere(host: str) -> bool:
    """Tell whether a host stands for all addresses of a machine: nobody can connect to it."""
    address = _address(host)
    return address is not None and address.is_unspecified


def proxy(place: str) -> str | None:
    """Return by which variable and through what gRPC goes to HOST:PORT; None: directly.

    A name and a password in the proxy's address are left out.
    """
    host = host_of(place)
    if is_loopback(host):
        return None
    for variable in _EXCEPTIONS:
        text = os.environ.get(variable)
        if text:
            endings = [ending.strip() for ending in text.split(",")]
            if any(ending and host.endswith(ending) for ending in endings):
                return None
            break
    for variable in _PROXIES:
        text = os.environ.get(variable)
        if text:
            return f"{variable}={_without_password(text)}"
    return None


def detour(place: str) -> str:
    """Return words for an error on the way to HOST:PORT: the proxy; "" where there is none."""
    name = proxy(place)
    if name is None:
        return ""
    return f", through the proxy {name} (without it: no_proxy={host_of(place)})"


def channel_options(place: str) -> tuple[tuple[str, int], ...]:
    """Return the options of a channel to HOST:PORT."""
    # A proxy cannot reach this machine's loopback: it would come to its own.
    if is_loopback(host_of(place)):
        return (*CHANNEL, ("grpc.enable_http_proxy", 0))
    return CHANNEL


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        # Without the zone of a link, as in fe80::1%eth0.
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _without_password(url: str) -> str:
    """Return a proxy's address as a log may have it."""
    try:
        parts = urlsplit(url)
        address = parts.netloc.rpartition("@")[2] or url.rpartition("@")[2]
    except ValueError:
        address = url.rpartition("@")[2]
    return printable(address)
