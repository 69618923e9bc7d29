"""The coordinator's certificate authority: one folder with its keys, its certificates and what it has issued.

A client is who its certificate says: the URI ``fedlearn://client/7`` as the only subject alternative name (the form is
that of SPIFFE ids). Serial numbers grow by one per certificate, and a number is on disk before it is used. Several
processes may work on the folder at once: whoever changes it holds its lock.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import ipaddress
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedlearn.errors import FedlearnError, RecordError, UserError
from fedlearn.system.files import replace, sync_folder

CLIENT_DAYS = 90
SERVER_DAYS = 2 * 365
CA_DAYS = 10 * 365
EARLIER_S = (
    3600.0  # a certificate is valid from an hour ago: the clocks of two machines differ
)

LARGEST_CLIENT = 2**32 - 1  # ids travel as uint32
LARGEST_REQUEST_BYTES = 8192  # one for P-256 is 450 bytes long
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

_URI = re.compile(r"fedlearn://client/(0|[1-9][0-9]{0,9})")
_DNS = re.compile(
    r"(?=.{1,253}$)(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*"
)
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.UnsupportedGeneralNameType,
)


class IdentityError(FedlearnError):
    """A token, a request or a certificate is refused; ``reason`` is the word that refusals are counted under."""

    def __init__(self, reason: str, text: str) -> None:
        """Keep the reason: request, certificate, revoked, or unknown, used or expired of a token."""
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class ServerCredentials:
    """What the coordinator's TLS needs, PEM."""

    key: bytes = field(repr=False)
    certificate: bytes
    ca: bytes


def make(
    pki: Path, names: Iterable[str] = (), days: int = CLIENT_DAYS
) -> tuple[str, ...]:
    """Make the folder of a new authority, whole or not at all, and return the names of its server certificate.

    names: DNS names and IP addresses under which agents reach the coordinator; without any, this machine's host name.
    ``LOCAL_NAMES`` are always added. days: the validity of clients' certificates. Raises UserError for a folder that
    holds something, a name that is none or days out of range, RecordError when the folder cannot be written.
    """
    if not 1 <= days <= CA_DAYS:
        raise UserError(
            f"certificates valid for {days} days are out of range; give 1 to {CA_DAYS} days"
        )
    told = _names(names)
    pki = pki.resolve()
    if pki.exists() and (not pki.is_dir() or any(pki.iterdir())):
        held = (
            "holds an authority already, which its agents trust"
            if (pki / "ca.pem").exists()
            else "is no empty folder"
        )
        raise UserError(
            f"'{pki}' {held}; nothing was changed. Choose another with --pki"
        )

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedlearn CA")])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    built = (
        _builder(name, key.public_key(), 1, CA_DAYS)
        .issuer_name(name)
        .add_extension(usage, critical=True)
    )
    ca = built.add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    ).sign(key, hashes.SHA256())
    server_key = ec.generate_private_key(ec.SECP256R1())
    server = _server_certificate(ca, key, server_key.public_key(), 2, told)
    with _writing(pki):
        pki.parent.mkdir(parents=True, exist_ok=True)
        part = Path(
            tempfile.mkdtemp(prefix=f".{pki.name}.", dir=pki.parent)
        )  # only its owner may look inside
        try:
            write(part / "ca.key", _private(key))
            write(part / "server.key", _private(server_key))
            write(part / "ca.pem", _pem(ca))
            write(part / "server.pem", _pem(server))
            write_json(
                part / "issued.json", {"next": 3, "days": days, "certificates": {}}
            )
            write_json(part / "revoked.json", {})
            write_json(part / "tokens.json", {})
            os.replace(part, pki)
            sync_folder(pki.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return told


def renew_server(pki: Path, names: Iterable[str] = ()) -> tuple[str, ...]:
    """Issue the server's certificate anew for its key, and return its names: those given, else those that it has.

    Raises UserError for a folder that is no authority's or a name that is none, RecordError when it cannot be written.
    """
    with locked(pki):
        told = _names(names) if (names := tuple(names)) else server_names(pki)
        ca, key = _authority(pki)
        old = x509.load_pem_x509_certificate(_read(pki / "server.pem"))
        public = old.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise RecordError(
                f"'{pki / 'server.pem'}' is not what fedlearn writes; restore the folder from a copy"
            )
        write(
            pki / "server.pem",
            _pem(
                _server_certificate(ca, key, public, _next_serial(pki, None, 0), told)
            ),
        )
    return told


def server_names(pki: Path) -> tuple[str, ...]:
    """Return the DNS names and IP addresses of the server's certificate."""
    certificate = x509.load_pem_x509_certificate(_read(pki / "server.pem"))
    names = certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value
    return tuple(str(name.value) for name in names)


def server_credentials(pki: Path) -> ServerCredentials:
    """Return what the coordinator's TLS needs. Raises UserError when its certificate has expired, or for no authority."""
    found = ServerCredentials(
        key=_read(pki / "server.key"),
        certificate=_read(pki / "server.pem"),
        ca=_read(pki / "ca.pem"),
    )
    if expiry(found.certificate) <= time.time():
        raise UserError(
            f"the server's certificate in '{pki}' has expired; make a new one: fedlearn pki server --pki {pki}"
        )
    return found


def sign(pki: Path, client: int, request: bytes, days: int | None = None) -> bytes:
    """Return a certificate (PEM) for a client and the public key of its request (CSR, PEM).

    The request's own names are ignored: only ``client`` counts. days: None for those of the authority. Raises
    IdentityError for a request that is none, whose signature does not verify, or whose key is not on P-256.
    """
    with locked(pki):
        return issue(pki, client, request, days)


def issue(pki: Path, client: int, request: bytes, days: int | None = None) -> bytes:
    """Do what `sign` does, for a caller that holds the lock."""
    check_client(client)
    public = public_key_of(request)
    ca, key = _authority(pki)
    days = int(read_json(pki / "issued.json")["days"]) if days is None else days
    expires = min(
        int(time.time()) + days * 86400, int(ca.not_valid_after_utc.timestamp())
    )
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"fedlearn client {client}")]
    )
    names = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(f"fedlearn://client/{client}")]
    )
    serial = _next_serial(pki, client, expires)
    return _pem(
        _leaf(
            ca,
            key,
            _builder(subject, public, serial, days, ca),
            names,
            ExtendedKeyUsageOID.CLIENT_AUTH,
        )
    )


