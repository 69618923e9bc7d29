"""An agent's identity: a key made on the device, its certificate, and the authority of both.

The key and the certificate request are made by the command ``openssl``, so an agent needs no
package for them. An identity is one file, ``identity.json``, replaced whole: a renewal that is
cut off at any moment leaves the old identity as it was.
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

from fedlearn.clients.agent.enrolling import exchanged
from fedlearn.errors import RecordError, RunError, UserError
from fedlearn.exchange.exchange_pb2 import EnrolRequest
from fedlearn.system.files import make_folder, replace

# How long the coordinator may take to answer an enrollment.
TIMEOUT_S = 30.0

# Characters: more are not read.
LONGEST_TOKEN = 16384

# The version of tokens that this file reads, and of the identity files that it writes.
_VERSION = 1

# openssl wants a configuration, and the device's identity may ask for anything.
_CONFIG = b"[req]\ndistinguished_name = name\n[name]\n"

_OPENSSL_TIMEOUT_S = 60.0

# The files of a certificate that is being stored, beside the identity.
_KEY = "key.pem"
_CERTIFICATE = "certificate.pem"
_IDENTITY = "identity.json"


@dataclass(frozen=True)
class Token:
    """A one-time token of a client."""

    client: int
    # Never printed.
    secret: str = field(repr=False)
    # The authority's certificate, PEM.
    ca: bytes


@dataclass(frozen=True)
class Identity:
    """Who an agent is."""

    client: int
    # PEM; the key is never printed.
    key: bytes = field(repr=False)
    certificate: bytes
    # Of the authority.
    ca: bytes
    # When it was stored, by the agent's clock, in seconds since 1970.
    since: float
    # When the certificate expires, in seconds since 1970.
    not_after: float


def read_token(text: str) -> Token:
    """Return what a token says; raises UserError for text that is none, and for a newer version."""
    try:
        values = _token_values(text)
        version = values["v"]
        # The version first: other fields of a newer token may mean something else.
        if version == _VERSION:
            ca = _pem(base64.b64decode(values["ca"], validate=True))
            token = Token(values["client"], values["secret"], ca)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            "not a token, or not all of it; a token is the one long word that "
            "'fedlearn token --client ID' prints"
        ) from None
    if version != _VERSION:
        raise UserError(
            f"the token has version {version}; this version of fedlearn reads "
            f"version {_VERSION}: upgrade fedlearn here"
        )
    if not _is_id(token.client) or not isinstance(token.secret, str):
        raise UserError(
            "the token is damaged; make a new one: fedlearn token --client ID"
        )
    return token


def _token_values(text: str) -> Any:
    """Return the JSON value in a token; raises ValueError for text that is none."""
    # A terminal may have broken the line.
    word = "".join(text.split())
    if len(word) > LONGEST_TOKEN:
        raise ValueError
    # Tokens carry no padding.
    padded = word.encode("ascii") + b"=" * (-len(word) % 4)
    return json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))


def make_key_and_csr(folder: Path) -> bytes:
    """Make a new P-256 key, and return a certificate request for it (PEM).

    The key stays in ``key.pem`` until `store`. The identity in the folder, if there is one,
    goes on unchanged. Raises UserError when openssl is missing, RunError when it fails,
    RecordError when the folder cannot be written.
    """
    # By name: OpenSSL refuses certificates that spell a curve's parameters out.
    curve = ("-pkeyopt", "ec_paramgen_curve:P-256")
    encoding = ("-pkeyopt", "ec_param_enc:named_curve")
    key = _openssl("genpkey", "-algorithm", "EC", *curve, *encoding)
    path = folder / _KEY
    with _writing(folder):
        make_folder(folder)
        replace(path, key)
    request = (
        "req",
        "-new",
        "-sha256",
        "-key",
        os.fspath(path),
        "-subj",
        "/CN=fedlearn",
    )
    return _openssl(*request, "-config", "/dev/stdin", stdin=_CONFIG)


def store(
    folder: Path, client: int, certificate: bytes, ca: bytes, not_after: float
) -> Identity:
    """Keep a certificate for the key that `make_key_and_csr` made, and return the new identity.

    The old identity is replaced in one step, and only by a certificate that fits the key.
    Raises RunError for one that does not, RecordError when the folder cannot be written.
    """
    with _writing(folder):
        replace(folder / _CERTIFICATE, certificate)
        # Loading the pair is the test that the certificate belongs to the key.
        try:
            identity = _identity(folder, client, ca, not_after)
            text = _text(identity)
        except (ssl.SSLError, FileNotFoundError, UnicodeDecodeError):
            (folder / _CERTIFICATE).unlink()
            raise RunError(
                "the coordinator's certificate does not fit the key in "
                f"'{folder}'; the identity there stays as it was"
            ) from None
        # Last: until this replacement the old identity is whole and in use.
        replace(folder / _IDENTITY, text)
        # Both are part of the identity now.
        (folder / _KEY).unlink()
        (folder / _CERTIFICATE).unlink()
    return identity


def _identity(folder: Path, client: int, ca: bytes, not_after: float) -> Identity:
    """Return the identity of the key and the certificate in a folder.

    Raises ssl.SSLError where the two do not fit, and OSError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(folder / _CERTIFICATE, folder / _KEY)
    key = (folder / _KEY).read_bytes()
    certificate = (folder / _CERTIFICATE).read_bytes()
    return Identity(client, key, certificate, ca, time.time(), not_after)


