"""A user's own loader: what it may return, and one clear sentence for what it may not."""

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedlearn.data.own import checked, dataset, samples_of
from fedlearn.data.partition import Partition, Partitioned
from fedlearn.data.registry import population
from fedlearn.data.samples import Dataset, Population, Samples
from fedlearn.errors import ConfigError, DataError

Y = np.array([0, 1, 2, 1])


def own(x, y=Y, x_test=None, y_test=None, *ids):
    return checked(
        "own",
        (x, y, x if x_test is None else x_test, y if y_test is None else y_test, *ids),
    )


@pytest.mark.parametrize(
    ("x", "modality", "shape", "dtype"),
    [
        (np.zeros((4, 3, 8, 8), np.uint8), "image", (3, 8, 8), np.uint8),
        (np.zeros((4, 8, 8), np.uint8), "image", (1, 8, 8), np.uint8),
        (np.full((4, 1, 8, 8), 0.5), "image", (1, 8, 8), np.uint8),
        (np.zeros((4, 9, 2)), "series", (9, 2), np.float32),
        (np.zeros((4, 5)), "features", (5,), np.float32),
        (np.zeros((4, 5), np.int64), "features", (5,), np.float32),
        # Channels stand first however many there are; 13 of a satellite, for example.
        (np.zeros((4, 13, 8, 8)), "image", (13, 8, 8), np.uint8),
        (np.zeros((4, 64, 8, 7), np.uint8), "image", (64, 8, 7), np.uint8),
        (np.zeros((4, 7, 7)), "image", (1, 7, 7), np.uint8),
        (np.zeros((4, 7, 7)) - 0.1, "series", (7, 7), np.float32),
        (np.zeros((4, 7, 7), bool), "image", (1, 7, 7), np.uint8),
    ],
)
def test_the_modality_is_told_from_the_shape(x, modality, shape, dtype):
    data = own(x)
    assert (data.modality, data.input_shape, data.train.x.dtype, data.classes) == (
        modality,
        shape,
        dtype,
        3,
    )
    assert data.train.y.dtype == np.int64


def test_float_pictures_are_scaled_and_text_is_kept():
    assert own(np.full((4, 1, 2, 2), 0.2)).train.x.max() == 51
    text = np.full((4, 5), 65, np.uint8)
    data = own(text, text.astype(np.int32))
    assert (data.modality, data.classes, data.train.y.dtype) == ("text", 256, np.int16)


X = np.zeros((4, 5))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "returned a str; return a fedlearn Dataset"),
        ((X, Y), r"returned a tuple of 2 \(ndarray, ndarray\); return"),
        (({"a": 1}, Y, X, Y), "x_train is a dict, not a numpy array"),
        (([[1, 2], [3]], Y, X, Y), "x_train is a list that is no array"),
        ((np.array([[None]], object), Y, X, Y), "x_train has dtype object"),
        ((np.ma.masked_equal(X + Y[:, None], 2), Y, X, Y), "x_train is a masked array"),
        ((X, Y, X, np.ma.masked_equal(Y, 2)), "y_test is a masked array"),
        ((X[:0], Y[:0], X, Y), "x_train is empty"),
        ((X, Y[:3], X, Y), "x_train has 4 samples, y_train has 3 labels"),
        (
            (X, Y * 0.5, X, Y),
            "y_train is float64 with 0.5 among.* learns no regression",
        ),
        ((X, Y * np.nan, X, Y), r"y_train\[0\] is NaN or infinite"),
        ((X, Y - 1, X, Y), "labels from -1 to 1; they must count from 0"),
        # Prices, for example: to number them would make a class of each.
        ((X, Y + 2e6, X, Y), "from 2000000 to 2000002.* quantity is no class"),
        ((X, np.array(list("abca")), X, Y), r"<U1; numbers are needed; numpy.unique"),
        ((X, np.eye(4), X, Y), r"y_train has shape \(4, 4\).* y.argmax\(axis=1\)$"),
        ((X, np.eye(4) / 2, X, Y), r"has shape \(4, 4\).* learns no regression$"),
        ((X, Y, np.where(np.eye(4, 5) > 0, np.nan, X), Y), r"x_test\[0\] holds NaN"),
        ((X, Y, np.zeros((4, 6)), Y), r"shape \(5,\), x_test of \(6,\)"),
        ((np.zeros(4), Y, X, Y), "known are"),
        (
            (np.zeros((4, 8, 8, 3), np.uint8), Y, X, Y),
            r"channels last; use x.transpose\(0, 3, 1, 2\)",
        ),
        ((np.zeros((4, 24, 16, 5)), Y, X, Y), "channels last"),
        ((np.zeros((4, 64, 64, 13), np.uint8), Y, X, Y), "channels last"),
        (
            (
                X.astype(np.uint8),
                np.full((4, 5), 7),
                X.astype(np.uint8),
                np.full((4, 5), -100),
            ),
            r"y_test is padding \(-100\) throughout",
        ),
        (
            (np.full((4, 1, 2, 2), 7.0), Y, X, Y),
            "from 7 to 7; images are uint8, or floats from 0 to 1",
        ),
        ((X, Y, X, Y, [1, 2]), r"client_ids is int64 \(2,\)"),
        (
            (X.astype(np.uint8), np.full((4, 5), 300), X, Y),
            "must be next bytes 0 to 255",
        ),
    ],
)
def test_what_cannot_be_used(value, message):
    with pytest.raises(DataError, match=message) as caught:
        checked("own", value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 2}, "has label 2, but classes = 2"),
        ({"input_shape": (9,)}, r"input_shape says \(9,\)"),
        ({"labels": Y[:2]}, "column 'labels'"),
        ({"ids": {"client": Y * 0.5}}, "column 'client'"),
        ({"modality": "image"}, "images are"),
    ],
)
def test_a_dataset_whose_parts_do_not_fit(change, message):
    data = own(X)
    again: Any = checked("own", data)
    assert again.train.x is data.train.x
    with pytest.raises(DataError, match=message):
        checked("own", replace(data, **change))


