"""The coordinator's certificate authority: who is who, and what was issued.

One folder has its keys, its certificates and the list of what it has issued
(`fedlearn.server.issued`).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedlearn.errors import FedlearnError, RecordError, UserError
from fedlearn.server import authority, issued
from fedlearn.server.certificates import (
    CA_DAYS,
    CLIENT_URI,
    DAY_S,
    Authority,
    new_key,
    pem,
    private_pem,
)
from fedlearn.system.files import give_folder, sync_folder

CLIENT_DAYS = 90

# Ids travel as uint32.
LARGEST_CLIENT = 2**32 - 1

# A certificate request for P-256 is 450 bytes long.
LARGEST_REQUEST_BYTES = 8192

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

_URI = re.compile(rf"{CLIENT_URI}(0|[1-9][0-9]{{0,9}})")
# Labels of at most 63 characters, 253 in all (RFC 1035), or a wildcard in front.
_DNS = re.compile(
    r"(?=.{1,253}$)(\*\.)?"
    r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*"
)

# What the package cryptography raises for bytes that it cannot read.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.UnsupportedGeneralNameType,
)


class IdentityError(FedlearnError):
    """A token, a request or a certificate is refused.

    ``reason`` is the word that refusals are counted under.
    """

    def __init__(self, reason: str, text: str) -> None:
        """Keep the reason: request, certificate, revoked, unknown, used or expired.

        Unknown and used are a token's.
        """
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
    """Make the folder of a new authority, whole or not at all.

    Returns the names of its server certificate. names: DNS names and IP addresses under
    which agents reach the coordinator; without any, this machine's host name. LOCAL_NAMES
    are always added. days: the validity of clients' certificates.

    Raises UserError for a folder that holds something, a name that is none or days out of
    range, RecordError when the folder cannot be written.
    """
    if not 1 <= days <= CA_DAYS:
        raise UserError(
            f"certificates valid for {days} days are out of range; "
            f"give 1 to {CA_DAYS} days"
        )
    server_names = _all_names(names)
    # Resolved: a folder beside the link may lie on another disk.
    pki = pki.resolve()
    _check_empty(pki)
    now = time.time()
    ca = Authority.new(now)
    server_key = new_key()
    certificate = ca.server_certificate(
        server_key.public_key(), 2, map(_general_name, server_names), now
    )
    # Serial numbers 1 and 2 are taken: by the authority, and by its server.
    listed = {"next": 3, "days": days, "certificates": {}, "changed": int(now)}
    with authority.writing(pki):
        pki.parent.mkdir(parents=True, exist_ok=True)
        # Only its owner may look inside, and it is renamed when it is whole.
        part = Path(tempfile.mkdtemp(prefix=f".{pki.name}.", dir=pki.parent))
        try:
            # First: what is written into it follows.
            give_folder(part)
            authority.write(part / "ca.key", private_pem(ca.key))
            authority.write(part / "server.key", private_pem(server_key))
            authority.write(part / "ca.pem", pem(ca.certificate))
            authority.write(part / "server.pem", pem(certificate))
            authority.write_json(issued.file_of(part), listed)
            authority.write_json(part / "revoked.json", {})
            authority.write_json(part / "tokens.json", {})
            # On one file system: the folder appears whole, or not at all.
            os.replace(part, pki)
            sync_folder(pki.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return server_names


def renew_server(
    pki: Path, names: Iterable[str] = (), new_key_too: bool = False
) -> tuple[str, ...]:
    """Issue the server's certificate anew, and return its names.

    names: as in `make`; without any, those that it has. new_key_too: for a new key, where the
    present one may be known to others. Raises UserError for a folder that is no authority's or
    a name that is none, RecordError when it cannot be written.
    """
    new_names = tuple(names)
    with authority.locked(pki):
        new_names = _all_names(new_names) if new_names else server_names(pki)
        ca = _authority(pki)
        key = new_key() if new_key_too else _server_key(pki)
        serial = issued.take_serial(pki, None, 0)
        certificate = ca.server_certificate(
            key.public_key(), serial, map(_general_name, new_names), time.time()
        )
        # Two files: a crash between them is told at the next start, with this command.
        if new_key_too:
            authority.write(pki / "server.key", private_pem(key))
        authority.write(pki / "server.pem", pem(certificate))
    return new_names


def _server_key(pki: Path) -> ec.EllipticCurvePrivateKey:
    """Return the coordinator's key; raises RecordError for one that is none of ours."""
    path = pki / "server.key"
    try:
        key = serialization.load_pem_private_key(authority.read(path), None)
    except _UNREADABLE:
        raise _not_ours(path) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _not_ours(path)
    return key


