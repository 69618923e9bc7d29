"""Who may come in and who may not come back: one-time tokens for enrollment, and revocations.

A token carries the authority's certificate, so that an agent can trust the coordinator at its first contact. Of its
secret only a SHA-256 is kept. A revocation refuses every serial number that a client's certificates have had so far:
numbers only grow, so one limit per client says it all, and a new token lets the client back in.
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
from fedlearn.server import identity
from fedlearn.server.identity import IdentityError

TOKEN_VERSION = 1
HOURS = 24.0
LONGEST_HOURS = 24.0 * 365
REMEMBERED_S = 7 * 86400.0  # a token that expired longer ago than this is unknown


@dataclass(frozen=True)
class Revoked:
    """What a revocation refuses from now on."""

    client: int
    certificates: int  # that would still be valid
    tokens: int  # that were not used yet


def new_token(pki: Path, client: int, hours: float = HOURS) -> str:
    """Return a token (one word of base64url) with which this client can enroll once within ``hours``.

    Raises UserError for an id or hours out of range or a folder that is no authority's, RecordError for a failed write.
    """
    identity.check_client(client)
    if not (math.isfinite(hours) and 0 < hours <= LONGEST_HOURS):
        raise UserError(
            f"a token valid for {hours:g} hours is out of range; give more than 0 and at most {LONGEST_HOURS:g}"
        )
    secret = secrets.token_urlsafe(32)
    with identity.locked(pki):
        ca = ssl.PEM_cert_to_DER_cert((pki / "ca.pem").read_text())
        tokens = _kept(pki)
        tokens[_digest(secret)] = {
            "client": client,
            "expires": time.time() + hours * 3600,
            "used": None,
        }
        identity.write_json(pki / "tokens.json", tokens)
    content = {
        "v": TOKEN_VERSION,
        "client": client,
        "secret": secret,
        "ca": base64.b64encode(ca).decode(),
    }
    return (
        base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode())
        .decode()
        .rstrip("=")
    )


def redeem(pki: Path, secret: str) -> int:
    """Return the client whose token has this secret; the token is marked as used, on disk, before this returns.

    Raises IdentityError with the reason unknown, used or expired.
    """
    with identity.locked(pki):
        return take(pki, secret)


def take(pki: Path, secret: str) -> int:
    """Do what `redeem` does, for a caller that holds the lock."""
    tokens = _kept(pki)
    digest = _digest(secret)
    found = None
    for known, token in tokens.items():  # every one is compared, in constant time
        if hmac.compare_digest(known, digest):
            found = token
    if found is None:
        raise IdentityError(
            "unknown",
            "the token is not known here, or was withdrawn; ask for a new one (fedlearn token)",
        )
    client = int(found["client"])
    fix = f"ask for a new one (fedlearn token --client {client})"
    if found["used"] is not None:
        raise IdentityError("used", f"the token was used already; {fix}")
    if found["expires"] <= time.time():
        raise IdentityError("expired", f"the token has expired; {fix}")
    found["used"] = time.time()
    identity.write_json(pki / "tokens.json", tokens)
    return client


def renew(pki: Path, client: int, serial: int, request: bytes) -> bytes:
    """Return a new certificate (PEM) for a client that shows the one with this serial number, if it is not refused.

    The lock spans both, so that a client cannot renew its way past a revocation. Raises IdentityError for a revoked
    certificate or a bad request.
    """
    with identity.locked(pki):
        if serial <= _limits(pki).get(client, 0):
            raise IdentityError(
                "revoked", f"the certificate {serial} of client {client} is revoked"
            )
        return identity.issue(pki, client, request)


def revoke(pki: Path, client: int) -> Revoked:
    """Refuse every certificate that the client has got so far, and its unused tokens.

    Raises UserError for a client to whom neither a certificate nor a token was given: most likely a mistyped id.
    """
    identity.check_client(client)
    with identity.locked(pki):
        tokens, now = _kept(pki), time.time()
        limits = _limits(pki)
        issued = identity.read_json(pki / "issued.json")
        valid = [
            n
            for n, entry in issued["certificates"].items()
            if entry["client"] == client and int(n) > limits.get(client, 0)
        ]
        waiting = [
            d
            for d, t in tokens.items()
            if t["client"] == client and t["used"] is None and t["expires"] > now
        ]
        if not valid and not waiting and client not in limits:
            raise UserError(
                f"client {client} has neither a certificate nor a token from '{pki}'; nothing was changed"
            )
        limits[client] = int(issued["next"]) - 1
        identity.write_json(
            pki / "tokens.json", {d: t for d, t in tokens.items() if d not in waiting}
        )
        identity.write_json(
            pki / "revoked.json",
            {str(known): limit for known, limit in sorted(limits.items())},
        )
    return Revoked(client, len(valid), len(waiting))


class Revocations:
    """The revoked certificates, as a running coordinator asks for them: the file is read again when it has changed."""

    def __init__(self, pki: Path) -> None:
        """Read the file; raises UserError for no authority, RecordError for a damaged file."""
        self._pki = pki
        self._seen: tuple[int, int, int] | None = None
        self._limits: dict[int, int] = {}
        self.current()

    def current(self) -> Mapping[int, int]:
        """Return the largest refused serial number of each revoked client: for a poll over many streams.

        Costs one stat. Raises RecordError for a file that is gone or damaged: then nobody should be let in.
        """
        path = self._pki / "revoked.json"
        try:
            found = path.stat()
        except OSError as error:
            raise RecordError(
                f"cannot read '{path}': {error.strerror or error}"
            ) from error
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if (
            seen != self._seen
        ):  # the stat comes before the reading: a change between them is found the next time
            self._limits, self._seen = _limits(self._pki), seen
        return self._limits

    def refused(self, client: int, serial: int) -> bool:
        """Tell whether a client's certificate with this serial number is revoked."""
        return serial <= self.current().get(client, 0)

    def shut_out(self, clients: Iterable[int]) -> set[int]:
        """Return those of some revoked clients who have got no certificate since; raises RecordError."""
        limits, found = self.current(), set(clients)
        issued = identity.read_json(self._pki / "issued.json")["certificates"]
        return found - {
            entry["client"]
            for number, entry in issued.items()
            if int(number) > limits.get(entry["client"], 0)
        }


def _limits(pki: Path) -> dict[int, int]:
    path = pki / "revoked.json"
    try:
        return {
            int(client): int(limit)
            for client, limit in identity.read_json(path).items()
        }
    except (TypeError, ValueError):
        raise RecordError(
            f"'{path}' is damaged; restore the folder from a copy"
        ) from None


def _kept(pki: Path) -> dict[str, Any]:
    """Return the tokens by their digests, without those that expired long ago."""
    oldest = time.time() - REMEMBERED_S
    return {
        digest: token
        for digest, token in identity.read_json(pki / "tokens.json").items()
        if token["expires"] > oldest
    }


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
