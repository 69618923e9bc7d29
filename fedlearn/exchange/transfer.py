"""Bytes on their way in chunks that the other end acknowledges: payloads down, answers up.

A break costs what was under way and nothing more: the next connection goes on where the
last acknowledgement was. Chunks grow on a fast link, so that their number costs little,
and shrink on a slow one, so that the other end is heard often enough.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.system.checksum import crc32
from fedlearn.system.varint import varint

# Bytes of a chunk as they travel: cut from a payload without a copy where possible.
Data = bytes | memoryview

# Bytes of a chunk. Of 1 kbit/s the smallest takes ten seconds.
SMALLEST, FIRST, LARGEST = 1 << 10, 128 << 10, 1 << 20

# Seconds until a chunk's acknowledgement, below which chunks grow and above which they
# shrink.
QUICK_S, SLOW_S = 0.1, 0.5

# Bytes below which an acknowledgement may take as long because the link is far, and not because
# it is slow: such chunks grow and shrink by these seconds.
FAR_BYTES = 16 << 10
FAR_QUICK_S, FAR_SLOW_S = 1.5, 3.0

# Chunks under way: one travels while the other is acknowledged. The first travels alone,
# because its acknowledgement tells where to go on.
WINDOW = 2

# Bytes from which on a transfer tells how fast a link is.
TELLING_BYTES = 64 << 10

# Tags of AgentFrame's and CoordinatorFrame's field 3 and of Chunk's field 5; the length of
# each follows.
_CHUNK_TAG = b"\x1a"
_DATA_TAG = b"\x2a"


class Pace:
    """How large the chunks to one peer are, over all its connections."""

    def __init__(self, first_bytes: int | None = None) -> None:
        """Begin with chunks of some bytes; None: of a size that most links can bear."""
        self.bytes = FIRST if first_bytes is None else first_bytes
        # 10**6 bits per second of the last transfer that was long enough to tell; 0: none.
        self.mbps = 0.0

    def took(self, seconds: float, size: int) -> None:
        """Note how long a chunk of some bytes took to be acknowledged."""
        if seconds > self._slow_s():
            self.slower()
        # A smaller chunk than the present size proves nothing.
        elif seconds < self._quick_s() and size == self.bytes:
            self.bytes = min(LARGEST, 2 * self.bytes)

    def _slow_s(self) -> float:
        return SLOW_S if self.bytes > FAR_BYTES else FAR_SLOW_S

    def _quick_s(self) -> float:
        """Return the seconds below which chunks grow; a far link comes to FIRST, too."""
        if self.bytes < FAR_BYTES:
            return FAR_QUICK_S
        return SLOW_S if self.bytes < FIRST else QUICK_S

    def slower(self) -> None:
        """Halve the chunks."""
        half = self.bytes // 2
        self.bytes = max(SMALLEST, half)


def careful_pace() -> Pace:
    """Return a pace that any link can bear: it begins with the smallest chunks."""
    return Pace(SMALLEST)


class Transfer:
    """Byte strings on their way, one after another, counted from the first one's start."""

    def __init__(self, parts: Sequence[bytes], pace: Pace) -> None:
        """Take what is to be sent; nothing is under way before `begin`."""
        self.parts = parts
        self.pace = pace
        self.total = sum(len(part) for part in parts)
        # Bytes that the other end was last known to have.
        self.reached = 0
        # Of each chunk: end, size, when it was sent.
        self.under_way: list[tuple[int, int, float]] = []
        self._next = 0
        # Where this connection began, and when: for the speed of the link.
        self._begun_at = 0
        self._begun = 0.0
        # Whether the other end has said where it goes on, over this connection.
        self._known = False

    def begin(self, now: float) -> list[tuple[int, Data]]:
        """Start over a new connection; returns the first chunk, as offset and data.

        There is one even when nothing is left to send: its acknowledgement tells what the
        other end has.
        """
        self.break_off()
        self._begun = now
        self._begun_at = self.reached
        return self._more(now)

    def break_off(self) -> None:
        """Forget the connection before.

        If something was under way, perhaps a chunk took longer than the lease.
        """
        if self.under_way:
            self.pace.slower()
        self._go_on_at(self.reached)

    def acknowledged(self, offset: int, now: float) -> list[tuple[int, Data]]:
        """Take how many bytes the other end has; returns the chunks to send next."""
        # A chunk came twice.
        if self._known and offset == self.reached:
            return []
        ends = [end for end, _, _ in self.under_way]
        if offset in ends:
            # An acknowledgement covers every chunk before it.
            index = ends.index(offset)
            _, size, when = self.under_way[index]
            self.under_way = self.under_way[index + 1 :]
            self._known = True
            self.pace.took(now - when, size)
        else:
            # It has more or less than was known: after a break, a restart, or damage.
            offset = min(offset, self.total)
            self._go_on_at(offset)
        self.reached = offset
        self._measure(now)
        return self._more(now)

    def _go_on_at(self, offset: int) -> None:
        self.under_way = []
        self._next = offset
        self._known = False

    def _measure(self, now: float) -> None:
        """Note the link's speed, once a transfer that is long enough is complete."""
        size = self.reached - self._begun_at
        seconds = now - self._begun
        if self.reached == self.total and size >= TELLING_BYTES and seconds > 0:
            self.pace.mbps = 8e-6 * size / seconds

    def _more(self, now: float) -> list[tuple[int, Data]]:
        chunks = []
        window = WINDOW if self._known else 1
        while len(self.under_way) < window:
            # Without an acknowledgement there is a chunk even at the end; see `begin`.
            if self._next >= self.total and self._known:
                break
            data = self._cut(self._next)
            chunks.append((self._next, data))
            self._next += len(data)
            self.under_way.append((self._next, len(data), now))
        return chunks

    def _cut(self, offset: int) -> Data:
        """Return a chunk; none has bytes of two parts, so none needs a copy."""
        for part in self.parts:
            if offset < len(part):
                return memoryview(part)[offset : offset + self.pace.bytes]
            offset -= len(part)
        return b""


