"""How fast the link to the coordinator is, and how far the two clocks are apart."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from fedlearn.clients.agent.identity import Identity
from fedlearn.clients.device.findings import (
    FAILS,
    NOTE,
    SET_CLOCK,
    SKIPPED,
    WELL,
    Finding,
    span,
)
from fedlearn.exchange.addresses import channel_options
from fedlearn.exchange.link import LARGEST_BYTES, measure
from fedlearn.exchange.link_pb2 import Probe

# How long one answer without data may take.
ANSWER_S = 10.0

# The first of the round trips also opens the connection.
# Trips vary by what else the link carries; the shortest one bounds the skew best.
_ROUND_TRIPS = 4

# Bytes of the first transfer. Each one is twice as large as the one before, until one takes
# long enough to be measured well, or `LARGEST_BYTES` are reached.
SMALLEST_BYTES = 32 << 10
LONG_ENOUGH_S = 1.0

# How long one transfer may take: at 32 KiB that is 4 kbit/s.
TRANSFER_S = 60.0

# Differences of the two clocks. Certificates are valid from an hour before they are made, so
# minutes do no harm yet.
SKEW_NOTE_S = 30.0
SKEW_FAILS_S = 600.0


@dataclass(frozen=True)
class LinkMeasurement:
    """A link in seconds and bytes per second.

    ahead_s: by how much the coordinator's clock is ahead of this device's.
    """

    round_trip_s: float
    ahead_s: float
    up: float
    down: float


def link(coordinator: str, identity: Identity | None) -> list[Finding]:
    """Compare the clocks and measure the link, by the coordinator's own service.

    identity: None for a coordinator (HOST:PORT) without TLS.
    """
    options = channel_options(coordinator)
    if identity is None:
        channel = grpc.insecure_channel(coordinator, options)
    else:
        credentials = grpc.ssl_channel_credentials(
            identity.ca, identity.key, identity.certificate
        )
        channel = grpc.secure_channel(coordinator, credentials, options)
    with channel:
        try:
            measurement = ask(measure(channel))
        except grpc.RpcError as error:
            return [_not_measured(error)]
    return [
        skew(measurement.ahead_s, measurement.round_trip_s),
        _bandwidth(measurement),
    ]


def ask(
    call: Any,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
) -> LinkMeasurement:
    """Measure a link by calls of ``Link.Measure``.

    The fastest of four round trips tells of the clocks. Then each way is measured by one
    transfer after another, at a cost of at most `2 * LARGEST_BYTES`. clock: seconds that never
    go back; now: seconds since 1970. Raises grpc.RpcError.
    """
    trips = []
    for _ in range(_ROUND_TRIPS):
        began = clock()
        sent_at = now()
        echo = call(Probe(), timeout=ANSWER_S)
        trip_s = clock() - began
        # The coordinator read its clock in the middle of the round trip.
        ahead_s = echo.time_us / 1e6 - (sent_at + trip_s / 2)
        trips.append((trip_s, ahead_s))
    # The fastest trip knows the coordinator's clock best: to half of its time.
    round_trip_s, ahead_s = min(trips)
    # Random, so that nothing on the way can compress it.
    noise = os.urandom(LARGEST_BYTES)

    def send(size: int) -> None:
        probe = Probe(data=noise[:size])
        call(probe, timeout=TRANSFER_S)

    def receive(size: int) -> None:
        call(Probe(want=size), timeout=TRANSFER_S)

    up = _rate(send, round_trip_s, clock)
    down = _rate(receive, round_trip_s, clock)
    return LinkMeasurement(round_trip_s, ahead_s, up, down)


def _rate(
    transfer: Callable[[int], None], round_trip_s: float, clock: Callable[[], float]
) -> float:
    """Return the bytes per second of the last transfer, without the round trip.

    It is what one connection carries, the start of TCP included. On a link so fast that the
    round trip hides the transfer it is less than the link's.
    """
    size = SMALLEST_BYTES
    while True:
        began = clock()
        transfer(size)
        transfer_s = clock() - began
        if transfer_s >= LONG_ENOUGH_S or size >= LARGEST_BYTES:
            break
        size *= 2
    # Otherwise noise in the round trip could leave nothing, or less.
    if transfer_s > 2 * round_trip_s:
        transfer_s -= round_trip_s
    return size / transfer_s


def skew(ahead_s: float, round_trip_s: float) -> Finding:
    """Judge the difference of the clocks, which is known to half a round trip.

    ahead_s: of the coordinator's clock.
    """
    figures = {
        "coordinator_ahead_s": round(ahead_s, 3),
        "known_to_s": round(round_trip_s / 2, 3),
    }
    skew_s = abs(ahead_s)
    if skew_s <= SKEW_NOTE_S:
        text = f"within {skew_s:.1f} s of the coordinator's"
        return Finding("clock", WELL, text, figures=figures)
    word = "behind" if ahead_s > 0 else "ahead of"
    text = f"this device's clock is {span(skew_s)} {word} the coordinator's"
    state = FAILS if skew_s > SKEW_FAILS_S else NOTE
    fix = f"unless the coordinator's is wrong, {SET_CLOCK}"
    return Finding("clock", state, text, fix, figures)


def _bandwidth(measurement: LinkMeasurement) -> Finding:
    up = 8 * measurement.up / 1e6
    down = 8 * measurement.down / 1e6
    round_trip_ms = 1000 * measurement.round_trip_s
    text = (
        f"{_mbit(up)} up, {_mbit(down)} down (one connection), "
        f"{round_trip_ms:.1f} ms there and back"
    )
    figures = {
        "up_mbit_s": round(up, 3),
        "down_mbit_s": round(down, 3),
        "round_trip_ms": round(round_trip_ms, 2),
    }
    return Finding("link", WELL, text, figures=figures)


def _mbit(rate: float) -> str:
    if rate >= 10:
        return f"{rate:.0f} Mbit/s"
    return f"{rate:.2g} Mbit/s"


def _not_measured(error: Any) -> Finding:
    """Return the finding for gRPC's error."""
    code = error.code()
    details = (error.details() or "")[:200]
    # No failure: the exchange itself may work with that coordinator.
    if code is grpc.StatusCode.UNIMPLEMENTED:
        text = "not measured: an older coordinator, or its enrollment port"
        return Finding("link", SKIPPED, text)
    if code is grpc.StatusCode.PERMISSION_DENIED:
        text = f"the coordinator refuses this device: {details}"
        fix = "ask its owner for a new token, and enroll anew"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        text = "the coordinator is reached, but a small transfer does not end"
        fix = "the link is too slow or breaks off"
    else:
        text = f"{code.name.lower()}: {details}"
        fix = "see the coordinator's log"
    return Finding("link", FAILS, text, fix)
