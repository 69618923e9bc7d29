"""The enrollment service: a token and a certificate request in, a certificate out.

Its port shows only the server's TLS: an agent has no certificate yet.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from fedlearn.errors import FedlearnError
from fedlearn.exchange.exchange_pb2 import EnrolReply, EnrolRequest
from fedlearn.exchange.methods import CallContext, enroll_handler
from fedlearn.server import authority, identity, tokens
from fedlearn.server.identity import IdentityError

# Before a refusal is answered, so that guessing is slow.
PAUSE_S = 0.2

# Refusals that are answered in a second, of whatever address: a flood of guesses waits in
# line, and those with a good token do not, for only a wrong one is told from it.
REFUSALS = 50


def enroll(pki: Path, secret: str, request: bytes) -> EnrolReply:
    """Redeem a token and sign the request under one lock: no revocation falls between.

    The request is looked at first: a bad one leaves the token as it is. Raises
    IdentityError.
    """
    # For its errors: nothing is changed yet.
    identity.public_key_of(request)
    with authority.locked(pki):
        client = tokens.take(pki, secret)
        certificate = identity.issue(pki, client, request)
    return EnrolReply(
        certificate=certificate, client=client, expires=identity.expiry(certificate)
    )


class Enrollment:
    """The service, for a `grpc.aio` server.

    ``counts`` says how many enrolled, and how many were refused for which reason.
    """

    def __init__(self, pki: Path, pause_s: float = PAUSE_S) -> None:
        """Serve an authority's folder; a refusal is answered after ``pause_s``."""
        self.counts: Counter[str] = Counter()
        self._pki = pki
        self._pause_s = pause_s
        # When the last refusal in line is answered.
        self._line_s = 0.0
        # One at a time: a flood of guesses costs no more than this thread.
        self._thread = ThreadPoolExecutor(1, "enrollment")

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what the server adds."""
        return enroll_handler(self._answer)

    def _wait_s(self, now: float) -> float:
        """Return how long the next refusal waits; now: seconds of any steady clock."""
        self._line_s = max(self._line_s, now) + 1 / REFUSALS
        return max(self._pause_s, self._line_s - now)

    async def _answer(self, request: EnrolRequest, context: CallContext) -> EnrolReply:
        try:
            reply = await asyncio.get_running_loop().run_in_executor(
                self._thread, enroll, self._pki, request.secret, request.request
            )
        except IdentityError as error:
            self.counts[error.reason] += 1
            await asyncio.sleep(self._wait_s(time.monotonic()))
            code = grpc.StatusCode.PERMISSION_DENIED
            if error.reason == "request":
                code = grpc.StatusCode.INVALID_ARGUMENT
            await context.abort(code, str(error))
        # The disk is full, or the folder was taken away.
        except FedlearnError as error:
            self.counts["failed"] += 1
            await context.abort(grpc.StatusCode.INTERNAL, str(error))
        self.counts["enrolled"] += 1
        return reply
