"""Frames with a chunk as they travel, and what is kept of chunks that come in any order."""

import zlib
from itertools import permutations

import pytest

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.transfer import (
    WINDOW,
    ChunkBuffer,
    Transfer,
    careful_pace,
    packed,
)
from fedlearn.server.sessions import LEASE_S, LEAST_IDLE_S


@pytest.mark.parametrize("kind", [pb.AgentFrame, pb.CoordinatorFrame])
@pytest.mark.parametrize("size", [1, 127, 128, 16_384, 1 << 20])
def test_a_packed_frame_is_read_as_the_frame_with_its_data(kind, size):
    data = bytes(range(256)) * (size // 256 + 1)
    chunk = pb.Chunk(
        key=pb.Key(round=3, kind="train"), offset=7, total=2**40, checksum=5
    )
    frame = kind.FromString(packed(kind(chunk=chunk), memoryview(data)[:size]))
    chunk.data = data[:size]
    assert frame == kind(chunk=chunk)
    assert frame.WhichOneof("frame") == "chunk"


def test_two_chunks_that_change_places_are_one_text():
    for order in permutations([(0, b"ab"), (2, b"cd")]):
        found = ChunkBuffer()
        for offset, data in order:
            found.add(offset, data)
        assert (found.whole(), found.length, found.checksum) == (
            b"abcd",
            4,
            zlib.crc32(b"abcd"),
        )


def test_what_came_before_is_told_and_skipped():
    found = ChunkBuffer()
    assert [
        found.add(0, b"abc"),
        found.add(1, b"bcd"),
        found.add(9, b"z"),
        found.add(4, b"e"),
    ] == [0, 2, -5, 0]
    assert found.whole() == b"abcde" and found.length == 5


def seconds_of(size: int, rate: float, turn_s: float) -> float:
    """Return how long a chunk takes until it is acknowledged. rate: bits a second."""
    return turn_s + 8 * size / rate


@pytest.mark.parametrize(
    ("rate", "turn_s", "least", "most"),
    [
        # A narrow radio: any chunk takes ten seconds, and larger ones would be silence.
        (1e3, 0.5, 1 << 10, 1 << 10),
        # A chunk under way takes at most three seconds.
        (10e3, 0.5, 1 << 10, 2 << 10),
        # A satellite: far, and not slow.
        (50e6, 0.6, 16 << 10, 16 << 10),
        (50e6, 0.15, 128 << 10, 128 << 10),
        (1e9, 0.001, 1 << 20, 1 << 20),
    ],
)
def test_chunks_come_to_the_size_that_a_link_bears(rate, turn_s, least, most):
    pace = careful_pace()
    sizes = []
    for _ in range(60):
        sizes.append(pace.bytes)
        pace.took(seconds_of(pace.bytes, rate, turn_s), pace.bytes)
    assert least <= min(sizes[20:])
    assert max(sizes[20:]) <= most


def test_an_agent_hears_its_coordinator_while_a_release_comes_over_1_kbit_a_second():
    transfer = Transfer([bytes(20 << 10)], careful_pace())
    now = 0.0
    longest_s = 0.0
    transfer.begin(now)
    while transfer.under_way:
        # A chunk arrives at once, after all of its bits.
        end, size, _ = transfer.under_way[0]
        longest_s = max(longest_s, 8 * size / 1e3)
        now += 8 * size / 1e3
        transfer.acknowledged(end, now)
    assert transfer.reached == 20 << 10
    # A heartbeat's answer may wait behind all chunks that are under way.
    assert WINDOW * longest_s < LEAST_IDLE_S + LEASE_S
