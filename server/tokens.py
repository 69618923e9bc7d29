"""Who may come in and who may not come back: tokens for enrollment, and revocations.

A token works once. It carries the authority's certificate, so that an agent can trust the
coordinator at its first contact. Of its secret only a SHA-256 is kept. A revocation refuses
every serial number that a client's certificates have had so far: numbers only grow, so one
limit per client says it all, and a new token lets the client back in. Revocations and spent
tokens hold though the folder is restored from an older copy (`fedlearn.server.anchor`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import secrets
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlearn.errors import RecordError, UserError
from fedlearn.server import anchor, authority, identity, issued
from fedlearn.server.identity import IdentityError

TOKEN_VERSION = 1

# How long a token can be used: by default, and at most.
HOURS = 24.0
LONGEST_HOURS = 24.0 * 365

# A token that expired longer ago than this is unknown. As long as for certificates: a clock that
# was ahead for a while forgets nothing.
REMEMBERED_S = issued.KEPT_S


@dataclass(frozen=True)
class Revoked:
    """What a revocation refuses from now on.

    certificates: that would still be valid. tokens: that were not used yet.
    """

    client: int
    certificates: int
    tokens: int


def new_token(pki: Path, client: int, hours: float = HOURS) -> str:
    """Return a token with which this client can enroll once within ``hours``.

    It is one word of base64url. Raises UserError for an id or hours out of range or a
    folder that is no authority's, RecordError for a failed write.
    """
    identity.check_client(client)
    if not (math.isfinite(hours) and 0 < hours <= LONGEST_HOURS):
        raise UserError(
            f"a token valid for {hours:g} hours is out of range; "
            f"give more than 0 and at most {LONGEST_HOURS:g}"
        )
    # 256 bits, so it cannot be guessed; that is why a plain SHA-256 keeps it well.
    secret = secrets.token_urlsafe(32)
    expires = time.time() + hours * 3600
    with authority.locked(pki):
        # DER is shorter than PEM, and people copy tokens.
        ca = ssl.PEM_cert_to_DER_cert((pki / "ca.pem").read_text())
        tokens = _remembered(pki)
        tokens[_digest(secret)] = {"client": client, "expires": expires, "used": None}
        authority.write_json(pki / "tokens.json", tokens)
    content = {
        "v": TOKEN_VERSION,
        "client": client,
        "secret": secret,
        "ca": base64.b64encode(ca).decode(),
    }
    text = json.dumps(content, separators=(",", ":"))
    # Without padding, which says nothing: an agent adds it again.
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def redeem(pki: Path, secret: str) -> int:
    """Return the client whose token has this secret.

    The token is marked as used, on disk, before this returns. Raises IdentityError with the
    reason unknown, used or expired.
    """
    with authority.locked(pki):
        return take(pki, secret)


def take(pki: Path, secret: str) -> int:
    """Do what `redeem` does, for a caller that holds the lock; raises what it raises."""
    tokens = _remembered(pki)
    digest = _digest(secret)
    token = None
    # Every one is compared, in constant time: how long it takes says nothing.
    for known_digest, candidate in tokens.items():
        if hmac.compare_digest(known_digest, digest):
            token = candidate
    if token is None:
        raise IdentityError(
            "unknown",
            "the token is not known here, or was withdrawn; "
            "ask for a new one (fedlearn token)",
        )
    client = int(token["client"])
    fix = f"ask for a new one (fedlearn token --client {client})"
    if token["used"] is not None or digest in anchor.read(pki).spent:
        raise IdentityError("used", f"the token was used already; {fix}")
    if token["expires"] <= time.time():
        raise IdentityError("expired", f"the token has expired; {fix}")
    # Kept, not deleted: a second try is told that it is the second.
    token["used"] = time.time()
    authority.write_json(pki / "tokens.json", tokens)
    anchor.add(pki, {}, {digest: token["expires"]})
    return client


def renew(pki: Path, client: int, serial: int, request: bytes) -> bytes:
    """Return a new certificate (PEM) for a client whose present one is not refused.

    serial: of the present one. The lock spans both, so that a client cannot renew its way
    past a revocation. Raises IdentityError for a revoked certificate or a bad request.
    """
    with authority.locked(pki):
        if serial <= _limits(pki).get(client, 0):
            raise IdentityError(
                "revoked", f"the certificate {serial} of client {client} is revoked"
            )
        expires = issued.of_client(pki, client).get(serial)
        if expires is not None and expires <= time.time():
            raise IdentityError(
                "expired", f"the certificate {serial} of client {client} has expired"
            )
        return identity.issue(pki, client, request)


def revoke(pki: Path, client: int, anyway: bool = False) -> Revoked:
    """Refuse every certificate that the client has got so far, and its unused tokens.

    anyway: though this folder knows neither certificate nor token of the client, as after it
    was restored from a copy; otherwise UserError is raised, most likely for a mistyped id.
    Raises RecordError for a folder that is damaged or cannot be written.
    """
    identity.check_client(client)
    with authority.locked(pki):
        tokens = _remembered(pki)
        limits = _limits(pki)
        certificates = issued.of_client(pki, client)
        unspent = _unspent(tokens, client)
        if not (certificates or unspent or client in limits or anyway):
            raise UserError(
                f"client {client} has neither a certificate nor a token from '{pki}'; "
                f"nothing was changed. If it has one all the same: --anyway"
            )
        now = time.time()
        last_limit = limits.get(client, 0)
        valid = [
            number
            for number, expires in certificates.items()
            if number > last_limit and expires > now
        ]
        usable = [token for token in unspent.values() if token["expires"] > now]
        # Expired ones too, as the clock may be wrong: an unused one would let it back in.
        for digest in unspent:
            del tokens[digest]
        # All numbers so far, of whatever client: only this client's are compared with it.
        limits[client] = issued.take_limit(pki)
        # Tokens first: a crash between the two leaves no token that could undo it.
        authority.write_json(pki / "tokens.json", tokens)
        _write_limits(pki, limits)
        spent = {digest: token["expires"] for digest, token in unspent.items()}
        anchor.add(pki, {client: limits[client]}, spent)
    return Revoked(client, len(valid), len(usable))


def recover(pki: Path) -> str | None:
    """Put back what a folder forgot that was restored from an older copy, and say so.

    None: it forgot nothing that this machine remembers. What was revoked elsewhere a person has
    to revoke again. Raises UserError for no authority, RecordError.
    """
    with authority.locked(pki):
        remembered = anchor.read(pki)
        limits = _folder_limits(pki)
        tokens = authority.read_json(pki / "tokens.json")
        revoked = _beyond(remembered.limits, limits)
        # Another user may have revoked, who remembers it elsewhere.
        unremembered = _beyond(limits, remembered.limits)
        if unremembered:
            anchor.add(pki, unremembered, {})
        unspent = [
            digest
            for digest in remembered.spent
            if digest in tokens and tokens[digest]["used"] is None
        ]
        if not revoked and not unspent:
            return None
        since = _last_change(pki)
        for digest in unspent:
            tokens[digest]["used"] = time.time()
        authority.write_json(pki / "tokens.json", tokens)
        _write_limits(pki, anchor.merged(limits, remembered.limits))
    return (
        f"'{pki}' was restored from a copy: {len(revoked)} revocations and "
        f"{len(unspent)} used tokens are put back, as this machine remembers them. What "
        f"another machine did is forgotten: revoke again since {since} "
        "(fedlearn revoke ID --anyway)"
    )


def _beyond(limits: Mapping[int, int], others: Mapping[int, int]) -> dict[int, int]:
    """Return those limits that are larger than the others of the same client."""
    return {
        client: limit
        for client, limit in limits.items()
        if limit > others.get(client, 0)
    }


def _last_change(pki: Path) -> str:
    """Return when a folder was last used, for a person."""
    moment = issued.changed(pki)
    # An authority of an earlier version did not write it down.
    if moment is None:
        return "the day of that copy"
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


def _write_limits(pki: Path, limits: Mapping[int, int]) -> None:
    content = {str(number): limits[number] for number in sorted(limits)}
    authority.write_json(pki / "revoked.json", content)


class Revocations:
    """The revoked certificates, as a running coordinator asks for them.

    The file is read again when it has changed.
    """

    def __init__(self, pki: Path) -> None:
        """Read the file.

        Raises UserError for no authority, RecordError for a damaged file.
        """
        self._pki = pki
        # Of the file as it was read: inode, size, times of its content and of its inode.
        self._version: tuple[int, ...] | None = None
        # Of the file that `restored` has looked at.
        self._recovered_version: tuple[int, ...] | None = None
        self._limits: dict[int, int] = {}
        self.current()

    def current(self) -> Mapping[int, int]:
        """Return the largest refused serial number of each revoked client.

        For a poll over many streams: it costs one stat. Raises RecordError for a file that
        is gone or damaged: then nobody should be let in.
        """
        path = self._pki / "revoked.json"
        try:
            status = path.stat()
        except OSError as error:
            reason = error.strerror or error
            raise RecordError(f"cannot read '{path}': {reason}") from error
        # Files are replaced whole, so a change shows in the inode even within one tick. A
        # copy that is put back may have the inode, the date and the size of what it
        # replaces; the inode's own time is new.
        version = (
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        # The stat comes before the reading: a change between them is seen the next time.
        if version != self._version:
            self._limits = _limits(self._pki)
            self._version = version
        return self._limits

    def restored(self) -> str | None:
        """Return what `recover` says, where the file has changed since this was asked last.

        Raises UserError, RecordError.
        """
        self.current()
        if self._recovered_version == self._version:
            return None
        self._recovered_version = self._version
        return recover(self._pki)

    def refused(self, client: int, serial: int) -> bool:
        """Tell whether a client's certificate is revoked; raises RecordError."""
        limit = self.current().get(client, 0)
        return serial <= limit

    def shut_out(self, clients: Iterable[int]) -> set[int]:
        """Return those of some revoked clients who have got no certificate since.

        Raises RecordError.
        """
        limits = self.current()
        listed = authority.read_json(issued.file_of(self._pki))
        readmitted = {
            entry["client"]
            for number, entry in listed["certificates"].items()
            if int(number) > limits.get(entry["client"], 0)
        }
        return set(clients) - readmitted