def test_a_loader_by_import_path(monkeypatch):
    def load(size, seed):
        x = np.random.default_rng(seed).normal(size=(size, 3))
        return x, np.arange(size) % 2, x, np.arange(size) % 2, np.arange(size) // 4

    def people():
        data: Dataset = own(X)
        return Population(
            "p",
            "features",
            3,
            (5,),
            Partitioned(data.train, Partition.from_owners(Y, 3)),
            data.test,
        )

    empty = SimpleNamespace(load=load, people=people, broken=lambda: 3)
    monkeypatch.setitem(sys.modules, "own_data", empty)
    found = population("own_data:load", {"size": 12}, {}, 5)
    assert [found.clients.size(k) for k in range(3)] == [4, 4, 4]
    assert (
        len(
            population(
                "own_data:load", {"size": 12}, {"kind": "iid", "clients": 6}, 5
            ).clients
        )
        == 6
    )
    with pytest.raises(
        ConfigError, match=r"takes no option 'sise'\. Did you mean 'size'"
    ):
        population("own_data:load", {"sise": 12}, {}, 0)
    assert len(population("own_data:people", {}, {}, 0).clients) == 3
    with pytest.raises(
        ConfigError, match=r"brings its own clients: remove \[data.partition\] \(kind\)"
    ):
        population("own_data:people", {}, {"kind": "iid"}, 0)
    with pytest.raises(DataError, match="'own_data:broken' returned a int"):
        population("own_data:broken", {}, {}, 0)


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(
        ConfigError,
        match=r"unknown data set 'fashion-mimi'\. Did you mean 'fashion-mini'",
    ):
        population("fashion-mimi", {}, {}, 0)
    with pytest.raises(ConfigError, match="takes no option 'size'"):
        population("digits", {"size": 3}, {}, 0)


def test_what_numpy_makes_an_array_of_is_taken():
    import torch

    class Table:
        """What pandas' tables and columns offer."""

        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self.values, dtype)

    expected = own(X + 0.5)
    for wrap in (
        torch.tensor,
        np.ndarray.tolist,
        Table,
        lambda a: Table(a.astype(object)),
    ):
        parts = [wrap(part) for part in (X + 0.5, Y, X, Y, Y)]
        data: Any = checked("own", tuple(parts))
        assert (data.train.x == expected.train.x).all()
        assert data.train.y.tolist() == data.ids["client"].tolist() == Y.tolist()


@pytest.mark.parametrize(
    "y", [Y.astype(float), Y[:, None], Y.astype(object), Y.astype(np.uint8)]
)
def test_whole_labels_of_any_type(y):
    assert own(X, y).train.y.tolist() == Y.tolist()
    assert own(X, Y > 0).classes == 2


DARK = np.zeros((4, 1, 6, 6), np.uint8)
SHADES = np.tile(np.arange(36, dtype=np.uint8).reshape(6, 6), (4, 1, 1, 1))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: own(X, Y + 40), "3 of the classes 0 to 42 have samples"),
        (lambda: own(X, Y * 0 + 1, X, Y * 0 + 1), "y_train: every label is class 1"),
        (lambda: own(X, Y, X, Y * 0), "y_test: every label is class 0"),
        (lambda: own(X, Y, X, Y + 1), "y_test has the class 3, of which y_train"),
        (lambda: own(DARK + 1), "its largest value is 1 of 255"),
        (lambda: own(SHADES[:, 0] / 35.0), "read as grey pictures of 256 shades"),
        (lambda: own(np.tile(SHADES, (1, 6, 1, 2)) * 7), "6 channels of 6×12"),
    ],
)
def test_what_may_be_meant_is_told(data, words):
    notes = data().notes
    assert any(words in note for note in notes), notes
    # A set that a user's loader made with `fedlearn.dataset` keeps them.
    assert checked("own", data()).notes == notes


def test_ordinary_sets_have_no_notes():
    assert own(X).notes == own(SHADES * 7).notes == ()