def server_names(pki: Path) -> tuple[str, ...]:
    """Return the DNS names and IP addresses of the server's certificate.

    Raises UserError for no authority, RecordError for a file that cannot be read.
    """
    data = authority.read(pki / "server.pem")
    extensions = x509.load_pem_x509_certificate(data).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def server_expiry(pki: Path) -> int:
    """Return when the server's certificate expires, in seconds since 1970.

    Raises UserError for no authority, RecordError for a file that cannot be read.
    """
    return expiry(authority.read(pki / "server.pem"))


def server_credentials(pki: Path) -> ServerCredentials:
    """Return what the coordinator's TLS needs.

    Raises UserError when its certificate has expired, is not valid yet or is another key's,
    or for no authority, RecordError for a file that cannot be read.
    """
    credentials = ServerCredentials(
        key=authority.read(pki / "server.key"),
        certificate=authority.read(pki / "server.pem"),
        ca=authority.read(pki / "ca.pem"),
    )
    if expiry(credentials.certificate) <= time.time():
        raise UserError(
            f"the server's certificate in '{pki}' has expired; "
            f"make a new one: fedlearn pki server --pki {pki}"
        )
    certificate = x509.load_pem_x509_certificate(credentials.certificate)
    begins = certificate.not_valid_before_utc
    # Nobody would believe it, and every agent would only say that it cannot connect.
    if begins.timestamp() > time.time():
        raise UserError(
            f"the server's certificate in '{pki}' is valid from {begins:%Y-%m-%d} on: this "
            "machine's date is wrong, or was when it was made; set the date, or make a new "
            f"one: fedlearn pki server --pki {pki}"
        )
    if _server_key(pki).public_key() != certificate.public_key():
        raise UserError(
            f"server.key and server.pem in '{pki}' do not belong together; "
            f"make both anew: fedlearn pki server --new-key --pki {pki}"
        )
    return credentials


def sign(pki: Path, client: int, request: bytes, days: int | None = None) -> bytes:
    """Return a certificate (PEM) for a client and the public key of its request.

    request: CSR, PEM; its own names are ignored: only ``client`` counts. days: None for
    those of the authority. Raises IdentityError for a request that is none, whose signature
    does not verify, or whose key is not on P-256, UserError for no client's id or no
    authority, RecordError for a folder that is damaged or cannot be written.
    """
    with authority.locked(pki):
        return issue(pki, client, request, days)


def issue(pki: Path, client: int, request: bytes, days: int | None = None) -> bytes:
    """Do what `sign` does, for a caller that holds the lock; raises what it raises."""
    check_client(client)
    public = public_key_of(request)
    ca = _authority(pki)
    if days is None:
        days = int(authority.read_json(issued.file_of(pki))["days"])
    now = time.time()
    expires = min(int(now) + days * DAY_S, int(ca.expires))
    serial = issued.take_serial(pki, client, expires)
    return pem(ca.client_certificate(public, serial, client, days, now))