def _limits(pki: Path) -> dict[int, int]:
    """Return the largest refused serial number of each revoked client.

    Those of the folder, and those that this machine remembers.
    """
    return anchor.merged(_folder_limits(pki), anchor.read(pki).limits)


def _folder_limits(pki: Path) -> dict[int, int]:
    path = pki / "revoked.json"
    content = authority.read_json(path)
    try:
        return {int(client): int(limit) for client, limit in content.items()}
    except (TypeError, ValueError):
        raise authority.list_damaged(path) from None


def _remembered(pki: Path) -> dict[str, Any]:
    """Return the tokens by their digests, without those that expired long ago."""
    oldest = time.time() - REMEMBERED_S
    tokens = authority.read_json(pki / "tokens.json")
    return {
        digest: token for digest, token in tokens.items() if token["expires"] > oldest
    }


def _unspent(tokens: Mapping[str, Any], client: int) -> dict[str, Any]:
    """Return a client's tokens that were not used, by their digests."""
    return {
        digest: token
        for digest, token in tokens.items()
        if token["client"] == client and token["used"] is None
    }


def _digest(secret: str) -> str:
    # A secret comes from outside, and may hold what is no Unicode.
    data = secret.encode(errors="surrogatepass")
    return hashlib.sha256(data).hexdigest()
