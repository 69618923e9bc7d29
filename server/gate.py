"""Who may call: the certificate that TLS has verified, checked against revocations."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from fedlearn.errors import FedlearnError
from fedlearn.exchange.methods import CallContext
from fedlearn.server.identity import IdentityError, expiry, identity_of
from fedlearn.server.tokens import Revocations
from fedlearn.server.work import EventLog


@dataclass(frozen=True)
class Caller:
    """Who calls. client: None without TLS. serial: of the certificate.

    expires: the certificate, in seconds since 1970.
    """

    client: int | None = None
    serial: int = 0
    expires: float = math.inf


class CertificateGate:
    """Lets callers in by their certificates; without an authority it lets everybody in."""

    def __init__(self, pki: Path | None, counters: Counter[str], log: EventLog) -> None:
        """Take the authority's folder, and where refusals are counted and noted.

        Raises UserError for a folder that is no authority's, RecordError for a damaged one.
        """
        self.revocations = None if pki is None else Revocations(pki)
        self._counters = counters
        self._log = log

    def shut_out(
        self,
        attending: Mapping[int, int],
        waited_for: Container[int],
        serial: Callable[[int], int],
    ) -> set[int]:
        """Return the revoked clients that still attend or are waited for.

        attending: client → its connection. waited_for: clients with open work. serial: of
        a connection's certificate. Raises RecordError.
        """
        if self.revocations is None:
            return set()
        limits = self.revocations.current()
        absent = [
            client
            for client in limits
            if client in waited_for and client not in attending
        ]
        clients = set[int]()
        # Asked only then: it reads the list of all issued certificates.
        if absent:
            clients = self.revocations.shut_out(absent)
        for client, limit in limits.items():
            # A client that was let in again has a newer certificate.
            if client in attending and serial(attending[client]) <= limit:
                clients.add(client)
        return clients

    def restored(self) -> str | None:
        """Return what to say of an authority whose folder was restored from a copy.

        None: nothing, or it was said already. Raises UserError, RecordError.
        """
        if self.revocations is None:
            return None
        return self.revocations.restored()

    async def caller(self, context: CallContext) -> Caller:
        """Return who calls; the call of one who may not is ended."""
        if self.revocations is None:
            return Caller()
        # None until the certificate was read: a refusal without a client is noted, too.
        client: int | None = None
        try:
            # TLS has verified it against the authority; what it says is looked at here.
            certificate = context.auth_context()["x509_pem_cert"][0]
            client, serial = identity_of(certificate)
            if self.revocations.refused(client, serial):
                raise IdentityError("revoked", "the certificate is revoked")
            # TLS looked at it once, and a connection lasts.
            expires = expiry(certificate)
            if expires <= time.time():
                raise IdentityError("expired", "the certificate has expired")
        # Whatever cannot be read is turned away: in doubt nobody comes in.
        except (FedlearnError, KeyError, IndexError) as error:
            self._counters["wrong_certificate"] += 1
            self._log("turned away", client, text=str(error))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        return Caller(client, serial, expires)