def public_key_of(request: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a certificate signing request (PEM).

    Raises IdentityError for one that `sign` refuses.
    """
    if len(request) > LARGEST_REQUEST_BYTES:
        raise _bad_request(
            f"the certificate request has {len(request)} bytes; "
            f"the limit is {LARGEST_REQUEST_BYTES}"
        )
    try:
        csr = x509.load_pem_x509_csr(request)
        public = csr.public_key()
        # Agents make keys on P-256 alone; a key on another curve is none of theirs.
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(
            public.curve, ec.SECP256R1
        ):
            raise _bad_request(
                "the certificate request's key is not on the curve P-256"
            )
        # The signature proves that whoever asks has the private key.
        if not csr.is_signature_valid:
            raise _bad_request("the certificate request is not signed by its own key")
    except _UNREADABLE as error:
        raise _bad_request(
            f"not a certificate request that can be read ({error})"
        ) from None
    return public


def identity_of(certificate: bytes) -> tuple[int, int]:
    """Return client and serial number of a certificate (PEM) that TLS has verified.

    Raises IdentityError for a certificate that names anything but exactly one client.
    """
    try:
        parsed = x509.load_pem_x509_certificate(certificate)
        extension = parsed.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        names = list(extension.value)
        serial = parsed.serial_number
    except (*_UNREADABLE, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise _bad_certificate(f"the certificate names no client ({error})") from None
    # Exactly one: two names would leave open which of them counts.
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise _bad_certificate("the certificate's names are not exactly one URI")
    uri = names[0].value
    # Matched in full, and without leading zeros: each client has one way to be written.
    client = _URI.fullmatch(uri)
    if client is None or int(client[1]) > LARGEST_CLIENT:
        raise _bad_certificate(f"the certificate's name {uri!r} is no client's")
    return int(client[1]), serial


def expiry(certificate: bytes) -> int:
    """Return when a certificate (PEM) of ours expires, in seconds since 1970."""
    parsed = x509.load_pem_x509_certificate(certificate)
    return int(parsed.not_valid_after_utc.timestamp())


def check_client(client: int) -> None:
    """Raise UserError for a number that is no client's id."""
    if not 0 <= client <= LARGEST_CLIENT:
        raise UserError(
            f"{client} is no client's id; "
            f"ids are whole numbers from 0 to {LARGEST_CLIENT}"
        )


def _bad_request(text: str) -> IdentityError:
    return IdentityError("request", text)


def _bad_certificate(text: str) -> IdentityError:
    return IdentityError("certificate", text)


def _not_ours(path: Path) -> RecordError:
    return RecordError(f"'{path}' is not what fedlearn writes; {authority.RESTORE}")


def _check_empty(pki: Path) -> None:
    """Raise UserError for a folder that holds something."""
    if not pki.exists() or (pki.is_dir() and not any(pki.iterdir())):
        return
    state = "is no empty folder"
    if (pki / "ca.pem").exists():
        state = "holds an authority already, which its agents trust"
    raise UserError(f"'{pki}' {state}; nothing was changed. Choose another with --pki")


def _authority(pki: Path) -> Authority:
    """Return the authority of a folder.

    Raises RecordError for a damaged one, UserError for none, or one that has expired.
    """
    key_path = pki / "ca.key"
    try:
        certificate = x509.load_pem_x509_certificate(authority.read(pki / "ca.pem"))
        key = serialization.load_pem_private_key(authority.read(key_path), None)
    except _UNREADABLE as error:
        raise RecordError(
            f"the authority in '{pki}' is damaged ({error}); {authority.RESTORE}"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _not_ours(key_path)
    ca = Authority(certificate, key)
    if ca.expires <= time.time():
        raise UserError(
            f"the authority in '{pki}' has expired; "
            "make another with fedlearn pki init, and enroll the agents anew"
        )
    return ca


def _all_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of a server certificate, each once.

    Raises UserError for what is neither DNS name nor address.
    """
    reached = list(names)
    if not reached:
        host = socket.gethostname()
        # A machine may be called what no certificate can say.
        if _DNS.fullmatch(host):
            reached = [host]
    general_names = map(_general_name, [*reached, *LOCAL_NAMES])
    return tuple(dict.fromkeys(str(name.value) for name in general_names))


def _general_name(name: str) -> x509.GeneralName:
    """Return a DNS name or an IP address; raises UserError for what is neither."""
    # Addresses first: "127.0.0.1" would also pass as a DNS name.
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    if not _DNS.fullmatch(name):
        raise UserError(
            f"'{name}' is neither a DNS name nor an IP address (without port)"
        )
    return x509.DNSName(name)
