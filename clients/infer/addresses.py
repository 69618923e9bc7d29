"""What an address and a model's name may be; nothing heavy is imported to tell."""

from __future__ import annotations

import ipaddress
import re

# Names of models in paths: nothing in them needs an escape.
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def remote(peer: object) -> str:
    """Return a client's address; "": it is on this machine, where none is like another.

    peer: what a socket tells of its other end.
    """
    if not isinstance(peer, tuple) or not peer:
        return ""
    address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return "" if address.is_loopback else str(address)
