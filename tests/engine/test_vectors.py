"""Vectors of clients: the last two checkpoints keep theirs, whatever is written after them."""

import numpy as np
import pytest

from fedlearn.engine.vectors import NONE, ClientVectors
from fedlearn.errors import RecordError


@pytest.fixture
def vectors(tmp_path):
    vectors = ClientVectors(tmp_path / "sub" / "copies.f32", clients=5, size=1000)
    yield vectors
    vectors.close()


def put(vectors: ClientVectors, client: int, value: float) -> None:
    slot = vectors.free(client)
    vectors.write(client, slot, np.full(1000, value, np.float32))
    vectors.wrote(client, slot, b"12345678")


def get(vectors: ClientVectors, client: int) -> set[float]:
    return set(vectors.read(client, int(vectors.now[client])).tolist())


def test_the_newest_is_read(vectors):
    assert vectors.now.tolist() == [NONE] * 5
    put(vectors, 3, 1.0)
    put(vectors, 4, 2.0)
    put(vectors, 3, 3.0)
    assert (get(vectors, 3), get(vectors, 4)) == ({3.0}, {2.0})


def test_two_checkpoints_keep_their_vectors(vectors, tmp_path):
    slots = []
    for value in (1.0, 2.0):
        put(vectors, 0, value)
        slots.append(vectors.sync())
        vectors.checkpointed()
    for value in (3.0, 4.0, 5.0):  # rounds after the last checkpoint
        put(vectors, 0, value)
    assert get(vectors, 0) == {5.0}
    again = ClientVectors(vectors.path, 5, 1000)
    for value, kept in zip((1.0, 2.0), slots, strict=True):
        again.recall(kept)
        assert get(again, 0) == {value}
    again.recall(None)
    assert again.now.tolist() == [NONE] * 5
    again.close()


def test_clients_that_were_never_asked_take_no_room(tmp_path):
    vectors = ClientVectors(tmp_path / "copies.f32", clients=1_000_000, size=10_000)
    put(vectors, 999_999, 1.0)
    assert vectors.path.stat().st_blocks * 512 < 1e6
    vectors.close()


def test_a_file_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"copies\.f32"):
        ClientVectors(tmp_path / "file" / "copies.f32", 1, 1)
