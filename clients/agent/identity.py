"""An agent's identity: a key made on the device, its certificate, and the authority that both
sides trust.

The key and the certificate request are made by the command ``openssl``, so that an agent needs
no package for it. All of an identity is one file, ``identity.json``, replaced whole: a renewal
that is cut off at any moment leaves the old identity as it was.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from fedlearn.errors import RecordError, RunError, UserError
from fedlearn.exchange import CHANNEL, methods
from fedlearn.exchange.exchange_pb2 import EnrolRequest
from fedlearn.system.files import replace

TIMEOUT_S = 30.0
LONGEST_TOKEN = 16384
_CONFIG = b"[req]\ndistinguished_name = name\n[name]\n"  # openssl wants one, and a device's own may ask for anything
_MISSING = "the command 'openssl' is missing; install it: sudo apt-get install openssl"


@dataclass(frozen=True)
class Token:
    """A one-time token: which client it is for, its secret, and the authority's certificate
    (PEM).
    """

    client: int
    secret: str = field(repr=False)
    ca: bytes


@dataclass(frozen=True)
class Identity:
    """Who an agent is; PEM, and times in seconds since 1970. ``since`` is when it was stored,
    by the agent's clock.
    """

    client: int
    key: bytes = field(repr=False)
    certificate: bytes
    ca: bytes
    since: float
    not_after: float


def read_token(text: str) -> Token:
    """Return what a token says; raises UserError for text that is none, or a token of a newer
    version.
    """
    word = "".join(text.split())  # a terminal may have broken the line
    try:
        if len(word) > LONGEST_TOKEN:
            raise ValueError
        found = json.loads(
            base64.b64decode(
                word.encode("ascii") + b"=" * (-len(word) % 4),
                altchars=b"-_",
                validate=True,
            )
        )
        version = found["v"]
        if version == 1:
            token = Token(
                found["client"],
                found["secret"],
                _pem(base64.b64decode(found["ca"], validate=True)),
            )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            "not a token, or not all of it; a token is the one long word that 'fedlearn token --client ID' prints"
        ) from None
    if version != 1:
        raise UserError(
            f"the token has version {version}; this version of fedlearn reads version 1: upgrade fedlearn here"
        )
    if not _is_id(token.client) or not isinstance(token.secret, str):
        raise UserError(
            "the token is damaged; make a new one: fedlearn token --client ID"
        )
    return token


def make_key_and_csr(folder: Path) -> bytes:
    """Make a new P-256 key, which stays in ``key.pem`` until `store`, and return a certificate
    request for it (PEM).

    The identity in the folder, if there is one, goes on unchanged. Raises UserError when
    openssl is missing, RunError when it fails, RecordError when the folder cannot be written.
    """
    key = _openssl(
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-pkeyopt",
        "ec_param_enc:named_curve",
    )
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / "key.pem", key, 0o600)
    file = os.fspath(folder / "key.pem")
    return _openssl(
        "req",
        "-new",
        "-sha256",
        "-key",
        file,
        "-subj",
        "/CN=fedlearn",
        "-config",
        "/dev/stdin",
        given=_CONFIG,
    )


def store(
    folder: Path, client: int, certificate: bytes, ca: bytes, not_after: float
) -> Identity:
    """Keep a certificate for the key that `make_key_and_csr` made, and return the new identity.

    The old identity is replaced in one step, and only by a certificate that fits the key.
    Raises RunError for one that does not, RecordError when the folder cannot be written.
    """
    with _writing(folder):
        replace(folder / "certificate.pem", certificate, 0o600)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
                folder / "certificate.pem", folder / "key.pem"
            )
            made = Identity(
                client,
                (folder / "key.pem").read_bytes(),
                certificate,
                ca,
                time.time(),
                not_after,
            )
            texts = {
                "key": made.key.decode(),
                "certificate": certificate.decode(),
                "ca": ca.decode(),
            }
        except (ssl.SSLError, FileNotFoundError, UnicodeDecodeError):
            (folder / "certificate.pem").unlink()
            raise RunError(
                f"the coordinator's certificate does not fit the key in '{folder}'; the identity there stays as it was"
            ) from None
        content = {
            "v": 1,
            "client": client,
            "since": made.since,
            "not_after": not_after,
            **texts,
        }
        replace(folder / "identity.json", json.dumps(content).encode() + b"\n", 0o600)
        for name in ("key.pem", "certificate.pem"):  # now part of the identity
            (folder / name).unlink()
    return made


def read_identity(folder: Path) -> Identity | None:
    """Return the identity in an agent's folder, or None; raises RecordError for one that is
    damaged.
    """
    path = folder / "identity.json"
    try:
        found = json.loads(path.read_bytes())
        key, certificate, ca = (
            str(found[name]).encode() for name in ("key", "certificate", "ca")
        )
        made = Identity(
            found["client"],
            key,
            certificate,
            ca,
            float(found["since"]),
            float(found["not_after"]),
        )
        if not _is_id(made.client):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RecordError(f"cannot read '{path}': {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError):
        raise RecordError(
            f"'{path}' is damaged; remove it and enrol again with a new token"
        ) from None
    return made


def due(identity: Identity, now: float) -> bool:
    """Tell whether to renew: in the last third of the validity, and whenever the clock was
    wrong as it was stored.
    """
    validity = identity.not_after - identity.since
    return validity <= 0 or identity.not_after - now <= validity / 3


def enrol(
    coordinator: str, token: Token, folder: Path, timeout_s: float = TIMEOUT_S
) -> Identity:
    """Exchange a token for a certificate at the coordinator's enrolment port (HOST:PORT), and
    keep it in the folder.

    The coordinator must show a certificate of the token's authority before the secret leaves
    this machine. Raises UserError for a token or address that is refused, RunError when the
    coordinator cannot be reached or fails.
    """
    check_address(coordinator)
    held = read_identity(folder)
    if held is not None and held.client != token.client:
        raise UserError(
            f"'{folder}' belongs to client {held.client}, the token is for client {token.client}; choose another --state"
        )
    request = make_key_and_csr(folder)
    with grpc.secure_channel(
        coordinator, grpc.ssl_channel_credentials(token.ca), CHANNEL
    ) as channel:
        try:
            reply = methods.enrol(channel)(
                EnrolRequest(secret=token.secret, request=request), timeout=timeout_s
            )
        except grpc.RpcError as error:
            raise _told(coordinator, error) from None
    if reply.client != token.client:
        raise RunError(
            f"the coordinator took the token of client {token.client} for client {reply.client}; nothing was kept"
        )
    return store(folder, reply.client, reply.certificate, token.ca, reply.expires)


def check_address(address: str) -> None:
    """Raise UserError for text that is not HOST:PORT; an IPv6 address stands in brackets."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    right = (
        bare
        and (bare != host or ":" not in bare)
        and not set(bare) & set("/[]@ ")
        and bare.isprintable()
    )
    if not (
        colon
        and right
        and port.isascii()
        and port.isdigit()
        and 0 < int(port[:6]) <= 65535
    ):
        raise UserError(
            f"'{address}' is no address; write HOST:PORT, e.g. coordinator.example.org:8444 or [::1]:8444"
        )


