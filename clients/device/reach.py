"""What `fedlearn doctor` looks at on the way to the coordinator: name, port, TLS, and the link.

gRPC says of most failures only that a handshake failed. Here each step is made by itself, so
that the reason has a name.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

from fedlearn.clients.agent.identity import Identity
from fedlearn.clients.device.findings import (
    FAILS,
    NOTE,
    SET_CLOCK,
    WELL,
    Finding,
    day,
    moment,
    span,
)
from fedlearn.clients.device.link import link
from fedlearn.exchange.addresses import host_of, joined, proxy

# How long each step may take before it counts as no answer.
CONNECT_S = 10.0

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME: verify all of a certificate but its dates
# (openssl/x509_vfy.h).
NO_CHECK_TIME = 0x200000

# OpenSSL's verification errors (openssl/x509_vfy.h); a name is that of a host, or an address.
NOT_YET_VALID = 9
EXPIRED = 10
WRONG_NAME = (62, 64)

# An HTTP/2 frame begins with three bytes of length, type and flags; a server's first one is
# SETTINGS (RFC 9113, 3.4 and 6.5).
FRAME_HEAD_BYTES = 9
SETTINGS_FRAME = b"\x04\x00"

# How OpenSSL says that the other side does not speak TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER")


def reach(
    coordinator: str, identity: Identity | None, insecure: bool = False
) -> list[Finding]:
    """Go to a coordinator (HOST:PORT) step by step, until a step fails.

    identity: None before enrollment.
    """
    host = host_of(coordinator)
    port = int(coordinator.rpartition(":")[2])
    findings = [*_proxy(coordinator, host), _name(host, port)]
    # Each step needs the one before: no port without a name, no TLS without a port.
    if findings[-1].state == WELL:
        findings.append(_port(host, port))
    if findings[-1].state != WELL:
        return findings
    if insecure:
        return findings + link(coordinator, None)
    findings += _tls(host, port, identity)
    if identity is None or any(finding.state == FAILS for finding in findings):
        return findings
    return findings + link(coordinator, identity)


def _proxy(coordinator: str, host: str) -> list[Finding]:
    """Return a note where the agent goes through a proxy; the steps here do not."""
    name = proxy(coordinator)
    if name is None:
        return []
    text = f"the agent reaches {host} through {name}; what follows is without it"
    fix = f"if the coordinator is reached directly: no_proxy={host}"
    return [Finding("proxy", NOTE, text, fix)]


def _name(host: str, port: int) -> Finding:
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        text = f"{host} is not found: {getattr(error, 'strerror', None) or error}"
        fix = (
            "check the name, and this device's network and DNS: resolvectl status; "
            "or give the coordinator's address as numbers"
        )
        return Finding("name", FAILS, text, fix)
    # getaddrinfo gives an address once for each protocol.
    addresses = sorted({str(entry[4][0]) for entry in entries})
    text = host
    if addresses != [host]:
        text = f"{host} is {', '.join(addresses)}"
    return Finding("name", WELL, text, figures={"addresses": addresses})


def _port(host: str, port: int) -> Finding:
    place = joined(host, port)
    began = time.monotonic()
    try:
        # Opened and closed at once: TLS comes on a connection of its own.
        socket.create_connection((host, port), CONNECT_S).close()
    except ConnectionRefusedError:
        text = f"{place} refuses: nothing listens there"
        fix = "is 'fedlearn serve' running there, with this --port and --host 0.0.0.0?"
        return Finding("port", FAILS, text, fix)
    except TimeoutError:
        text = f"{place} does not answer within {CONNECT_S:g} s"
        fix = (
            "a firewall on the way may drop it: the coordinator's port must be open "
            "to this device, and only outward from here"
        )
        return Finding("port", FAILS, text, fix)
    except OSError as error:
        text = f"{place}: {error.strerror or error}"
        return Finding("port", FAILS, text, "is this device online? See: ip route")
    connect_ms = 1000 * (time.monotonic() - began)
    text = f"{place} answers in {connect_ms:.0f} ms"
    return Finding("port", WELL, text, figures={"connect_ms": round(connect_ms, 1)})


def _tls(host: str, port: int, identity: Identity | None) -> list[Finding]:
    """Shake hands as the agent does, and name what fails."""
    place = joined(host, port)
    try:
        with _connection(host, port, identity) as connection:
            refusal = _refusal(connection, place, identity is not None)
            if refusal is not None:
                return [refusal]
            version = connection.version()
    except ssl.SSLCertVerificationError as error:
        return [_unverified(host, port, identity, error)]
    except ssl.SSLError as error:
        return [_handshake_failed(place, error)]
    except (ConnectionError, TimeoutError) as error:
        text = f"{place} ends the handshake: {error.strerror or 'no answer'}"
        fix = "is this the coordinator's port? Something on the way may also forbid TLS"
        return [_fails_tls(text, fix)]
    if identity is None:
        text = (
            f"{place} speaks {version}; "
            "whether it is the coordinator is not checked before enrollment"
        )
        return [Finding("tls", NOTE, text, "enroll this device (see certificate)")]
    text = (
        f"{version}; the coordinator has proved who it is, "
        "and takes this device's certificate"
    )
    return [Finding("tls", WELL, text)]


@contextlib.contextmanager
def _connection(
    host: str, port: int, identity: Identity | None, flags: int = 0
) -> Iterator[ssl.SSLSocket]:
    """Give a TLS connection; without an identity nothing is verified.

    flags: of OpenSSL, how to verify. Raises OSError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # gRPC speaks HTTP/2 alone, and refuses a client that does not offer it.
    context.set_alpn_protocols(["h2"])
    if identity is None:
        # Before enrollment no authority is known that could be verified against.
        # In this order: Python refuses CERT_NONE while names are checked.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
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
    """Have a connection show the device's certificate.

    Python's ssl takes only files, and a key is not to lie in another one: it goes by memory.
    """
    descriptor = os.memfd_create("identity")
    try:
        os.write(descriptor, identity.certificate + identity.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _refusal(
    connection: ssl.SSLSocket, place: str, has_identity: bool
) -> Finding | None:
    """Return what is wrong with the other side of a TLS connection; None: nothing.

    A server looks at this device's certificate before it says anything, so its first frame
    proves that it takes the certificate.
    """
    if connection.selected_alpn_protocol() != "h2":
        text = f"{place} speaks TLS, but is no coordinator"
        return _fails_tls(text, "check host and port")
    if not has_identity:
        return None
    try:
        # TLS 1.3: the handshake is over here before the server has seen our
        # certificate.
        head = connection.recv(FRAME_HEAD_BYTES)
    except ConnectionError:
        head = b""
    # gRPC ends a handshake that it does not like without a word.
    if not head:
        return _not_taken(
            f"{place} ended the connection when it saw this device's certificate"
        )
    if head[3:5] != SETTINGS_FRAME:
        return _fails_tls(f"{place} is no coordinator", "check host and port")
    return None


def _unverified(
    host: str, port: int, identity: Identity | None, error: ssl.SSLCertVerificationError
) -> Finding:
    """Return what is wrong with the coordinator's certificate, as this device sees it."""
    place = joined(host, port)
    code = error.verify_code
    if code in WRONG_NAME:
        text = f"the coordinator's certificate is not for {host}"
        fix = f"on the coordinator: fedlearn pki server --name {host}"
        return _fails_tls(text, fix)
    if code not in (NOT_YET_VALID, EXPIRED):
        text = (
            f"{place} does not have a certificate of the authority that this device "
            f"trusts ({error.verify_message})"
        )
        fix = (
            "check the address; if the coordinator has a new authority, "
            "enroll anew with a new token"
        )
        return _fails_tls(text, fix)
    # Once more without the dates: only a verified certificate gives its dates.
    try:
        with _connection(host, port, identity, NO_CHECK_TIME) as connection:
            certificate: Any = connection.getpeercert()
    except OSError:
        certificate = None
    if not certificate:
        return _fails_tls(f"{place}: {error.verify_message}", SET_CLOCK)
    begin = ssl.cert_time_to_seconds(certificate["notBefore"])
    end = ssl.cert_time_to_seconds(certificate["notAfter"])
    return _outside(begin, end) or _fails_tls(
        f"{place}: {error.verify_message}: the authority itself has ended",
        "make a new authority, and enroll anew",
    )


def _outside(begin: float, end: float) -> Finding | None:
    """Return what is wrong with a clock outside of a certificate's validity; None: it is inside.

    begin, end: of the validity, seconds since 1970.
    """
    now = time.time()
    if now < begin:
        text = (
            f"this device's clock says {moment(now)}, before the coordinator's "
            f"certificate began ({moment(begin)}): "
            f"it is behind by {span(begin - now)} or more"
        )
        figures = {"behind_s": round(begin - now)}
        return Finding("clock", FAILS, text, SET_CLOCK, figures)
    if now > end:
        text = (
            f"the coordinator's certificate ended on {day(end)}, "
            f"and this device's clock says {day(now)}"
        )
        fix = (
            f"if {day(now)} is right, on the coordinator: fedlearn pki server; "
            f"if it is not, {SET_CLOCK}"
        )
        return Finding("clock", FAILS, text, fix)
    return None


def _handshake_failed(place: str, error: ssl.SSLError) -> Finding:
    """Return the finding for a handshake that failed.

    The coordinator may have ended it when it saw this device's certificate.
    """
    # OpenSSL's reasons are names such as TLSV1_ALERT_UNKNOWN_CA.
    reason = (error.reason or str(error)).upper()
    words = reason.lower().replace("_", " ")
    if any(name in reason for name in _NO_TLS):
        fix = (
            "check the port; a coordinator with --insecure needs agents with --insecure"
        )
        return _fails_tls(f"{place} speaks no TLS", fix)
    if "ALERT" in reason:
        return _not_taken(
            f"the coordinator does not take this device's certificate ({words})"
        )
    fix = "check host and port, and what lies between (a proxy that opens TLS?)"
    return _fails_tls(f"{place}: {words}", fix)


def _not_taken(text: str) -> Finding:
    fix = (
        "was it enrolled at another coordinator, has that one a new authority, "
        "or is its clock wrong? Enroll anew with a new token"
    )
    return _fails_tls(text, fix)


def _fails_tls(text: str, fix: str) -> Finding:
    return Finding("tls", FAILS, text, fix)