class ChunkBuffer:
    """Bytes that come in chunks, with their ``length`` and ``checksum`` (CRC-32).

    They are kept as they came, for each copy of a large model costs a millisecond.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.length = 0
        self.checksum = 0
        self._chunks: list[bytes] = []
        # A chunk that came before the one ahead of it.
        self._early: tuple[int, bytes] | None = None

    def add(self, offset: int, data: bytes) -> int:
        """Take a chunk; returns how many of its bytes came before.

        A negative number is how many are missing before it; one such chunk is kept until
        they are here.
        """
        overlap = self.length - offset
        if overlap < 0:
            self._early = (offset, data)
            return overlap
        fresh = data[overlap:]
        if fresh:
            self._chunks.append(fresh)
            self.length += len(fresh)
            self.checksum = crc32(fresh, self.checksum)
            if self._early is not None:
                early_offset, early_data = self._early
                self._early = None
                self.add(early_offset, early_data)
        return overlap

    def whole(self) -> bytes:
        """Return all that is here; of one chunk the chunk itself."""
        return b"".join(self._chunks)


def packed(frame: pb.AgentFrame | pb.CoordinatorFrame, data: Data) -> bytes:
    """Return a frame with a chunk that has no data yet, as it travels with data.

    The data follow as the field ``chunk`` once more, with nothing else in it: a reader
    merges the two, as protobuf's encoding says. Put into the message and serialised they
    are copied three times into new memory: 8.7 ms for 6.65 MB, this takes 0.5.
    """
    inner = _DATA_TAG + varint(len(data))
    outer = _CHUNK_TAG + varint(len(inner) + len(data))
    return b"".join((frame.SerializeToString(), outer, inner, data))
