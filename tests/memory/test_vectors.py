"""Vectors of clients: the last two checkpoints keep theirs, whatever is written after them."""

import random
import shutil

import numpy as np
import pytest

from fedlearn.errors import RecordError
from fedlearn.memory.slots import NONE
from fedlearn.memory.vectors import SLOTS, ClientVectors


@pytest.fixture
def vectors(tmp_path):
    vectors = ClientVectors(tmp_path / "sub" / "copies.f32", clients=5, size=1000)
    yield vectors
    vectors.close()


def put(vectors: ClientVectors, client: int, value: float) -> None:
    slot = vectors.free(client)
    vectors.write(client, slot, np.full(vectors.size, value, np.float32))
    vectors.wrote(client, slot, b"12345678")


def get(vectors: ClientVectors, client: int) -> set[float]:
    slot, _ = vectors.newest(client)
    return set() if slot == NONE else set(vectors.read(client, slot).tolist())


def test_the_newest_is_read(vectors):
    assert [vectors.newest(client) for client in range(5)] == [(NONE, bytes(8))] * 5
    put(vectors, 3, 1.0)
    put(vectors, 4, 2.0)
    put(vectors, 3, 3.0)
    assert (get(vectors, 3), get(vectors, 4), get(vectors, 0)) == ({3.0}, {2.0}, set())
    assert vectors.newest(3)[1] == b"12345678"


def test_two_checkpoints_keep_their_vectors(vectors, tmp_path):
    saved = []
    for value in (1.0, 2.0):
        put(vectors, 0, value)
        saved.append(vectors.sync())
        vectors.checkpointed()
    for value in (3.0, 4.0, 5.0):  # rounds after the last checkpoint
        put(vectors, 0, value)
    assert get(vectors, 0) == {5.0}
    vectors.close()
    for value, kept in zip((2.0, 1.0), reversed(saved), strict=True):
        vectors = ClientVectors(vectors.path, 5, 1000)
        vectors.recall(kept)
        assert get(vectors, 0) == {value}
        vectors.close()
    vectors = ClientVectors(vectors.path, 5, 1000)
    vectors.recall(None)
    assert get(vectors, 0) == set()


def test_a_void_round_is_undone_for_one_or_all(vectors):
    put(vectors, 0, 1.0)
    put(vectors, 1, 1.0)
    vectors.settle()
    put(vectors, 0, 2.0)
    put(vectors, 1, 2.0)
    put(vectors, 2, 2.0)
    vectors.undo(1)
    assert [get(vectors, client) for client in range(3)] == [{2.0}, {1.0}, {2.0}]
    vectors.undo()
    assert [get(vectors, client) for client in range(3)] == [{1.0}, {1.0}, set()]


@pytest.mark.parametrize("seed", range(5))
def test_a_kill_at_any_moment_loses_nothing(seed, tmp_path):
    """Puts, void rounds, checkpoints and kills in any order, beside a dict; a resume is from
    either of the last two checkpoints.
    """
    chance = random.Random(seed)
    path, clients = tmp_path / "copies.f32", 6
    vectors = ClientVectors(path, clients, 8)
    vectors.recall(None)
    now: dict[int, float] = {}
    settled: dict[int, float] = {}
    checkpoints: list[tuple[dict[str, np.ndarray], dict[int, float]]] = []
    for step in range(1, 600):
        match chance.choice(["round", "round", "void", "checkpoint", "half", "kill"]):
            case "round" | "void" as kind:
                vectors.settle()
                settled = dict(now)
                for client in chance.sample(range(clients), 3):
                    slot = vectors.free(client)
                    vectors.write(client, slot, np.full(8, step, np.float32))
                    if chance.random() < 0.8:  # others answered nothing
                        vectors.wrote(client, slot, bytes(8))
                        now[client] = float(step)
                if kind == "void":
                    vectors.undo()
                    now = settled
            case "checkpoint" | "half" as kind:
                saved = vectors.sync()
                if kind == "checkpoint":  # otherwise its file never came to be
                    vectors.checkpointed()
                    checkpoints = [*checkpoints[-1:], (saved, dict(now))]
            case "kill":
                vectors.close()
                vectors = ClientVectors(path, clients, 8)
                if len(checkpoints) == 2 and chance.random() < 0.3:
                    checkpoints.pop()  # the newest is damaged
                now = dict(checkpoints[-1][1]) if checkpoints else {}
                vectors.recall(checkpoints[-1][0] if checkpoints else None)
        assert {client: get(vectors, client) for client in range(clients)} == {
            c: {now[c]} if c in now else set() for c in range(clients)
        }
    vectors.close()
    assert (
        path.stat().st_size <= 4 * 8 * SLOTS * 3 * clients
    )  # slots of clients that answered nothing are used again, but for a kill


