"""Checkpoints: the newest whole one counts."""

import numpy as np
import pytest

from fedlearn.arrays import State
from fedlearn.records.writing import RunFolder
from fedlearn.runs import checkpoint


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for round in (1, 2, 3):
        model = State(np.full(4, round, np.float32), np.array([round]))
        checkpoint.write(
            folder,
            checkpoint.Checkpoint(
                round, model, {"k": [round]}, {"memory.0": np.ones((2, 2)) * round}
            ),
        )
    yield folder
    folder.close()


def files(folder):
    return sorted((folder.path / "checkpoint").iterdir())


def test_the_last_two_are_kept_and_the_newest_is_read(folder):
    assert [f.name for f in files(folder)] == [
        "00000002.safetensors",
        "00000003.safetensors",
    ]
    found = checkpoint.whole(folder.path)[0]
    assert found is not None
    assert (
        found.round,
        found.memory,
        found.model.floats.tolist(),
        found.model.integers.tolist(),
    ) == (3, {"k": [3]}, [3] * 4, [3])
    assert found.arrays["memory.0"].tolist() == [[3, 3], [3, 3]]


def test_a_damaged_newest_is_passed_over(folder):
    whole = files(folder)[-1].read_bytes()
    for damaged in (
        *(whole[:n] for n in range(0, len(whole), 23)),
        whole[:-1] + bytes([whole[-1] ^ 1]),
        whole.replace(b'\\"round\\": 3', b'\\"round\\": 9'),
    ):
        files(folder)[-1].write_bytes(damaged)
        found = checkpoint.whole(folder.path)[0]
        assert found is not None and found.round == 2


def test_none_is_none(tmp_path):
    assert checkpoint.whole(tmp_path) == []