def public_key_of(request: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a certificate signing request (PEM); raises IdentityError for one that `sign` refuses."""
    if len(request) > LARGEST_REQUEST_BYTES:
        raise IdentityError(
            "request",
            f"the certificate request has {len(request)} bytes; the limit is {LARGEST_REQUEST_BYTES}",
        )
    try:
        found = x509.load_pem_x509_csr(request)
        public = found.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(
            public.curve, ec.SECP256R1
        ):
            raise IdentityError(
                "request", "the certificate request's key is not on the curve P-256"
            )
        if not found.is_signature_valid:
            raise IdentityError(
                "request", "the certificate request is not signed by its own key"
            )
    except _UNREADABLE as error:
        raise IdentityError(
            "request", f"not a certificate request that can be read ({error})"
        ) from None
    return public


def identity_of(certificate: bytes) -> tuple[int, int]:
    """Return client and serial number of a certificate (PEM) that TLS has verified against the authority.

    Raises IdentityError for a certificate that names anything but exactly one client.
    """
    try:
        found = x509.load_pem_x509_certificate(certificate)
        names = list(
            found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        )
        serial = found.serial_number
    except (*_UNREADABLE, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise IdentityError(
            "certificate", f"the certificate names no client ({error})"
        ) from None
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise IdentityError(
            "certificate", "the certificate's names are not exactly one URI"
        )
    match = _URI.fullmatch(names[0].value)
    if match is None or int(match[1]) > LARGEST_CLIENT:
        raise IdentityError(
            "certificate", f"the certificate's name {names[0].value!r} is no client's"
        )
    return int(match[1]), serial


def expiry(certificate: bytes) -> int:
    """Return when a certificate (PEM) of ours expires, in seconds since 1970."""
    return int(
        x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()
    )


def check_client(client: int) -> None:
    """Raise UserError for a number that is no client's id."""
    if not 0 <= client <= LARGEST_CLIENT:
        raise UserError(
            f"{client} is no client's id; ids are whole numbers from 0 to {LARGEST_CLIENT}"
        )


@contextlib.contextmanager
def locked(pki: Path) -> Iterator[None]:
    """Hold the authority's lock, waiting for it; a system's error inside becomes RecordError, no folder UserError."""
    if not (pki / "ca.pem").exists():
        raise UserError(
            f"there is no authority in '{pki}'; make one: fedlearn pki init --pki {pki}"
        )
    with (
        _writing(pki),
        open(
            os.open(pki / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb"
        ) as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_json(path: Path) -> dict[str, Any]:
    """Return one of the folder's lists; raises RecordError for one that is damaged, UserError for no authority."""
    try:
        found = json.loads(_read(path))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RecordError(f"'{path}' is damaged; restore the folder from a copy")
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace one of the folder's lists."""
    write(path, json.dumps(value).encode() + b"\n")


def write(path: Path, data: bytes) -> None:
    """Replace a file whole, and return when it is on disk. Certificates and lists may be read by anyone, others not."""
    mode = 0o644 if path.suffix == ".pem" else 0o600
    replace(path, data, mode)


def _next_serial(pki: Path, client: int | None, expires: int) -> int:
    """Take the next serial number: it is on disk before anything is signed with it. Forgets what has expired."""
    issued = read_json(pki / "issued.json")
    serial = int(issued["next"])
    issued["next"] = serial + 1
    now = time.time()
    kept = {
        number: entry
        for number, entry in issued["certificates"].items()
        if entry["expires"] > now
    }
    if client is not None:
        kept[str(serial)] = {"client": client, "expires": expires}
    issued["certificates"] = kept
    write_json(pki / "issued.json", issued)
    return serial


def _authority(pki: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        ca = x509.load_pem_x509_certificate(_read(pki / "ca.pem"))
        key = serialization.load_pem_private_key(_read(pki / "ca.key"), None)
    except _UNREADABLE as error:
        raise RecordError(
            f"the authority in '{pki}' is damaged ({error}); restore the folder from a copy"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RecordError(
            f"'{pki / 'ca.key'}' is not what fedlearn writes; restore the folder from a copy"
        )
    if ca.not_valid_after_utc.timestamp() <= time.time():
        raise UserError(
            f"the authority in '{pki}' has expired; make another with fedlearn pki init, and enroll the agents anew"
        )
    return ca, key


def _server_certificate(
    ca: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    public: ec.EllipticCurvePublicKey,
    serial: int,
    names: Iterable[str],
) -> x509.Certificate:
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "fedlearn coordinator")]
    )
    built = _builder(subject, public, serial, SERVER_DAYS, ca)
    return _leaf(
        ca,
        key,
        built,
        x509.SubjectAlternativeName([_general(n) for n in names]),
        ExtendedKeyUsageOID.SERVER_AUTH,
    )


def _leaf(
    ca: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    builder: x509.CertificateBuilder,
    names: x509.SubjectAlternativeName,
    purpose: x509.ObjectIdentifier,
) -> x509.Certificate:
    """Sign what is no authority itself, and for one purpose: a client's certificate cannot play the coordinator."""
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    )
    return (
        builder.issuer_name(ca.subject)
        .add_extension(names, critical=False)
        .add_extension(authority, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    serial: int,
    days: int,
    ca: x509.Certificate | None = None,
) -> x509.CertificateBuilder:
    """Begin a certificate that is valid for ``days``, but not longer than its authority."""
    now = time.time()
    end = _moment(now + days * 86400)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(_moment(now - EARLIER_S))
        .not_valid_after(end if ca is None else min(end, ca.not_valid_after_utc))
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(public), critical=False
        )
    )


def _usage(
    digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of a server certificate, each once; raises UserError for what is neither DNS name nor address."""
    told = [*names] or [name for name in [socket.gethostname()] if _DNS.fullmatch(name)]
    found = dict.fromkeys(str(_general(name).value) for name in [*told, *LOCAL_NAMES])
    return tuple(found)


def _general(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    if not _DNS.fullmatch(name):
        raise UserError(
            f"'{name}' is neither a DNS name nor an IP address (without port)"
        )
    return x509.DNSName(name)


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"there is no '{path}'; make an authority: fedlearn pki init --pki {path.parent}"
        ) from None
    except OSError as error:
        raise RecordError(f"cannot read '{path}': {error.strerror or error}") from error


@contextlib.contextmanager
def _writing(pki: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot write '{error.filename or pki}': {error.strerror or error}"
        ) from error
