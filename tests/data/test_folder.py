"""``name = "dir"``: IDX folders, LEAF folders and npz files of the user's, sound and damaged."""

import gzip
import json
import struct

import numpy as np
import pytest

from fedlearn.data.folder import folder
from fedlearn.data.idx import parse_idx
from fedlearn.data.registry import population
from fedlearn.data.samples import IGNORE
from fedlearn.errors import ConfigError, DataError


def idx(array):
    return (
        struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        + array.astype(np.uint8).tobytes()
    )


def write_idx(place, end="", train=6, test=4, labels=None):
    place.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        images = np.arange(count * 9).reshape(count, 3, 3)
        for name, array in (
            ("images-idx3", images),
            ("labels-idx1", np.arange(labels or count) % 3),
        ):
            data = idx(array)
            (place / f"{part}-{name}-ubyte{end}").write_bytes(
                gzip.compress(data) if end else data
            )
    return place


@pytest.mark.parametrize(
    ("below", "end"), [("", ""), ("", ".gz"), ("raw", ""), ("MNIST/raw", ".gz")]
)
def test_idx_in_torchvisions_places(tmp_path, below, end):
    write_idx(tmp_path / below, end)
    data = folder(str(tmp_path))
    assert (data.modality, data.classes, data.input_shape) == ("image", 3, (1, 3, 3))
    assert data.train.x[1, 0].tolist() == [[9, 10, 11], [12, 13, 14], [15, 16, 17]]
    assert data.test.y.tolist() == [0, 1, 2, 0]
    assert (
        len(population("dir", {"path": str(tmp_path)}, {"clients": 3}, 0).clients) == 3
    )


GOOD = idx(np.arange(6).reshape(2, 3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not start with two zero bytes"),
        (b"PK\x03\x04", "does not start with two zero bytes"),
        (b"\0\0\x0d\x02" + GOOD[4:], "IDX type 0x0d"),
        (GOOD[:7], "cut off within its header"),
        (GOOD[:-1], r"says shape \(2, 3\) = 6 bytes, but 5 follow"),
        (GOOD + b"x", "but 7 follow"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "but 0 follow"),
        (b"\0\0\x08\0", "cut off within its header"),
    ],
)
def test_damaged_idx(data, message):
    with pytest.raises(DataError, match=message):
        parse_idx(data, "f")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda p: (p / "t10k-labels-idx1-ubyte.gz").unlink(),
            "has no t10k-labels-idx1-ubyte",
        ),
        (
            lambda p: (p / "train-images-idx3-ubyte.gz").write_bytes(b"junk"),
            "train-images-idx3-ubyte.gz cannot be read",
        ),
        (
            lambda p: (p / "train-images-idx3-ubyte.gz").write_bytes(
                gzip.compress(GOOD)[:-9]
            ),
            "ubyte.gz cannot be read",
        ),
        (
            lambda p: (p / "train-images-idx3-ubyte.gz").write_bytes(
                gzip.compress(GOOD)
            ),
            "2 dimensions instead of 3",
        ),
        (lambda p: write_idx(p, ".gz", labels=5), "train has 6 images and 5 labels"),
        (lambda p: write_idx(p, ".gz", test=0), "x_test is empty"),
    ],
)
def test_damaged_idx_folders(tmp_path, damage, message):
    damage(write_idx(tmp_path, ".gz"))
    with pytest.raises(DataError, match=message):
        folder(str(tmp_path))


def test_a_gzip_stream_without_end_is_cut_short(tmp_path, monkeypatch):
    monkeypatch.setattr("fedlearn.data.idx.LIMIT_BYTES", 50)
    write_idx(tmp_path, ".gz")
    with pytest.raises(DataError, match="holds more than 50 bytes"):
        folder(str(tmp_path))


def write_leaf(place, train, test):
    for part, users in (("train", train), ("test", test)):
        (place / part).mkdir(parents=True, exist_ok=True)
        data = {
            "users": list(users),
            "num_samples": [len(own["y"]) for own in users.values()],
            "user_data": users,
        }
        (place / part / "all_data.json").write_text(json.dumps(data))
    return place


