"""Connections that nobody vouches for: so many, and then the silent and the oldest are ended.

gRPC accepts whoever comes, and tells of a connection only once it calls. So this looks at the
process's own sockets: the peer of every call that passed the gate is known, all others are
strangers. gRPC itself ends those that do not shake hands in time or stay idle. Here their
number is bounded in the meantime, for a flood must leave room for those who have a certificate
or a token. Who never calls is ended here, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol
from urllib.parse import unquote

from fedlearn.server.descriptors import Admission
from fedlearn.system import sockets
from fedlearn.system.sockets import Connection, End

# How often the connections are counted; a look that takes long is followed by a longer pause,
# so that looking costs at most a share of a core.
LOOK_S = 0.25
SHARE = 0.05

# Seconds until a stranger has called, or is ended, more than gRPC gives for a handshake; and how
# often that is looked for, if there may be any.
PATIENCE_S = 75.0
ROUND_S = 5.0

# Bytes of an IPv6 address that name a network: a stranger has all addresses of his.
_NETWORK_BYTES = 8


def peer_of(text: str) -> End | None:
    """Return the other end of a call as gRPC names it, such as ``ipv4:192.0.2.1:4711``."""
    _, _, place = unquote(text).partition(":")
    host, _, port = place.rpartition(":")
    if not port.isdigit():
        return None
    return host.strip("[]").removeprefix("::ffff:"), int(port)


def excess(
    strangers: Iterable[Connection], order: Mapping[End, float], limits: Admission
) -> list[Connection]:
    """Return the strangers that are too many, of one address or of all.

    order: when each was first seen. Who has said nothing goes first, and among these the oldest: an
    agent that comes now speaks at once.
    """
    waiting = sorted(
        strangers,
        key=lambda stranger: (stranger.heard_bytes > 0, order.get(stranger.peer, 0)),
    )
    of_address = Counter(_address(stranger.peer[0]) for stranger in waiting)
    total = len(waiting)
    too_many = []
    for stranger in waiting:
        address = _address(stranger.peer[0])
        if of_address[address] <= limits.each and total <= limits.strangers:
            continue
        of_address[address] -= 1
        total -= 1
        too_many.append(stranger)
    return too_many


class Members(Protocol):
    """Those who passed the gate."""

    def __len__(self) -> int:
        """Return how many calls they have."""

    def peers(self) -> Collection[End]:
        """Return the other ends of their calls."""


class Strangers:
    """Watches the ports of a coordinator; see the module."""

    def __init__(
        self,
        ports: Sequence[int],
        limits: Admission,
        members: Members,
        counters: Counter[str],
    ) -> None:
        """Take the ports, those who are no strangers, and where the ended are counted.

        ports: first the one where agents attend. Who enrolls waits in a line, and gRPC
        ends who is silent there.
        """
        self._ports = tuple(ports)
        self._limits = limits
        self._members = members
        self._counters = counters
        # Files of this process that are no connections at the ports, when last counted.
        self._other_files = sockets.open_files()
        # When each stranger was first seen.
        self._seen: dict[End, float] = {}
        self._looked_s = -ROUND_S

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            began = time.perf_counter()
            # Out of descriptors for the look itself, as where gRPC is old and has no bound:
            # the next look may have one.
            with contextlib.suppress(OSError):
                self.look(time.monotonic())
            took_s = time.perf_counter() - began
            await asyncio.sleep(max(LOOK_S, took_s / SHARE))

    def look(self, now: float) -> None:
        """End the strangers that are too many, and those who attend and never call.

        now: seconds of any steady clock.
        """
        # Counted first, which is quick: each connection is looked at only when there may be
        # too many.
        suspects = sockets.open_files() - self._other_files - len(self._members)
        bound = min(self._limits.each, self._limits.strangers)
        if suspects <= 0 or (suspects <= bound and now < self._looked_s + ROUND_S):
            return
        self._looked_s = now
        guests = [
            connection
            for connection in sockets.connections()
            if connection.local[1] in self._ports
        ]
        self._other_files = sockets.open_files() - len(guests)
        members = set(self._members.peers())
        strangers = [guest for guest in guests if guest.peer not in members]
        # In a new dict: who has gone, or has called, is forgotten.
        self._seen = {
            stranger.peer: self._seen.get(stranger.peer, now) for stranger in strangers
        }
        # A set: thousands may be too many at once.
        surplus = set(excess(strangers, self._seen, self._limits))
        for stranger in strangers:
            if stranger in surplus or self._is_idle(stranger, now):
                sockets.end(stranger)
                self._counters["strangers"] += 1

    def _is_idle(self, stranger: Connection, now: float) -> bool:
        attends = stranger.local[1] == self._ports[0]
        return attends and self._seen[stranger.peer] <= now - PATIENCE_S


def _address(host: str) -> bytes:
    """Return what counts as one address of strangers."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).packed[:_NETWORK_BYTES]
    except ValueError:
        return host.encode()
