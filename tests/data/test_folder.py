"""``name = "dir"``: IDX folders and LEAF folders of the user's, sound and damaged."""

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
            "train-images-idx3-ubyte.gz is not an IDX file",
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
    people = population(
        "dir",
        {"path": str(write_leaf(tmp_path, train, {"abe": {"x": [black], "y": [0]}}))},
        {},
        0,
    )
    assert (people.modality, people.input_shape, people.classes) == (
        "image",
        (1, 28, 28),
        3,
    )
    assert [people.clients[k].y.tolist() for k in range(2)] == [[2], [1, 0]]  # abe, zoe
    assert (people.clients[1].x[0] == 255).all()
    assert people.test.x.max() == 0


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
            "x is 'ab' and y is 'long'; text needs the next character as y",
        ),
        (
            json.dumps({**ONE, "user_data": {"u": {"x": ["7.png"], "y": [3]}}}),
            "x is '7.png' and y is '3'.* files that x may name are not read",
        ),
        (
            json.dumps({**ONE, "user_data": {"u": {"x": [["a tweet"]], "y": [1]}}}),
            "it has 'a tweet', and words or sentences are not learned from",
        ),
        (
            json.dumps({**ONE, "user_data": {"u": {"x": [[10**400]], "y": [1]}}}),
            "lists of numbers of one length",
        ),
        (
            json.dumps({**ONE, "user_data": {"u": {"x": [[-1e60, 2]], "y": [1]}}}),
            r"x\[0\] holds NaN or infinity; float32 ends at",
        ),
        (
            json.dumps({**ONE, "user_data": {"u": {"x": [[1, 2]], "y": [{}]}}}),
            "y must be lists of numbers",
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


def test_leaf_as_fedprox_writes_it(tmp_path):
    # Its generator has labels as floats; other sets number their users.
    own = {
        "0": {"x": [[1.5, -2.0]] * 2, "y": [1.0, 0.0]},
        "1": {"x": [[0, 3]], "y": [2.0]},
    }
    write_leaf(tmp_path, own, own)
    path = tmp_path / "train" / "all_data.json"
    path.write_text(path.read_text().replace('["0", "1"]', "[0, 1]"))
    data = folder(str(tmp_path))
    assert (data.modality, data.classes) == ("features", 3)
    assert data.train.y.tolist() == [1, 0, 2]
    assert data.ids["client"].tolist() == [0, 0, 1]
    assert data.notes == ()
    assert folder(str(tmp_path), classes=7).classes == 7


def test_characters_beyond_latin_1_stay_apart(tmp_path):
    lines = ["“a”", "‘a’", "你好吗", "é\x00ü", "aß\x80"]
    own = {"u": {"x": lines, "y": ["”", "’", "吗", "\x00", "\x80"]}}
    write_leaf(tmp_path, own, {"v": {"x": ["—a—"], "y": ["—"]}})
    data = folder(str(tmp_path))
    # Latin-1 keeps its bytes, and 0 is padding.
    assert data.train.x[4].tolist() == [97, 223, 128]
    assert data.train.x.min() > 0
    letters = "".join(lines) + "—a—"
    seen = np.concatenate([data.train.x.ravel(), data.test.x.ravel()])
    pairs = set(zip(letters, seen.tolist(), strict=True))
    assert len(pairs) == len(set(letters)) == len(set(seen.tolist()))
    assert (data.train.y[:, -1] == data.train.x[:, -1])[[0, 1, 2, 4]].all()
    assert "U+2019" in data.notes[0]


def test_more_characters_than_bytes_are_refused(tmp_path):
    own = {"u": {"x": [chr(0x4E00 + k) for k in range(300)], "y": ["a"] * 300}}
    write_leaf(tmp_path, own, own)
    with pytest.raises(DataError, match=r"301 distinct characters.*such as U\+4E00"):
        folder(str(tmp_path))


def rename_idx(place, names):
    for name in names:
        first, _, last = name.partition("=")
        for path in place.iterdir():
            path.rename(path.with_name(path.name.replace(first, last)))
    return place


@pytest.mark.parametrize(
    "names",
    [
        ["-idx=.idx"],
        ["train-=emnist-letters-train-", "t10k-=emnist-letters-test-"],
        ["t10k=test", "-idx=.idx"],
        # Some browsers unpack what they fetch, and keep the name.
        ["ubyte=ubyte.gz"],
    ],
)
def test_idx_under_the_names_that_people_have(tmp_path, names):
    data = folder(str(rename_idx(write_idx(tmp_path), names)))
    assert (len(data.train), len(data.test), data.classes) == (6, 4, 3)


def test_gzipped_idx_under_a_plain_name(tmp_path):
    rename_idx(write_idx(tmp_path, ".gz"), [".gz="])
    assert len(folder(str(tmp_path)).train) == 6


def test_several_idx_sets_in_one_folder_are_named(tmp_path):
    rename_idx(write_idx(tmp_path), ["train-=a-train-", "t10k-=a-test-"])
    (tmp_path / "b-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"several sets \(a, b\); keep the files of one"
    ):
        folder(str(tmp_path))
    # Those of MNIST's own names win.
    write_idx(tmp_path)
    assert len(folder(str(tmp_path)).train) == 6


@pytest.mark.parametrize("below", ["train/cat", "dog"])
def test_folders_of_picture_files_are_no_leaf(tmp_path, below):
    (tmp_path / below).mkdir(parents=True)
    (tmp_path / below / "1.JPG").write_bytes(b"")
    with pytest.raises(DataError, match="holds folders of picture files"):
        folder(str(tmp_path))


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
