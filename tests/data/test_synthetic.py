"""Synthetic twins and FedProx's synthetic clients: the right schema, learnable, seeded, lazy."""

import tracemalloc

import numpy as np
import pytest

from fedlearn.data.fedprox import SyntheticClients
from fedlearn.data.registry import DATASETS, label_counts, population
from fedlearn.data.samples import IGNORE
from fedlearn.data.twins import SCHEMAS, twin
from fedlearn.errors import ConfigError


def test_every_set_with_files_has_a_twin():
    assert set(SCHEMAS) == set(DATASETS) - {"synthetic", "dir"}


@pytest.mark.parametrize("name", ["digits", "watch-mini", "shakespeare-mini"])
def test_a_twin_has_the_schema_of_the_real_set(name):
    real, twins = (
        population(name, options, {}, 0) for options in ({}, {"synthetic": True})
    )
    for key in ("modality", "classes", "input_shape"):
        assert getattr(real, key) == getattr(twins, key)
    assert len(real.clients) == len(twins.clients)
    assert (real.test.x.shape, real.test.x.dtype) == (
        twins.test.x.shape,
        twins.test.x.dtype,
    )
    assert (real.test.y.shape, real.test.y.dtype) == (
        twins.test.y.shape,
        twins.test.y.dtype,
    )
    assert (real.clients[0].x.dtype, real.clients[0].y.dtype) == (
        twins.clients[0].x.dtype,
        twins.clients[0].y.dtype,
    )


def nearest_mean_accuracy(train, test):
    flat = train.x.reshape(len(train), -1).astype(np.float64)
    means = np.array([flat[train.y == k].mean(axis=0) for k in range(10)])
    distance = ((test.x.reshape(len(test), 1, -1) - means) ** 2).sum(axis=2)
    return (distance.argmin(axis=1) == test.y).mean()


def test_twins_can_be_learned():
    pictures = twin("mnist", 0, train=500, test=200)
    assert (len(pictures.train), pictures.input_shape) == (500, (1, 28, 28))
    assert nearest_mean_accuracy(pictures.train, pictures.test) > 0.9
    text = twin("shakespeare", 0, train=400, test=100)
    table = np.zeros((256, 256))
    known = text.train.y != IGNORE
    np.add.at(table, (text.train.x[known], text.train.y[known]), 1)
    held = text.test.y != IGNORE
    hits = table[text.test.x[held]].argmax(axis=1) == text.test.y[held]
    assert 0.5 < hits.mean() < 0.65  # the best letter comes with odds 0.6
    series = twin("watch", 0, train=300, test=100)
    spectrum = np.abs(np.fft.rfft(series.train.x, axis=1)).reshape(300, -1)
    held_out = np.abs(np.fft.rfft(series.test.x, axis=1)).reshape(100, 1, -1)
    guess = series.train.y[((held_out - spectrum) ** 2).sum(axis=2).argmin(axis=1)]
    assert (guess == series.test.y).mean() > 0.9


def test_a_twin_is_a_function_of_the_seed():
    first, same, other = (twin("watch", seed, train=20, test=5) for seed in (1, 1, 2))
    assert np.array_equal(first.train.x, same.train.x)
    assert not np.array_equal(first.train.x, other.train.x)
    assert not np.array_equal(first.train.x[:5], first.test.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"synthetic": "yes"}, "neither true nor false"),
        ({"synthetic": True, "train": 0}, "train = 0 is out of range"),
        (
            {"synthetic": True, "trian": 5},
            "takes no option 'trian'. Did you mean 'train'",
        ),
        ({"train": 5}, "takes no option 'train'"),
    ],
)
def test_wrong_options_of_a_twin(options, message):
    with pytest.raises(ConfigError, match=message):
        population("digits", options, {}, 0)


def test_a_client_is_a_function_of_seed_and_number():
    few, many = SyntheticClients(7, 10), SyntheticClients(7, 1_000_000)
    assert np.array_equal(few[3].x, many[3].x)
    assert np.array_equal(few[3].y, many[3].y)
    assert not np.array_equal(few[3].x[:50], few[4].x[:50])
    assert not np.array_equal(few[3].x[:20], few.held_out(3, 20).x)
    assert len(few[3]) == few.size(3)
    assert (few[3].x.dtype.name, few[3].y.dtype.name, few[3].x.shape[1]) == (
        "float32",
        "int64",
        60,
    )
    with pytest.raises(IndexError):
        few[10]


def test_sizes_are_log_normal_with_a_cap():
    clients = SyntheticClients(0, 2000, cap=5000)
    sizes = np.array([clients.size(k) for k in range(2000)])
    assert (sizes.min() >= 50, sizes.max()) == (True, 5000)
    assert np.median(sizes) == pytest.approx(50 + np.exp(4), rel=0.1)
    assert np.log(sizes[sizes < 5000] - 49).std() == pytest.approx(2, rel=0.15)


def test_inputs_spread_as_the_paper_says():
    x = SyntheticClients(0, 1).held_out(0, 20_000).x
    assert x.var(axis=0)[[0, 9, 59]] == pytest.approx([1, 10**-1.2, 60**-1.2], rel=0.05)


def test_alpha_and_iid_rule_how_alike_clients_are():
    same = SyntheticClients(0, 50, alpha=0, beta=0, iid=True)
    mixes = (
        np.array([np.bincount(same.held_out(k, 200).y, minlength=10) for k in range(5)])
        / 200
    )
    assert mixes.std(axis=0).max() < 0.06
    different = SyntheticClients(0, 50, alpha=1, beta=1)
    mixes = (
        np.array(
            [np.bincount(different.held_out(k, 200).y, minlength=10) for k in range(5)]
        )
        / 200
    )
    assert mixes.std(axis=0).max() > 0.2


def test_ten_thousand_clients_cost_no_memory():
    tracemalloc.start()
    found = population("synthetic", {"alpha": 0.5, "beta": 0.5}, {"clients": 10_000}, 0)
    found.clients[9_999]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6
    assert (len(found.clients), len(found.test), found.input_shape) == (
        10_000,
        2000,
        (60,),
    )
    assert label_counts(found, most=4)[0].tolist() == [0, 3333, 6666, 9999]


@pytest.mark.parametrize(
    ("options", "partition", "message"),
    [
        ({"alpha": -1}, {}, "alpha = -1 is out of range"),
        ({"cap": 10}, {}, "cap = 10 is out of range"),
        ({"clients": 0}, {}, "clients = 0"),
        ({}, {"clients": 2.5}, "clients = 2.5 is not a whole number"),
        ({"clients": 5}, {"clients": 6}, "give clients once"),
        ({}, {"kind": "dirichlet"}, "leave out"),
        ({}, {"alpha": 0.5}, "takes only 'clients' there"),
        ({"gamma": 1}, {}, "takes no option 'gamma'"),
    ],
)
def test_wrong_settings(options, partition, message):
    with pytest.raises(ConfigError, match=message):
        population("synthetic", options, partition, 0)


def test_clients_may_be_given_in_either_table():
    assert len(population("synthetic", {}, {}, 0).clients) == 100
    assert len(population("synthetic", {"clients": 7}, {}, 0).clients) == 7
    assert (
        len(
            population(
                "synthetic", {"clients": 7}, {"kind": "natural_id", "clients": 7}, 0
            ).clients
        )
        == 7
    )
