"""A piece of work as an agent holds it, from its task until its answer is stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate

from fedlearn.clients.agent.actions import SendFrame
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, proto
from fedlearn.exchange.transfer import ChunkBuffer, Data, Transfer


class PieceStage(Enum):
    """How far a piece of work is; `fedlearn.clients.agent.attendance` has the transitions."""

    COMING = "its payloads are on their way"
    WORKING = "its payloads are here, and the agent works on it"
    ANSWERED = "its answer is on this disk"


@dataclass
class Download:
    """The payloads of a task on their way."""

    task: pb.Task
    # Bytes of all payloads.
    total: int
    received: ChunkBuffer = field(default_factory=ChunkBuffer)

    def payloads(self) -> tuple[bytes, ...]:
        """Return the payloads, once all bytes are here."""
        data = self.received.whole()
        sizes = self.task.sizes
        ends = accumulate(sizes)
        return tuple(
            data[end - size : end] for end, size in zip(ends, sizes, strict=True)
        )


@dataclass
class Upload:
    """An answer on its way."""

    transfer: Transfer
    # CRC-32 of the answer.
    checksum: int

    def frames(self, key: Key, chunks: list[tuple[int, Data]]) -> list[SendFrame]:
        """Return frames that carry chunks, offset and data, of the answer to a piece of work."""
        frames = []
        for offset, data in chunks:
            chunk = pb.Chunk(
                key=proto(key),
                offset=offset,
                total=self.transfer.total,
                checksum=self.checksum,
            )
            frames.append(SendFrame(pb.AgentFrame(chunk=chunk), data))
        return frames


@dataclass
class Piece:
    """A piece of work, from its task until its answer is stored."""

    stage: PieceStage
    # The task, as it was sent.
    text: bytes
    # By the present connection.
    requested: bool = False
    # In stage COMING.
    download: Download | None = None
    # In stage ANSWERED.
    answer: bytes = b""
    # From the first request of the answer on, over all connections.
    upload: Upload | None = None
    # Of the payloads that come, or that the work holds.
    payload_bytes: int = 0

    @property
    def held_bytes(self) -> int:
        """Return the bytes that this device holds for it."""
        return len(self.text) + self.payload_bytes + len(self.answer)