def test_clients_that_were_never_asked_take_no_room(tmp_path):
    vectors = ClientVectors(tmp_path / "copies.f32", clients=1_000_000, size=10_000)
    put(vectors, 999_999, 1.0)
    assert vectors.path.stat().st_size == 40_000
    assert sum(array.nbytes for array in vectors.sync().values()) < 100
    vectors.close()


def test_slots_of_a_client_that_noted_nothing_are_used_again(vectors):
    given = set()
    for client in (0, 1, 2, 3, 4, 0):
        given.add(vectors.free(client))
        assert vectors.free(client) in given
        vectors.settle()
    assert given == {0}


def before(
    stem: str, slots: list[int], contact: list[int] | None = None
) -> dict[str, np.ndarray]:
    """Return what checkpoints used to hold."""
    digests = np.repeat(np.arange(len(slots), dtype=np.uint8)[:, None], 8, axis=1)
    found = {f"{stem}.slots": np.array(slots, np.int8), f"{stem}.digests": digests}
    return (
        found
        if contact is None
        else found | {f"{stem}.contact": np.array(contact, np.int32)}
    )


@pytest.mark.parametrize("contact", [None, ([1, 0, 2], [1, 0, 4])])
def test_checkpoints_with_an_array_of_all_clients_are_taken_over(contact, tmp_path):
    """Client 0 was asked before both of them, client 1 never, client 2 before each."""
    file = np.zeros((3, SLOTS, 2), np.float32)
    file[0, 1], file[2, 0], file[2, 2] = 5.0, 6.0, 7.0
    (tmp_path / "copies.f32").write_bytes(file.tobytes())
    vectors = ClientVectors(tmp_path / "copies.f32", 3, 2)
    older, saved = (
        before("copies", slots, contact and contact[at])
        for at, slots in enumerate(([1, NONE, 0], [1, NONE, 2]))
    )
    vectors.recall(saved, older)
    assert [get(vectors, client) for client in range(3)] == [{5.0}, set(), {7.0}]
    assert vectors.newest(2)[1] == bytes([2] * 8)
    for client in range(3):
        put(vectors, client, 8.0 + client)
    new = vectors.sync()
    vectors.checkpointed()
    put(vectors, 2, 9.0)
    vectors.close()
    again = ClientVectors(tmp_path / "copies.f32", 3, 2)
    again.recall(new)
    assert [get(again, client) for client in range(3)] == [{8.0}, {9.0}, {10.0}]
    again.recall(saved, older)  # the newest checkpoint was damaged
    assert [get(again, client) for client in range(3)] == [{5.0}, set(), {7.0}]
    again.recall(older)
    assert get(again, 2) == {6.0}
    again.close()


def test_a_lost_database_is_an_error_that_names_it(tmp_path):
    vectors = ClientVectors(tmp_path / "copies.f32", 3, 2)
    put(vectors, 0, 1.0)
    saved = vectors.sync()
    vectors.close()
    (tmp_path / "copies.sqlite").unlink()
    again = ClientVectors(tmp_path / "copies.f32", 3, 2)
    with pytest.raises(
        RecordError, match=r"copies\.sqlite is not what the checkpoint was made with"
    ):
        again.recall(saved)
    again.close()


def test_a_damaged_database_is_an_error_that_names_it(tmp_path):
    vectors = ClientVectors(tmp_path / "copies.f32", 3, 2)
    put(vectors, 0, 1.0)
    saved = vectors.sync()
    vectors.close()
    (tmp_path / "copies.sqlite").write_bytes(b"no database at all " * 1000)
    again = ClientVectors(tmp_path / "copies.f32", 3, 2)
    with pytest.raises(RecordError, match=r"copies\.sqlite"):
        again.recall(saved)
    again.close()


def test_what_is_held_until_a_checkpoint_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("fedlearn.memory.versions.HELD_BYTES", 2_000)
    vectors = ClientVectors(tmp_path / "copies.f32", 1000, 1)
    for value in (1.0, 2.0):
        for client in range(100):
            put(vectors, client, value + client)
        assert len(vectors.versions._rows) < 12
        saved = vectors.sync()
        vectors.checkpointed()
    shutil.copytree(tmp_path, tmp_path.parent / "copy")
    again = ClientVectors(tmp_path.parent / "copy" / "copies.f32", 1000, 1)
    again.recall(saved)
    assert [get(again, client) for client in range(100)] == [
        {2.0 + client} for client in range(100)
    ]
    again.close()
    vectors.close()


def test_a_file_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"copies\.f32"):
        ClientVectors(tmp_path / "file" / "copies.f32", 1, 1)