def _told(coordinator: str, error: Any) -> UserError | RunError:
    """Return our error for gRPC's."""
    code, details = error.code(), error.details() or ""
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT):
        return UserError(f"{coordinator} refuses: {details}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return UserError(
            f"{coordinator} does not enrol agents; give the coordinator's enrolment port"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        reason = details.lower()
        if "hostname" in reason or "peer name" in reason:
            host = coordinator.rpartition(":")[0]
            return UserError(
                f"the coordinator's certificate is not for the name {host}; there: fedlearn pki server --name {host}"
            )
        if "handshake" in reason or "ssl" in reason or "certificate" in reason:
            today = time.strftime("%Y-%m-%d", time.gmtime())
            return UserError(
                f"{coordinator} could not prove that it is the coordinator of this token; check the address, the token and this "
                f"device's clock ({today}). The token was not sent ({details[:300]})"
            )
        return RunError(
            f"{coordinator} cannot be reached, or is not an enrolment port ({details[:300]})"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RunError(
            f"{coordinator} did not answer in time; if the next try says that the token was used, ask for a new one"
        )
    return RunError(f"{coordinator} failed: {details[:200]}")


def _openssl(*arguments: str, given: bytes = b"") -> bytes:
    try:
        done = subprocess.run(
            ["openssl", *arguments], input=given, capture_output=True, timeout=60
        )
    except FileNotFoundError:
        raise UserError(_MISSING) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"openssl {arguments[0]}: {error}") from None
    if done.returncode or not done.stdout.startswith(b"-----BEGIN "):
        raise RunError(
            f"openssl {arguments[0]} failed: {done.stderr.decode(errors='replace')[:300] or done.returncode}"
        )
    return done.stdout


def _pem(der: bytes) -> bytes:
    """Return a certificate as PEM; raises ValueError for bytes that are none."""
    pem = ssl.DER_cert_to_PEM_cert(der)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except ssl.SSLError as error:
        raise ValueError(str(error)) from None
    return pem.encode()


def _is_id(client: object) -> bool:
    return (
        isinstance(client, int) and not isinstance(client, bool) and 0 <= client < 2**32
    )


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot write '{error.filename or folder}': {error.strerror or error}"
        ) from error
