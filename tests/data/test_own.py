"""A user's own loader: what it may return, and one clear sentence for what it may not."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fedlearn.data.own import checked
from fedlearn.data.partition import Partition, Partitioned
from fedlearn.data.registry import population
from fedlearn.data.samples import Dataset, Population
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
        ((X, Y), "returned a tuple"),
        ((X.tolist(), Y, X, Y), "x_train is a list, not a numpy array"),
        ((X.astype(object), Y, X, Y), "x_train has dtype object"),
        ((X[:0], Y[:0], X, Y), "x_train is empty"),
        ((X, Y[:3], X, Y), "x_train has 4 samples, y_train has 3 labels"),
        ((X, Y * 0.5, X, Y), "y_train is float64; labels are whole numbers"),
        ((X, Y - 1, X, Y), "labels from -1 to 1; they must count from 0"),
        ((X, Y[:, None], X, Y), r"y_train has shape \(4, 1\)"),
        ((X, Y, np.where(np.eye(4, 5) > 0, np.nan, X), Y), r"x_test\[0\] holds NaN"),
        ((X, Y, np.zeros((4, 6)), Y), r"shape \(5,\), x_test of \(6,\)"),
        ((np.zeros(4), Y, X, Y), "known are"),
        (
            (np.zeros((4, 8, 8, 3), np.uint8), Y, X, Y),
            r"channels last; use x.transpose\(0, 3, 1, 2\)",
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
    assert checked("own", data) is data
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
