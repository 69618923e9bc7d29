"""A user's npz file, whatever else it holds, and other files in its place."""

import gzip
import pickle
from typing import Any

import numpy as np
import pytest

from fedlearn.data.folder import folder
from fedlearn.data.own import samples_of
from fedlearn.data.registry import population
from fedlearn.errors import DataError


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n", "is text, such as CSV or JSON, and no npz archive"),
        ("größe;wert\n".encode(), "is text"),
        (pickle.dumps({"x": 1}), "is a pickle, which is never read as it can run code"),
        (pickle.dumps([1], protocol=0), "no npz archive"),
        (gzip.compress(b"x", mtime=0), "is compressed by gzip"),
        (b"PAR1\x15\x04", "is a Parquet file"),
        (b"", "is empty"),
        (b"\x00\x01\x02\x03\x04", "begins with 00 01 02 03"),
    ],
)
def test_other_files_in_the_place_of_an_npz(tmp_path, content, words):
    path = tmp_path / "data.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        folder(str(path))
    text = str(caught.value)
    assert "my_data:load" in text
    assert "allow_pickle" not in text and "unsafe" not in text
    for source in (path, path.with_suffix(".npz")):
        source.write_bytes(content)
        with pytest.raises(DataError, match=words):
            samples_of(str(source), "features", 2, (3,))


NPZ: dict[str, Any] = {
    "x_train": np.arange(12.0).reshape(4, 3),
    "y_train": np.array([0, 1, 1, 0]),
    "x_test": np.arange(12.0).reshape(4, 3),
    "y_test": np.array([0, 1, 1, 0]),
}
OBJECTS = np.array([{}, None, print, 1], object)


@pytest.mark.parametrize(
    "key",
    ["client_train", "client_ids", "owner", "Users", "subject_id", "train_client"],
)
def test_owners_in_an_npz_under_any_name(tmp_path, key):
    path = tmp_path / "own.npz"
    arrays: dict[str, Any] = {**NPZ, key: np.array(["b", "a", "b", "b"])}
    np.savez(path, **arrays)
    data = folder(str(path))
    assert data.ids["client"].tolist() == [1, 0, 1, 1]
    assert [key in note for note in data.notes] == [True] * (key != "client_train")


def test_an_npz_with_arrays_that_a_set_does_not_need(tmp_path):
    path = tmp_path / "own.npz"
    more: dict[str, Any] = {
        "class_names": OBJECTS,
        "users": np.array(["a", "b"]),
        "owner": NPZ["y_train"],
    }
    np.savez(path, **NPZ, **more)
    data = folder(str(path))
    assert data.ids["client"].tolist() == [0, 1, 1, 0]
    assert "not used: 'class_names', 'users'" in data.notes[-1]


@pytest.mark.parametrize("key", ["y_test", "client_train", "owners"])
def test_an_npz_whose_needed_array_is_pickled_is_named(tmp_path, key):
    path = tmp_path / "own.npz"
    np.savez(path, **{**NPZ, key: OBJECTS})
    with pytest.raises(DataError, match=f"array '{key}' holds Python objects"):
        folder(str(path))


def test_a_users_npz(tmp_path):
    x, y = np.zeros((4, 3)), np.array([0, 1, 1, 0])
    np.savez(
        tmp_path / "own.npz",
        x_train=x,
        y_train=y,
        x_test=x,
        y_test=y,
        client_train=np.array(["b", "a", "b", "b"]),
    )
    people = population("dir", {"path": str(tmp_path / "own.npz")}, {}, 0)
    assert (people.modality, [people.clients.size(k) for k in range(2)]) == (
        "features",
        [1, 3],
    )
    np.savez(tmp_path / "part.npz", x_train=x)
    with pytest.raises(DataError, match=r"has no array 'y_train' \(it has: x_train\)"):
        folder(str(tmp_path / "part.npz"))
    np.save(tmp_path / "one.npy", x)
    with pytest.raises(DataError, match="holds a single array"):
        folder(str(tmp_path / "one.npy"))


def test_an_npz_of_pickles_is_refused_unread(tmp_path):
    objects = np.array([print, {}], dtype=object)
    np.savez(
        tmp_path / "own.npz",
        x_train=objects,
        y_train=objects,
        x_test=objects,
        y_test=objects,
    )
    with pytest.raises(DataError, match="array 'x_train' holds Python objects, which"):
        folder(str(tmp_path / "own.npz"))


def test_an_agents_data_that_are_neither_a_file_nor_an_import_path(tmp_path):
    with pytest.raises(DataError, match=r"does not exist: .* or 'my_data:load'"):
        samples_of(str(tmp_path / "readings.csv"), "features", 2, (3,))
    with pytest.raises(DataError, match=r"Is a directory.*: an agent's own data are"):
        samples_of(str(tmp_path), "features", 2, (3,))


def test_an_agents_npz_may_hold_more(tmp_path):
    np.savez(tmp_path / "a.npz", x=NPZ["x_train"], y=NPZ["y_train"], names=OBJECTS)
    assert len(samples_of(str(tmp_path / "a.npz"), "features", 2, (3,))) == 4
