"""Renewals of certificates: so many for one client, and no more of the authority's time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

from fedlearn.errors import FedlearnError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.server import frames, tokens
from fedlearn.server.identity import expiry
from fedlearn.server.observe import Log

# Certificates that a client may ask for at once, as after answers that a link lost.
BURST = 3

# Seconds until it may ask for one more. An agent asks once an hour, in its certificate's
# last third.
EACH_S = 3600.0


class Allowance:
    """Lets each client do something so often: at first BURST times, then once in EACH_S."""

    def __init__(self) -> None:
        """Begin with the whole burst for everybody."""
        # client → how many are left, and when that was counted.
        self._left: dict[int, tuple[float, float]] = {}

    def take(self, client: int, now: float) -> bool:
        """Use one up; False: none is left now. now: seconds of any steady clock."""
        remaining, counted_s = self._left.get(client, (float(BURST), now))
        remaining = min(BURST, remaining + (now - counted_s) / EACH_S)
        if remaining < 1:
            return False
        self._left[client] = (remaining - 1, now)
        return True


class Renewals:
    """Answers agents that ask for a new certificate."""

    def __init__(self, pki: Path, counters: Counter[str], log: Log) -> None:
        """Take the authority's folder, and where renewals are counted and noted."""
        self._pki = pki
        self._counters = counters
        self._log = log
        self._allowance = Allowance()
        # Clients whose refusal was noted: a flood of requests must not fill the log.
        self._noted: set[int] = set()

    async def answer(
        self, client: int, serial: int, request: bytes
    ) -> pb.CoordinatorFrame | None:
        """Return the frame with a new certificate; None: the agent may ask again.

        serial: of its present certificate. It has a third of its validity for that.
        """
        # Before the lock and the disk: each certificate is written and synced under a lock
        # that enrollments and revocations wait for.
        if not self._allowance.take(client, time.monotonic()):
            self._counters["renewed_too_often"] += 1
            self._note(client, f"it asks too often; one is issued in {EACH_S:g} s")
            return None
        try:
            # In a thread: it waits for the authority's lock, and for the disk.
            certificate = await asyncio.to_thread(
                tokens.renew, self._pki, client, serial, request
            )
        except FedlearnError as error:
            self._note(client, str(error))
            return None
        self._noted.discard(client)
        self._log("renewed", client, text="its certificate")
        return frames.certificate(certificate, expiry(certificate))

    def _note(self, client: int, reason: str) -> None:
        if client in self._noted:
            return
        self._noted.add(client)
        self._log.note(f"client {client}: its certificate is not renewed: {reason}")
