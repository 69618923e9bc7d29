"""A release's offer and files on their way to a device, over connections that come and go.

All of it comes in chunks that are acknowledged: what a break leaves here is not sent again, of
the manifest as of the files. On a link of 1 kbit/s a manifest takes ten seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fedlearn.clients.device.incoming import IncomingRelease
from fedlearn.clients.device.slots import InstallDisk
from fedlearn.errors import PackageError, one_line
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import of, proto
from fedlearn.exchange.release_frames import (
    OFFER_KIND,
    OFFER_PLACE,
    PACKED_BYTES,
    RELEASE_KIND,
    Offer,
    WrongFrame,
    unpacked_offer,
)
from fedlearn.exchange.releases import ReleaseId, WantedRelease

# Seconds without a chunk after which it is asked for once more. Fifty devices that share
# 1 kbit/s wait as long for their first chunks: who asks sooner doubles the queue.
LOST_S = 60.0

# Tries of a file whose bytes are others than were signed.
TRIES = 2

# Does the work of a step on a release, and returns its reply.
Step = Callable[[str, ReleaseId], Awaitable[Mapping[str, Any]]]


class ReleaseFetch:
    """See the module. incoming: the release whose files are on their way, or None."""

    def __init__(
        self,
        disk: InstallDisk,
        most_bytes: int,
        step: Step,
        say: Callable[[str], None],
    ) -> None:
        """Take the parts. most_bytes: of all files that travel. say: takes a line."""
        self.incoming: IncomingRelease | None = None
        self._disk = disk
        self._most_bytes = most_bytes
        self._step = step
        self._say = say
        # To the coordinator, while there is a connection to one that sends releases.
        self._send: Callable[[pb.AgentFrame], None] | None = None
        self._offer = Offer(WantedRelease(0, None))
        # Of an offer that is on its way: what is here, and its length once that is known.
        self._packed = bytearray()
        self._packed_bytes: int | None = None
        # Set when bytes came, or a connection.
        self._news = asyncio.Event()
        # The coordinator has not heard over this connection what is here of a file.
        self._is_new_link = False

    def connected(self, send: Callable[[pb.AgentFrame], None]) -> None:
        """Take a connection."""
        self._send = send
        self._is_new_link = True
        self._news.set()

    def disconnected(self) -> None:
        """Take the end of the connection: what is here stays, and waits for the next."""
        self._send = None

    def want(self, offer: Offer) -> None:
        """Take what is wanted; a manifest that is here already need not come with it."""
        is_same = offer.wanted == self._offer.wanted
        if is_same and not offer.manifest:
            return
        self._offer = offer
        self._forget_packed()

    def drop(self) -> None:
        """Take no more of the release that is on its way."""
        # An offer's bytes stay: they are of what is wanted, and not of one try.
        self.incoming = None

    def chunk(self, chunk: pb.Chunk) -> None:
        """Take a part of what was asked for; others change nothing."""
        number, kind, place = of(chunk.key)
        if number != self._offer.wanted.rollout:
            return
        try:
            length = self._add(kind, place, chunk)
        except OSError as error:
            self._say(f"a release cannot be written: {one_line(error)}")
            return
        if length is not None:
            self._acknowledge(kind, place, length)
            self._news.set()

    async def run(self, release: ReleaseId) -> str | None:
        """Bring a release's files here; returns why they never will be."""
        objection = await self._hear_offer(release)
        if objection is not None:
            return objection
        try:
            incoming = IncomingRelease(self._disk, self._offer, self._most_bytes)
        except (PackageError, OSError) as error:
            return one_line(error)
        self.incoming = incoming
        wrong = 0
        while True:
            for path in incoming.missing():
                await self._receive_file(incoming, path)
                # Once more, for bytes that a disk lost; a wrong package stays wrong.
                if not incoming.finish(path):
                    wrong += 1
                    if wrong == TRIES:
                        return f"'{path}' came with other bytes than were signed"
            if not incoming.missing() and await self._is_assembled(incoming, release):
                self.incoming = None
                return None

    # The offer

    async def _hear_offer(self, release: ReleaseId) -> str | None:
        """Have the offer's manifest and signatures here; returns why they never will be."""
        if self._offer.wanted.release != release:
            return "the coordinator said nothing of its manifest"
        for _ in range(TRIES):
            if self._offer.manifest:
                return None
            await self._receive(OFFER_KIND, OFFER_PLACE, self._has_packed, self._here)
            try:
                self._offer = unpacked_offer(self._offer.wanted, bytes(self._packed))
            except WrongFrame as error:
                objection = one_line(error)
            self._forget_packed()
        return None if self._offer.manifest else objection

    def _here(self) -> int:
        return len(self._packed)

    def _has_packed(self) -> bool:
        return self._packed_bytes == len(self._packed)

    def _forget_packed(self) -> None:
        self._packed.clear()
        self._packed_bytes = None

    # What comes

    def _add(self, kind: str, place: int, chunk: pb.Chunk) -> int | None:
        """Keep a chunk; returns how many bytes are here, None: nobody asked. Raises OSError."""
        if kind == RELEASE_KIND and self.incoming is not None:
            return self.incoming.add(place, chunk.offset, chunk.data)
        is_offer = kind == OFFER_KIND and place == OFFER_PLACE
        if not is_offer or self._offer.manifest or chunk.total > PACKED_BYTES:
            return None
        # Another length is another text: the coordinator's package was signed once more.
        if chunk.total != self._packed_bytes:
            self._packed.clear()
            self._packed_bytes = chunk.total
        if chunk.offset == len(self._packed):
            self._packed += chunk.data
        return len(self._packed)

    def _acknowledge(
        self, kind: str, place: int, length: int, again: bool = False
    ) -> None:
        """Say how much of a file is here. again: whatever came, go on from there."""
        if self._send is not None:
            key = proto((self._offer.wanted.rollout, kind, place))
            ack = pb.Ack(key=key, offset=length, again=again)
            self._send(pb.AgentFrame(ack=ack))

    async def _receive_file(self, incoming: IncomingRelease, path: str) -> None:
        """Wait until a file is as long as it is listed."""
        listed_bytes = incoming.manifest.listed[path].bytes
        await self._receive(
            RELEASE_KIND,
            incoming.place(path),
            lambda: incoming.length(path) >= listed_bytes,
            lambda: incoming.length(path),
        )

    async def _receive(
        self,
        kind: str,
        place: int,
        is_whole: Callable[[], bool],
        here: Callable[[], int],
    ) -> None:
        """Ask for a file until it is whole; the link may go and come back.

        here: returns how many of its bytes are here.
        """
        self._is_new_link = True
        while self._is_new_link or not is_whole():
            self._news.clear()
            # The other end of a new connection knows nothing of this transfer.
            if self._is_new_link:
                self._is_new_link = False
                self._acknowledge(kind, place, here(), again=True)
                continue
            try:
                await asyncio.wait_for(self._news.wait(), LOST_S)
            except asyncio.TimeoutError:
                self._is_new_link = True

    # Differences

    async def _is_assembled(
        self, incoming: IncomingRelease, release: ReleaseId
    ) -> bool:
        """Make the weights of differences; returns whether nothing is missing any more."""
        if not incoming.has_differences():
            return True
        reply = await self._step("assemble", release)
        needs = reply.get("needs")
        if needs is not None and incoming.need(needs):
            return False
        if needs is not None or reply["objection"] is not None:
            self._say(f"the weights of {release} come whole: {reply['objection']}")
            incoming.give_up_differences()
            return False
        return True