def _text(identity: Identity) -> bytes:
    """Return an identity as a line of JSON; raises UnicodeDecodeError for PEM that is no text."""
    values = {
        "v": _VERSION,
        "client": identity.client,
        "since": identity.since,
        "not_after": identity.not_after,
        "key": identity.key.decode(),
        "certificate": identity.certificate.decode(),
        "ca": identity.ca.decode(),
    }
    return json.dumps(values).encode() + b"\n"


def read_identity(folder: Path) -> Identity | None:
    """Return the identity in an agent's folder; None: there is none.

    Raises RecordError for one that is damaged, or cannot be read.
    """
    path = folder / _IDENTITY
    try:
        identity = _parsed(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RecordError(f"cannot read '{path}': {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError):
        raise RecordError(
            f"'{path}' is damaged; remove it and enroll again with a new token"
        ) from None
    return identity


def _parsed(text: bytes) -> Identity:
    """Return the identity of a line of JSON.

    Raises ValueError, KeyError or TypeError for a damaged one.
    """
    values = json.loads(text)
    identity = Identity(
        values["client"],
        str(values["key"]).encode(),
        str(values["certificate"]).encode(),
        str(values["ca"]).encode(),
        float(values["since"]),
        float(values["not_after"]),
    )
    if not _is_id(identity.client):
        raise ValueError
    return identity


def due(identity: Identity, now: float) -> bool:
    """Tell whether to renew: in the last third of the validity.

    Renew at once where the clock was wrong when the identity was stored: its validity then
    ended before it began.
    """
    validity_s = identity.not_after - identity.since
    left_s = identity.not_after - now
    return validity_s <= 0 or left_s <= validity_s / 3


def enroll(
    coordinator: str, token: Token, folder: Path, timeout_s: float = TIMEOUT_S
) -> Identity:
    """Exchange a token for a certificate at the coordinator's enrollment port, and keep it.

    coordinator: HOST:PORT. The coordinator must show a certificate of the token's authority
    before the secret leaves this machine. Raises UserError for a token or address that is
    refused, RunError when the coordinator cannot be reached or fails, RecordError when the
    folder cannot be read or written.
    """
    check_address(coordinator)
    # Before the token is spent, as it works only once.
    present = read_identity(folder)
    if present is not None and present.client != token.client:
        raise UserError(
            f"'{folder}' belongs to client {present.client}, the token is for client "
            f"{token.client}; choose another --state"
        )
    csr = make_key_and_csr(folder)
    request = EnrolRequest(secret=token.secret, request=csr)
    reply = exchanged(coordinator, token.ca, request, timeout_s)
    # A certificate for another client would let this device speak in its name.
    if reply.client != token.client:
        raise RunError(
            f"the coordinator took the token of client {token.client} "
            f"for client {reply.client}; nothing was kept"
        )
    return store(folder, reply.client, reply.certificate, token.ca, reply.expires)


def check_address(address: str) -> None:
    """Raise UserError for text that is not HOST:PORT; an IPv6 address stands in brackets."""
    host, colon, port = address.rpartition(":")
    if not (colon and _is_host(host) and _is_port(port)):
        raise UserError(
            f"'{address}' is no address; write HOST:PORT, e.g. "
            "coordinator.example.org:8444 or [::1]:8444"
        )


def _is_host(host: str) -> bool:
    """Tell whether text can be a name, an IPv4 address, or an IPv6 address in brackets."""
    is_bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if is_bracketed else host
    if not bare or (":" in bare and not is_bracketed):
        return False
    return bare.isprintable() and not set(bare) & set("/[]@ ")


def _is_port(port: str) -> bool:
    # More digits than six are never a port, and int() takes long for millions of them.
    if not port.isascii() or not port.isdigit():
        return False
    return 0 < int(port[:6]) <= 65535


def _openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    """Return the PEM that an openssl command prints; raises UserError or RunError."""
    command = ["openssl", *arguments]
    try:
        process = subprocess.run(
            command, input=stdin, capture_output=True, timeout=_OPENSSL_TIMEOUT_S
        )
    except FileNotFoundError:
        raise UserError(
            "the command 'openssl' is missing; install it: sudo apt-get install openssl"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"openssl {arguments[0]}: {error}") from None
    # An exit code of 0 is not enough: the output goes into the identity.
    if process.returncode or not process.stdout.startswith(b"-----BEGIN "):
        errors = process.stderr.decode(errors="replace")[:300]
        raise RunError(f"openssl {arguments[0]} failed: {errors or process.returncode}")
    return process.stdout


def _pem(der: bytes) -> bytes:
    """Return a certificate as PEM; raises ValueError for bytes that are none."""
    pem = ssl.DER_cert_to_PEM_cert(der)
    try:
        # ssl has no parser of certificates; loading one as an authority is the check.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except ssl.SSLError as error:
        raise ValueError(str(error)) from None
    return pem.encode()


def _is_id(client: object) -> bool:
    # A bool is an int in Python, and JSON's true would be client 1.
    if not isinstance(client, int) or isinstance(client, bool):
        return False
    return 0 <= client < 2**32


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raise RecordError for an OSError inside."""
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot write '{error.filename or folder}': {error.strerror or error}"
        ) from error
