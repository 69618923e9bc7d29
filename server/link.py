"""What an agent's doctor asks: the coordinator's time, and bytes to measure the link by.

See `link.proto`.
"""

from __future__ import annotations

import os
import time
from functools import cache

import grpc

from fedlearn.exchange.link import LARGEST_BYTES, measure_handler
from fedlearn.exchange.link_pb2 import Echo, Probe
from fedlearn.exchange.methods import CallContext
from fedlearn.server.gate import CertificateGate


class LinkService:
    """For the exchange's own port: who may attend may ask, and nobody else."""

    def __init__(self, gate: CertificateGate) -> None:
        """Serve those whom a gate lets in."""
        self._gate = gate

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what the server adds."""
        return measure_handler(self._answer)

    async def _answer(self, probe: Probe, context: CallContext) -> Echo:
        await self._gate.caller(context)
        # The caller chooses the size, so it needs a bound.
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
