"""Frames with a chunk as they travel, and what is kept of chunks that come in any order."""

import zlib
from itertools import permutations

import pytest

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.transfer import ChunkBuffer, packed


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
