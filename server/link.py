"""What an agent's doctor asks: the coordinator's time, and bytes both ways to measure the link by. See `link.proto`."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import grpc

from fedlearn.errors import FedlearnError, RunError
from fedlearn.exchange.link import LARGEST_BYTES, measure_handler
from fedlearn.exchange.link_pb2 import Echo, Probe
from fedlearn.server.identity import identity_of
from fedlearn.server.tokens import Revocations


class Link:
    """The service, for the exchange's own port: who may attend may ask, and nobody else."""

    def __init__(self, pki: Path | None) -> None:
        """Serve under an authority's folder, or without TLS. Raises UserError for no authority, RecordError for a damaged one."""
        self._revocations = Revocations(pki) if pki else None

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what the server adds."""
        return measure_handler(self._answer)

    async def _answer(self, probe: Probe, context: Any) -> Echo:
        if self._revocations:
            try:
                client, serial = identity_of(context.auth_context()["x509_pem_cert"][0])
                if self._revocations.refused(client, serial):
                    raise RunError("the certificate is revoked")
            except (FedlearnError, KeyError, IndexError) as error:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        if probe.want > LARGEST_BYTES:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"an echo has at most {LARGEST_BYTES} bytes",
            )
        return Echo(data=_noise()[: probe.want], time_us=time.time_ns() // 1000)


@cache
def _noise() -> bytes:
    """Return bytes that nothing on the way can compress."""
    return os.urandom(LARGEST_BYTES)
