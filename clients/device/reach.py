"""What `fedlearn doctor` looks at on the way to the coordinator: name, port, TLS, clocks, and how fast the link is.

gRPC says of most failures only that a handshake failed; here each step is made by itself, so that the reason has a name.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from fedlearn.clients.agent.identity import Identity
from fedlearn.clients.device.checks import (
    FAILS,
    NOTE,
    SET_CLOCK,
    SKIPPED,
    WELL,
    Finding,
    day,
    days,
    moment,
)
from fedlearn.exchange import CHANNEL
from fedlearn.exchange.link import LARGEST_BYTES, measure
from fedlearn.exchange.link_pb2 import Probe

CONNECT_S = 10.0
"""How long each step may take before it counts as no answer."""

SMALLEST_BYTES = 32 << 10
LONG_ENOUGH_S = 1.0
"""A transfer that takes this long is measured well; until one does, or `LARGEST_BYTES` are reached, the next is twice as large."""

CALL_S = 60.0
"""How long one transfer may take: at 32 KiB that is 4 kbit/s."""

SKEW_NOTE_S, SKEW_FAILS_S = 30.0, 600.0
"""Of the two clocks. Certificates are valid from an hour before they are made, so that minutes do no harm yet."""

NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME: verify all of a certificate but its dates (openssl/x509_vfy.h)."""

NOT_YET_VALID, EXPIRED = 9, 10
WRONG_NAME = (62, 64)  # of a host, of an address
"""OpenSSL's verification errors (openssl/x509_vfy.h)."""

SETTINGS_FRAME = b"\x04\x00"
"""Type and flags of the first frame that an HTTP/2 server sends, after three bytes of length (RFC 9113, 3.4 and 6.5)."""


@dataclass(frozen=True)
class Measured:
    """Seconds and bytes per second; ``ahead_s``: by how much the coordinator's clock is ahead of this device's."""

    round_trip_s: float
    ahead_s: float
    up: float
    down: float


def reach(
    coordinator: str, identity: Identity | None, insecure: bool = False
) -> list[Finding]:
    """Go to a coordinator (HOST:PORT) step by step, as far as it goes. identity: None before enrollment."""
    host, _, port = coordinator.rpartition(":")
    host = host.strip("[]")
    found = [_name(host, int(port))]
    if found[-1].state == WELL:
        found.append(_port(host, int(port)))
    if found[-1].state != WELL:
        return found
    if not insecure:
        found += _tls(host, int(port), identity)
        if identity is None or any(one.state == FAILS for one in found):
            return found
    return found + _link(coordinator, None if insecure else identity)


def _name(host: str, port: int) -> Finding:
    try:
        addresses = sorted(
            {
                str(entry[4][0])
                for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            }
        )
    except (OSError, UnicodeError) as error:
        fix = "check the name, and this device's network and DNS: resolvectl status; or give the coordinator's address as numbers"
        return Finding(
            "name",
            FAILS,
            f"{host} is not found: {getattr(error, 'strerror', None) or error}",
            fix,
        )
    return Finding(
        "name",
        WELL,
        f"{host} is {', '.join(addresses)}" if addresses != [host] else host,
        figures={"addresses": addresses},
    )


def _port(host: str, port: int) -> Finding:
    place = f"{host}:{port}"
    began = time.monotonic()
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except ConnectionRefusedError:
        return Finding(
            "port",
            FAILS,
            f"{place} refuses: nothing listens there",
            "is 'fedlearn serve' running there, with this --port and --host 0.0.0.0?",
        )
    except TimeoutError:
        fix = "a firewall on the way may drop it: the coordinator's port must be open to this device, and only outward from here"
        return Finding(
            "port", FAILS, f"{place} does not answer within {CONNECT_S:g} s", fix
        )
    except OSError as error:
        return Finding(
            "port",
            FAILS,
            f"{place}: {error.strerror or error}",
            "is this device online? See: ip route",
        )
    took_ms = 1000 * (time.monotonic() - began)
    return Finding(
        "port",
        WELL,
        f"{place} answers in {took_ms:.0f} ms",
        figures={"connect_ms": round(took_ms, 1)},
    )


