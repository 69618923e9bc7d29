"""The partition "drawn": any number of clients, each a function of seed and number."""

import tracemalloc

import numpy as np
import pytest

from fedlearn.data.partition import divide
from fedlearn.data.registry import label_counts, population
from fedlearn.data.samples import Dataset, Samples
from fedlearn.errors import ConfigError

LABELS = (
    np.random.default_rng(0)
    .permutation(np.repeat(np.arange(5), [400, 300, 200, 90, 10]))
    .astype(np.int64)
)
SAMPLES = Samples(np.arange(1000, dtype=np.float32)[:, None], LABELS)
DATA = Dataset(
    "toy", "features", 5, (1,), SAMPLES, SAMPLES, LABELS, {"team": np.arange(1000) % 2}
)


def drawn(seed=0, **options):
    return divide(DATA, {"kind": "drawn", **options}, seed)


def test_a_client_is_a_function_of_seed_and_number_whatever_else_there_is():
    few, many, other = (
        drawn(clients=10),
        drawn(clients=1_000_000),
        drawn(seed=1, clients=10),
    )
    assert np.array_equal(few.indices(3), many.indices(3))
    assert not np.array_equal(few.indices(3), few.indices(4))
    assert not np.array_equal(few.indices(3), other.indices(3))
    assert (len(many), many.size(5), few.sizes().tolist()) == (1_000_000, 50, [50] * 10)
    assert few.sha256() == drawn(clients=10).sha256() != many.sha256()
    for outside in (10, -1):
        with pytest.raises(IndexError, match=f"client {outside} of 10"):
            few.indices(outside)


def test_shares_are_the_same_on_every_machine():
    assert drawn(clients=2, samples_per_client=5).indices(1).tolist() == [
        8,
        191,
        320,
        361,
        864,
    ]
    assert drawn(clients=2, samples_per_client=5, alpha=0.5).indices(1).tolist() == [
        235,
        333,
        857,
        895,
        987,
    ]


def test_alike_clients_see_every_sample_as_often():
    shares = drawn(clients=2_000)
    seen = np.bincount(
        np.concatenate([shares.indices(k) for k in range(2_000)]), minlength=1000
    )
    assert seen.sum() == 100_000
    assert (seen.min() > 60, seen.max() < 145) == (
        True,
        True,
    )  # 100 each, give or take 10
    assert all((np.diff(shares.indices(k)) >= 0).all() for k in range(10))


def test_alpha_rules_how_unlike_clients_are():
    """A class's share of a client has the mean 1/5 and the variance of Dirichlet(alpha, …).

    The variance is 0.2 · 0.8 / (5 alpha + 1).
    """
    for alpha, width in ((0.2, 0.283), (2.0, 0.121), (200.0, 0.0126)):
        shares = drawn(clients=1_000, samples_per_client=2_000, alpha=alpha)
        mixes = (
            np.array(
                [
                    np.bincount(LABELS[shares.indices(k)], minlength=5)
                    for k in range(300)
                ]
            )
            / 2_000
        )
        assert mixes.mean(axis=0) == pytest.approx(
            np.full(5, 0.2), abs=4 * width / np.sqrt(300)
        )
        assert mixes.std(axis=0) == pytest.approx(
            np.full(5, np.hypot(width, np.sqrt(0.16 / 2_000))), rel=0.2
        )
    biased = drawn(
        clients=3, samples_per_client=100, alpha=[1e-3, 1e-3, 1e-3, 1e-3, 50.0]
    )
    assert set(LABELS[biased.indices(0)]) == {4}


def test_a_column_may_stand_for_the_classes():
    shares = drawn(clients=50, alpha=1e-2, partition_by="team")
    assert {len(set((shares.indices(k) % 2).tolist())) for k in range(50)} <= {1, 2}
    assert sum(len(set((shares.indices(k) % 2).tolist())) == 1 for k in range(50)) > 40


def test_a_million_clients_of_a_real_set_cost_no_memory():
    population("digits", {}, {"kind": "drawn", "clients": 10}, 0)
    tracemalloc.start()
    found = population(
        "digits", {}, {"kind": "drawn", "clients": 1_000_000, "alpha": 0.5}, 0
    )
    own = found.clients[999_999]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(found.clients), len(own), own.x.shape) == (1_000_000, 50, (50, 1, 8, 8))
    assert peak < 4e6
    numbers, counts = label_counts(found, most=4)
    assert (
        numbers.tolist() == [0, 333333, 666666, 999999]
        and counts.sum(axis=1).tolist() == [50] * 4
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clients": 0}, "clients = 0 is out of range"),
        ({"samples_per_client": 0}, "samples_per_client = 0 is out of range"),
        ({"samples_per_client": 2.5}, "is not a whole number"),
        ({"alpha": -1.0}, "alpha = -1.0 is out of range; it must be above 0"),
        ({"alpha": [1.0, 2.0]}, "alpha has 2 values, but there are 5 classes"),
        ({"partition_by": "tean"}, "Did you mean 'team'"),
        (
            {"samples": 5},
            "takes no option 'samples'. Did you mean 'samples_per_client'",
        ),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        drawn(**options)