def test_leaf_pictures_have_their_users_as_clients(tmp_path):
    white, black = [1.0] * 784, [0.0] * 784
    train = {"zoe": {"x": [white, black], "y": [1, 0]}, "abe": {"x": [white], "y": [2]}}
    found = population(
        "dir",
        {"path": str(write_leaf(tmp_path, train, {"abe": {"x": [black], "y": [0]}}))},
        {},
        0,
    )
    assert (found.modality, found.input_shape, found.classes) == (
        "image",
        (1, 28, 28),
        3,
    )
    assert [found.clients[k].y.tolist() for k in range(2)] == [[2], [1, 0]]  # abe, zoe
    assert (found.clients[1].x[0] == 255).all()
    assert found.test.x.max() == 0


def test_leaf_features_and_the_shape_option(tmp_path):
    own = {"u": {"x": [[0.5, 0.25, 1, 0]] * 2, "y": [0, 1]}}
    write_leaf(tmp_path, own, own)
    assert folder(str(tmp_path)).modality == "features"
    assert folder(str(tmp_path), shape=[1, 2, 2]).train.x[0].tolist() == [
        [[128, 64], [255, 0]]
    ]
    with pytest.raises(DataError, match=r"shape = \[3, 2, 2\] does not fit"):
        folder(str(tmp_path), shape=[3, 2, 2])
    with pytest.raises(ConfigError, match="must be a list of whole numbers"):
        population("dir", {"path": str(tmp_path), "shape": "1x2x2"}, {}, 0)


def test_leaf_text_predicts_the_next_character_only(tmp_path):
    own = {
        "HAMLET": {"x": ["To b", "o be"], "y": ["e", ","]},
        "GHOST": {"x": ["mark"], "y": [" "]},
    }
    data = folder(str(write_leaf(tmp_path, own, own)))
    assert (data.modality, data.classes, data.input_shape) == ("text", 256, (4,))
    assert data.train.x[0].tobytes() == b"To b"
    assert data.train.y[0].tolist() == [IGNORE] * 3 + [ord("e")]
    assert data.ids["client"].tolist() == [1, 1, 0]


ONE = {
    "users": ["u"],
    "num_samples": [1],
    "user_data": {"u": {"x": [[1.5, 2]], "y": [0]}},
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "it has no list 'users'"),
        (json.dumps({**ONE, "num_samples": []}), "must cover all of 'users'"),
        (json.dumps({**ONE, "user_data": {}}), "user 'u' has no lists"),
        (
            json.dumps({**ONE, "num_samples": [2]}),
            "has 1 x and 1 y, but 'num_samples' says 2",
        ),
        (
            json.dumps({**ONE, "user_data": {"u": {"x": [["a"]], "y": [0]}}}),
            "lists of numbers of one length",
        ),
        (
            json.dumps({**ONE, "user_data": {"u": {"x": [[1, 2]], "y": [0.5]}}}),
            "y must be whole numbers",
        ),
        (
            json.dumps({**ONE, "user_data": {"u": {"x": ["ab"], "y": ["long"]}}}),
            "every y one character",
        ),
        (
            json.dumps(
                {**ONE, "user_data": {"u": {"x": [[1, float("nan")]], "y": [0]}}}
            ),
            "NaN or infinity",
        ),
        (
            json.dumps({**ONE, "user_data": {"u": {"x": [[1, 2, 3]], "y": [0]}}}),
            r"shape \(3,\), x_test of \(2,\)",
        ),
    ],
)
def test_damaged_leaf(tmp_path, content, message):
    write_leaf(tmp_path, ONE["user_data"], ONE["user_data"])
    (tmp_path / "train" / "all_data.json").write_text(content)
    with pytest.raises(DataError, match=message):
        folder(str(tmp_path))


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
    found = population("dir", {"path": str(tmp_path / "own.npz")}, {}, 0)
    assert (found.modality, [found.clients.size(k) for k in range(2)]) == (
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
    with pytest.raises(DataError, match="allow_pickle=False"):
        folder(str(tmp_path / "own.npz"))


def test_places_that_hold_nothing(tmp_path):
    with pytest.raises(DataError, match="there is no such folder or file"):
        folder(str(tmp_path / "none"))
    with pytest.raises(DataError, match="holds neither train-images-idx3-ubyte"):
        folder(str(tmp_path))
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"holds no \.json file"):
        folder(str(tmp_path))
    with pytest.raises(ConfigError, match="needs the option 'path'"):
        population("dir", {}, {}, 0)
    with pytest.raises(ConfigError, match="takes no option 'synthetic'"):
        population("dir", {"path": "x", "synthetic": True}, {}, 0)