def _tls(host: str, port: int, identity: Identity | None) -> list[Finding]:
    """Shake hands as the agent does, and name what fails."""
    place = f"{host}:{port}"
    try:
        with _shaken(host, port, identity) as connection:
            if connection.selected_alpn_protocol() != "h2":
                return [
                    _fails_tls(
                        f"{place} speaks TLS, but is no coordinator",
                        "check host and port",
                    )
                ]
            if identity is not None and (refusal := _first_word(connection, place)):
                return [refusal]
            version = connection.version()
    except ssl.SSLCertVerificationError as error:
        return _unverified(host, port, identity, error)
    except ssl.SSLError as error:
        return [_refused(place, error)]
    except (ConnectionError, TimeoutError) as error:
        text = f"{place} ends the handshake: {error.strerror or 'no answer'}"
        return [
            _fails_tls(
                text,
                "is this the coordinator's port? Something on the way may also forbid TLS",
            )
        ]
    if identity is None:
        text = f"{place} speaks {version}; whether it is the coordinator is not checked before enrollment"
        return [Finding("tls", NOTE, text, "enroll this device (see certificate)")]
    return [
        Finding(
            "tls",
            WELL,
            f"{version}; the coordinator has proved who it is, and takes this device's certificate",
        )
    ]


@contextlib.contextmanager
def _shaken(
    host: str, port: int, identity: Identity | None, flags: int = 0
) -> Iterator[ssl.SSLSocket]:
    """Give a TLS connection; without an identity nothing is verified. flags: how to verify. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if identity is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=identity.ca.decode())
        context.verify_flags |= flags
        _show(context, identity)
    with (
        socket.create_connection((host, port), CONNECT_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        yield connection


def _show(context: ssl.SSLContext, identity: Identity) -> None:
    """Have a connection show the device's certificate; the key goes by memory, for the module takes only files."""
    descriptor = os.memfd_create("identity")
    try:
        os.write(descriptor, identity.certificate + identity.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _unverified(
    host: str, port: int, identity: Identity | None, error: ssl.SSLCertVerificationError
) -> list[Finding]:
    """Return what is wrong with the coordinator's certificate, as this device sees it."""
    place, code = f"{host}:{port}", error.verify_code
    if code in WRONG_NAME:
        return [
            _fails_tls(
                f"the coordinator's certificate is not for {host}",
                f"on the coordinator: fedlearn pki server --name {host}",
            )
        ]
    if code not in (NOT_YET_VALID, EXPIRED):
        text = f"{place} does not have a certificate of the authority that this device trusts ({error.verify_message})"
        return [
            _fails_tls(
                text,
                "check the address; if the coordinator has a new authority, enroll anew with a new token",
            )
        ]
    try:
        with _shaken(host, port, identity, NO_CHECK_TIME) as connection:
            dates: Any = connection.getpeercert()
    except OSError:
        dates = None
    if not dates:
        return [_fails_tls(f"{place}: {error.verify_message}", SET_CLOCK)]
    now = time.time()
    begins, ends = (
        ssl.cert_time_to_seconds(dates[name]) for name in ("notBefore", "notAfter")
    )
    if now < begins:
        behind = f"it is behind by {days(begins - now)} or more"
        text = f"this device's clock says {moment(now)}, before the coordinator's certificate began ({moment(begins)}): {behind}"
        return [
            Finding("clock", FAILS, text, SET_CLOCK, {"behind_s": round(begins - now)})
        ]
    if now > ends:
        text = f"the coordinator's certificate ended on {day(ends)}, and this device's clock says {day(now)}"
        return [
            Finding(
                "clock",
                FAILS,
                text,
                f"if {day(now)} is right, on the coordinator: fedlearn pki server; if it is not, {SET_CLOCK}",
            )
        ]
    return [
        _fails_tls(
            f"{place}: {error.verify_message}: the authority itself has ended",
            "make a new authority, and enroll anew",
        )
    ]


def _refused(place: str, error: ssl.SSLError) -> Finding:
    """Return the finding for a handshake that failed, or that the coordinator ended when it saw this device's certificate."""
    reason = (error.reason or str(error)).upper()
    if (
        "WRONG_VERSION_NUMBER" in reason
        or "HTTP_REQUEST" in reason
        or "RECORD_LAYER" in reason
    ):
        return _fails_tls(
            f"{place} speaks no TLS",
            "check the port; a coordinator with --insecure needs agents with --insecure",
        )
    if "ALERT" in reason:
        return _not_taken(
            f"the coordinator does not take this device's certificate ({reason.lower().replace('_', ' ')})"
        )
    return _fails_tls(
        f"{place}: {reason.lower().replace('_', ' ')}",
        "check host and port, and what lies between (a proxy that opens TLS?)",
    )


def _first_word(connection: ssl.SSLSocket, place: str) -> Finding | None:
    """Return what is wrong with the first that the other side says: by then it has looked at this device's certificate."""
    try:
        first = connection.recv(9)
    except ConnectionError:
        first = b""
    if not first:  # gRPC ends a handshake that it does not like without a word
        return _not_taken(
            f"{place} ended the connection when it saw this device's certificate"
        )
    return (
        None
        if first[3:5] == SETTINGS_FRAME
        else _fails_tls(f"{place} is no coordinator", "check host and port")
    )


def _not_taken(text: str) -> Finding:
    fix = "was it enrolled at another coordinator, has that one a new authority, or is its clock wrong? Enroll anew with a new token"
    return _fails_tls(text, fix)


def _fails_tls(text: str, fix: str) -> Finding:
    return Finding("tls", FAILS, text, fix)


def _link(coordinator: str, identity: Identity | None) -> list[Finding]:
    """Compare the clocks and measure the link, by the coordinator's own service."""
    if identity is None:
        channel = grpc.insecure_channel(coordinator, CHANNEL)
    else:
        channel = grpc.secure_channel(
            coordinator,
            grpc.ssl_channel_credentials(
                identity.ca, identity.key, identity.certificate
            ),
            CHANNEL,
        )
    with channel:
        try:
            measured = ask(measure(channel))
        except grpc.RpcError as error:
            return [_not_measured(error)]
    return [skew(measured.ahead_s, measured.round_trip_s), _bandwidth(measured)]


def ask(
    call: Any,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
) -> Measured:
    """Measure by calls of ``Link.Measure``: the clock by the fastest of four, then each way by one transfer after another.

    The rate is that of the last transfer, without the round trip: what one connection carries, the start of TCP included; on a
    link so fast that the round trip hides the transfer it is less than the link's. Each way costs at most
    `2 * LARGEST_BYTES`. Raises grpc.RpcError.
    """
    trips = []
    for _ in range(4):  # the first also opens the connection
        began, here = clock(), now()
        echo = call(Probe(), timeout=CONNECT_S)
        took = clock() - began
        trips.append((took, echo.time_us / 1e6 - (here + took / 2)))
    round_trip_s, ahead_s = min(trips)

    def rate(up: bool) -> float:
        size = SMALLEST_BYTES
        noise = os.urandom(LARGEST_BYTES)
        while True:
            began = clock()
            call(Probe(data=noise[:size]) if up else Probe(want=size), timeout=CALL_S)
            took = clock() - began
            if took >= LONG_ENOUGH_S or size >= LARGEST_BYTES:
                return size / (took - round_trip_s if took > 2 * round_trip_s else took)
            size *= 2

    return Measured(round_trip_s, ahead_s, rate(True), rate(False))


def skew(ahead_s: float, round_trip_s: float) -> Finding:
    """Judge the difference of the clocks; ahead_s: of the coordinator's. It is known to half a round trip."""
    figures = {
        "coordinator_ahead_s": round(ahead_s, 3),
        "known_to_s": round(round_trip_s / 2, 3),
    }
    size = abs(ahead_s)
    if size <= SKEW_NOTE_S:
        return Finding(
            "clock", WELL, f"within {size:.1f} s of the coordinator's", figures=figures
        )
    word = "behind" if ahead_s > 0 else "ahead of"
    text = f"this device's clock is {days(size)} {word} the coordinator's"
    return Finding(
        "clock",
        FAILS if size > SKEW_FAILS_S else NOTE,
        text,
        f"unless the coordinator's is wrong, {SET_CLOCK}",
        figures,
    )


def _bandwidth(measured: Measured) -> Finding:
    up, down = 8 * measured.up / 1e6, 8 * measured.down / 1e6
    text = f"{_mbit(up)} up, {_mbit(down)} down (one connection), {1000 * measured.round_trip_s:.1f} ms there and back"
    figures = {
        "up_mbit_s": round(up, 3),
        "down_mbit_s": round(down, 3),
        "round_trip_ms": round(1000 * measured.round_trip_s, 2),
    }
    return Finding("link", WELL, text, figures=figures)


def _mbit(rate: float) -> str:
    return f"{rate:.0f} Mbit/s" if rate >= 10 else f"{rate:.2g} Mbit/s"


def _not_measured(error: Any) -> Finding:
    code, details = error.code(), (error.details() or "")[:200]
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Finding(
            "link",
            SKIPPED,
            "not measured: an older coordinator, or its enrollment port",
        )
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return Finding(
            "link",
            FAILS,
            f"the coordinator refuses this device: {details}",
            "ask its owner for a new token, and enroll anew",
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Finding(
            "link",
            FAILS,
            "the coordinator is reached, but a small transfer does not end",
            "the link is too slow or breaks off",
        )
    return Finding(
        "link", FAILS, f"{code.name.lower()}: {details}", "see the coordinator's log"
    )