def test_whoever_states_the_classes_is_not_told_of_gaps():
    data = dataset("own", X, Y + 40, X, Y + 40, classes=50)
    assert (data.classes, data.notes) == (50, ())
    with pytest.raises(DataError, match="has the label 42, but classes = 42"):
        dataset("own", X, Y + 40, X, Y + 40, classes=42)


def test_the_config_states_the_classes_of_any_loader(monkeypatch):
    arrays = (X, Y, X, Y)
    own_data = SimpleNamespace(
        arrays=lambda: arrays,
        data=lambda: dataset("own", *arrays),
        takes=lambda classes: (X, Y % classes, X, Y % classes),
    )
    monkeypatch.setitem(sys.modules, "own_data", own_data)
    shares = {"clients": 2}
    for loader in ("arrays", "data"):
        name = f"own_data:{loader}"
        assert population(name, {"classes": 9}, shares, 0).classes == 9
        with pytest.raises(DataError, match="label 2, but classes = 2"):
            population(name, {"classes": 2}, shares, 0)
    with pytest.raises(ConfigError, match="classes = 'ten' is not a whole number"):
        population("own_data:arrays", {"classes": "ten"}, shares, 0)
    # A loader with an argument of the name has it.
    assert population("own_data:takes", {"classes": 2}, shares, 0).classes == 2


class Lazy:
    """Clients whose samples are made when they are asked for; client 1's are wrong."""

    def __init__(self, wrong):
        self.wrong = wrong

    def __len__(self):
        return 3

    def size(self, client):
        return 4

    def __getitem__(self, client):
        good = Samples(X + np.arange(5), Y)
        return self.wrong if client == 1 else good


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Samples(X + 1e200, Y), r"own, client 1: x_own\[0\] holds NaN or infinity"),
        (Samples(np.ma.masked_equal(X, 0), Y), "own, client 1: own.x is a masked"),
        (Samples(X, Y + 1), "own.y has label 3, but classes = 3"),
        (Samples(X[:, :4], Y), r"input_shape says \(5,\)"),
        (
            Samples(10**18 + np.arange(20).reshape(4, 5), Y),
            "x_own has 4 distinct values in column 0, of which float32 keeps 1",
        ),
        ((X, Y), "own, client 1 gives a tuple"),
    ],
)
def test_the_gate_stands_before_a_populations_clients(wrong, message):
    test = Samples(X.astype(np.float32), Y)
    source = Population("lazy", "features", 3, (5,), Lazy(wrong), test)
    population: Any = checked("own", source)
    assert population.clients[0].x.dtype == np.float32
    assert (len(population.clients), population.clients.size(2)) == (3, 4)
    with pytest.raises(DataError, match=message):
        population.clients[1]


def test_a_populations_held_out_part_and_partition_are_cast():
    train = Samples(X, Y)
    clients = Partitioned(train, Partition.from_owners(Y, 3))
    source = Population("p", "features", 3, (5,), clients, Samples(X, Y.astype(float)))
    population: Any = checked("own", source)
    assert population.test.y.dtype == np.int64
    assert population.clients[0].x.dtype == np.float32
    bad = replace(source, clients=replace(clients, train=Samples(X * np.nan, Y)))
    with pytest.raises(DataError, match=r"x_train\[0\] holds NaN"):
        checked("own", bad)


def test_an_agents_own_samples_go_through_the_gate(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, x=X + 1e39, y=Y)
    with pytest.raises(DataError, match=r"x_own\[0\] holds NaN or infinity"):
        samples_of(str(path), "features", 3, (5,))
    np.savez(path, x=SHADES[:, 0] * 7 / 255, y=Y.astype(float))
    samples = samples_of(str(path), "image", 3, (1, 6, 6))
    assert (samples.x == SHADES * 7).all()
    assert samples.y.tolist() == Y.tolist()


SOURCES = {
    "at_import": "X = draw()\ndef load():\n    return X",
    "when_called": "def load():\n    return draw()",
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize(
    "draw",
    [
        "__import__('random').random()",
        "__import__('numpy').random.rand()",
        "__import__('torch').rand(1).item()",
    ],
)
def test_a_loader_that_draws_gives_the_same_at_each_start(
    source, draw, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    text = f"""
import numpy as np
def draw():
    x = np.full((4, 2), {draw})
    return x, np.arange(4) % 2, x, np.arange(4) % 2
{source}
"""
    (tmp_path / "loader_of_chance.py").write_text(text)
    values = []
    for _ in range(2):
        monkeypatch.delitem(sys.modules, "loader_of_chance", raising=False)
        population_ = population("loader_of_chance:load", {}, {"clients": 2}, 3)
        values.append(population_.test.x.tolist())
    assert values[0] == values[1]


def test_clients_whose_samples_are_new_at_each_reading_are_told_of():
    class Restless(Lazy):
        def __getitem__(self, client):
            x = np.random.default_rng().normal(size=X.shape)
            return Samples(x, Y)

    test = Samples(X.astype(np.float32), Y)
    source = Population("p", "features", 3, (5,), Restless(None), test)
    assert "other samples each time" in checked("own", source).notes[0]
