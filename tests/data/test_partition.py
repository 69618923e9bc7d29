"""Partitions: every kind covers samples once, has its sizes, and refuses the impossible."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedlearn.data.partition import KINDS, Partition, Partitioned, divide
from fedlearn.data.samples import Dataset, Samples
from fedlearn.errors import ConfigError


def dataset(labels, **ids):
    labels = np.asarray(labels, np.int64)
    samples = Samples(np.arange(len(labels), dtype=np.float32)[:, None], labels)
    columns = {name: np.asarray(column, np.int64) for name, column in ids.items()}
    return Dataset(
        "toy",
        "features",
        int(labels.max()) + 1,
        (1,),
        samples,
        samples,
        labels,
        columns,
    )


TEN_CLASSES = dataset(
    np.random.default_rng(0).permutation(np.repeat(np.arange(10), 600)),
    client=np.arange(6000) // 60,
)

EVERY_KIND: dict[str, dict[str, Any]] = {
    "iid": {"clients": 100},
    "shard": {"clients": 100},
    "pathological": {"clients": 100},
    "dirichlet": {"clients": 100, "alpha": 0.5},
    "inner_dirichlet": {"clients": 100, "alpha": 0.5},
    "distribution": {"clients": 100},
    "natural_id": {},
    "grouped_natural_id": {"group_size": 3},
    "size": {"partition_sizes": [60] * 100},
    "linear": {"clients": 50},
    "square": {"clients": 20},
    "exponential": {"clients": 6},
}


def labels_of(data, partition):
    return [data.labels[partition.indices(k)] for k in range(len(partition))]


def test_every_registered_kind_is_tested_here():
    assert set(EVERY_KIND) | {"drawn"} == set(KINDS)  # see test_drawn.py


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_no_sample_has_two_owners_and_a_seed_gives_the_same_shares(kind):
    table = {"kind": kind, **EVERY_KIND[kind]}
    partition, again = divide(TEN_CLASSES, table, 3), divide(TEN_CLASSES, table, 3)
    assert np.array_equal(
        np.sort(partition.order), np.arange(6000)
    )  # on this set every kind hands out everything
    assert partition.sizes().min() >= 1
    assert partition.sha256() == again.sha256()
    if "natural" not in kind:
        assert partition.sha256() != divide(TEN_CLASSES, table, 4).sha256()


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("iid", "96d664a00726ec23"),
        ("shard", "b1537b453f618bcb"),
        ("dirichlet", "4ec101bd6a66a2f6"),
    ],
)
def test_indices_are_the_same_on_every_machine(kind, digest):
    assert (
        divide(TEN_CLASSES, {"kind": kind, **EVERY_KIND[kind]}, 0).sha256()[:16]
        == digest
    )


def test_partition_gathers_positions_by_owner():
    partition = Partition.from_owners(np.array([1, 0, -1, 1, 0, 1]), 3)
    assert [partition.indices(k).tolist() for k in range(3)] == [[1, 4], [0, 3, 5], []]
    assert (len(partition), partition.size(1), partition.sizes().tolist()) == (
        3,
        3,
        [2, 3, 0],
    )
    for outside in (3, -1):
        with pytest.raises(IndexError, match=f"client {outside} of 3"):
            partition.indices(outside)


def test_partitioned_gives_copies_of_one_clients_samples():
    data = dataset([5, 6, 7, 8])
    clients = Partitioned(data.train, Partition.from_owners(np.array([0, 1, 0, 1]), 2))
    own = clients[1]
    assert (len(clients), clients.size(1), own.x[:, 0].tolist(), own.y.tolist()) == (
        2,
        2,
        [1, 3],
        [6, 8],
    )
    own.x[:] = 0
    assert clients[1].x[:, 0].tolist() == [1, 3]


# Sizes as flwr-datasets 0.6.1 defines them.


def test_iid_sizes_differ_by_one_at_most():
    assert divide(
        dataset(np.zeros(10)), {"kind": "iid", "clients": 4}, 0
    ).sizes().tolist() == [3, 3, 2, 2]


def test_two_shards_each_are_600_samples_of_at_most_two_classes_on_a_set_like_mnist():
    mnist = dataset(
        np.random.default_rng(1).permutation(np.repeat(np.arange(10), 6000))
    )
    partition = divide(
        mnist,
        {"kind": "shard", "num_partitions": 100, "num_shards_per_partition": 2},
        0,
    )
    assert partition.sizes().tolist() == [600] * 100
    assert {len(np.unique(own)) for own in labels_of(mnist, partition)} <= {1, 2}


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        (
            {"num_shards_per_partition": 2},
            [10, 10],
        ),  # 23 // 4 = 5 per shard, 3 samples left out
        ({"shard_size": 4}, [12, 8]),  # 5 whole shards: 3 + 2, 3 samples left out
        ({"shard_size": 4, "num_shards_per_partition": 1}, [4, 4]),
    ],
)
def test_shard_sizes(options, sizes):
    assert (
        divide(
            dataset(np.arange(23) // 6), {"kind": "shard", "clients": 2, **options}, 0
        )
        .sizes()
        .tolist()
        == sizes
    )


def test_keeping_the_incomplete_shard_hands_out_everything():
    table = {
        "kind": "shard",
        "clients": 2,
        "shard_size": 4,
        "keep_incomplete_shard": True,
    }
    sizes = divide(dataset(np.arange(23) // 6), table, 0).sizes()
    assert (sizes.sum(), sorted(sizes)) in [
        (23, [11, 12])
    ]  # shards 4, 4, 4, 4, 4, 3: three each


def test_natural_id_follows_the_ids():
    data = dataset([0, 1, 0, 1, 0], client=[7, 3, 7, 9, 3], team=[1, 1, 1, 2, 2])
    assert [divide(data, {}, 0).indices(k).tolist() for k in range(3)] == [
        [1, 4],
        [0, 2],
        [3],
    ]
    by_team = divide(data, {"kind": "natural_id", "partition_by": "team"}, 0)
    assert by_team.sizes().tolist() == [3, 2]


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, [2, 2, 1]),
        ({"mode": "allow-bigger"}, [3, 2]),
        ({"mode": "drop-reminder"}, [2, 2]),
    ],
)
def test_groups_of_natural_ids(options, sizes):
    data = dataset(np.zeros(5), client=[8, 6, 4, 2, 0])
    partition = divide(
        data, {"kind": "grouped_natural_id", "group_size": 2, **options}, 0
    )
    assert partition.sizes().tolist() == sizes
    assert 0 in partition.indices(0)  # id 8 appears first
    ordered = divide(
        data,
        {
            "kind": "grouped_natural_id",
            "group_size": 2,
            "sort_unique_ids": True,
            **options,
        },
        0,
    )
    assert 4 in ordered.indices(0)  # id 0 is the smallest


def test_sizes_by_rank():
    data = dataset(np.zeros(60))
    assert divide(data, {"kind": "linear", "clients": 3}, 0).sizes().tolist() == [
        10,
        20,
        30,
    ]
    assert divide(data, {"kind": "square", "clients": 3}, 0).sizes().tolist() == [
        4,
        17,
        39,
    ]  # 60/14, 240/14, the rest
    assert divide(data, {"kind": "exponential", "clients": 3}, 0).sizes().tolist() == [
        5,
        14,
        41,
    ]  # 5.4, 14.7, rest
    assert divide(
        data, {"kind": "size", "partition_sizes": [7, 11]}, 0
    ).sizes().tolist() == [7, 11]


def test_pathological_gives_exactly_c_classes():
    for mode in ("random", "first-deterministic", "deterministic"):
        table = {
            "kind": "pathological",
            "clients": 20,
            "num_classes_per_partition": 3,
            "class_assignment_mode": mode,
        }
        mixes = [
            np.unique(own).tolist()
            for own in labels_of(TEN_CLASSES, divide(TEN_CLASSES, table, 0))
        ]
        assert {len(mix) for mix in mixes} == {3}
        if mode != "random":
            assert all(k % 10 in mix for k, mix in enumerate(mixes))
        if mode == "deterministic":
            assert mixes[8] == [0, 8, 9]


def test_distribution_follows_the_table_of_counts():
    data = dataset(np.repeat(np.arange(2), 10))
    table = {
        "kind": "distribution",
        "clients": 2,
        "num_unique_labels_per_partition": 1,
        "rescale": False,
    }
    partition = divide(data, {**table, "distribution_array": [[4], [7]]}, 0)
    assert [own.tolist() for own in labels_of(data, partition)] == [[0] * 4, [1] * 7]
    scaled = {
        "kind": "distribution",
        "clients": 2,
        "preassigned_num_samples_per_label": 2,
    }
    partition = divide(data, {**scaled, "distribution_array": [[1, 1], [3, 0]]}, 0)
    # 10 − 2 · 2 = 6 to share: class 0 as 3 + 3, class 1 as 6 + 0, on top of 2 for everyone
    assert [np.bincount(own).tolist() for own in labels_of(data, partition)] == [
        [5, 8],
        [5, 2],
    ]


def test_dirichlet_mixes_are_dirichlet():
    """Σ p² of a symmetric Dirichlet over M clients has the mean (1 + alpha) / (1 + M alpha)."""
    data = dataset(np.repeat(np.arange(200), 500))
    for alpha in (0.2, 2.0):
        partition = divide(data, {"kind": "dirichlet", "clients": 5, "alpha": alpha}, 0)
        shares = (
            np.array(
                [np.bincount(own, minlength=200) for own in labels_of(data, partition)]
            )
            / 500
        )
        assert (shares**2).sum(axis=0).mean() == pytest.approx(
            (1 + alpha) / (1 + 5 * alpha), rel=0.05
        )


def test_dirichlet_draws_again_until_the_smallest_client_is_large_enough():
    table = {"kind": "dirichlet", "clients": 100, "alpha": 0.5}
    sizes = [
        divide(TEN_CLASSES, {**table, "min_partition_size": least}, 0).sizes().min()
        for least in (0, 10, 22)
    ]
    assert sizes[1] >= 10
    assert sizes[2] >= 22 > sizes[0]


def test_self_balancing_narrows_the_sizes():
    table = {"kind": "dirichlet", "clients": 20, "alpha": 0.1, "min_partition_size": 0}
    free, balanced = (
        divide(TEN_CLASSES, {**table, "self_balancing": b}, 0) for b in (False, True)
    )
    assert balanced.sizes().std() < free.sizes().std()
    assert balanced.sizes().sum() == 6000


def test_inner_dirichlet_keeps_sizes_and_skews_labels():
    sizes = [600] * 4 + [1200, 2400]
    skewed, even = (
        divide(
            TEN_CLASSES,
            {"kind": "inner_dirichlet", "partition_sizes": sizes, "alpha": alpha},
            0,
        )
        for alpha in (0.05, 1000.0)
    )
    assert skewed.sizes().tolist() == even.sizes().tolist() == sizes
    largest = [
        np.mean(
            [np.bincount(own).max() / len(own) for own in labels_of(TEN_CLASSES, p)[:4]]
        )
        for p in (skewed, even)
    ]
    assert largest[0] > 0.4 > 0.2 > largest[1]


WRONG = [
    ({"kind": "iid", "clients": 0}, "clients = 0 is out of range"),
    ({"kind": "iid", "clients": "ten"}, "clients = 'ten' is not a whole number"),
    ({"kind": "iid", "clients": True}, "clients = True is not a whole number"),
    (
        {"kind": "iid", "clients": 6001},
        "clients = 6,001 is more than the 6,000 training samples",
    ),
    (
        {"kind": "iid", "clients": 5, "num_partitions": 6},
        "they mean the same, keep one",
    ),
    ({"kind": "dirichelt"}, "unknown partition 'dirichelt'. Did you mean 'dirichlet'?"),
    ({"kind": 3}, "kind = 3 is not a name"),
    ({"kind": "iid", "alpha": 0.5}, "takes no option 'alpha'"),
    (
        {"kind": "dirichlet", "alpha": 0},
        "alpha = 0 is out of range; it must be above 0",
    ),
    ({"kind": "dirichlet", "alpha": float("nan")}, "not a finite number"),
    (
        {"kind": "dirichlet", "clients": 3, "alpha": [1, 2]},
        "alpha has 2 values, but there are 3 clients",
    ),
    ({"kind": "dirichlet", "clients": 601}, "needs 6,010 samples"),
    (
        {"kind": "dirichlet", "clients": 600, "alpha": 0.1},
        "lower it, raise alpha or use fewer clients",
    ),
    ({"kind": "shard", "clients": 4000}, "need at least 8,000 samples"),
    (
        {"kind": "shard", "clients": 100, "shard_size": 100},
        "make 60 shards of 100, too few",
    ),
    ({"kind": "pathological", "num_classes_per_partition": 11}, "at most 10"),
    (
        {"kind": "pathological", "class_assignment_mode": "rand"},
        "Did you mean 'random'?",
    ),
    (
        {"kind": "natural_id", "partition_by": "cleint"},
        "Did you mean 'client'? It has: client, label",
    ),
    ({"kind": "natural_id", "clients": 5}, "takes no option 'clients'"),
    ({"kind": "grouped_natural_id"}, "needs the option 'group_size'"),
    (
        {"kind": "grouped_natural_id", "group_size": 7, "mode": "strict"},
        "100 natural owners do not divide into groups of 7",
    ),
    ({"kind": "size", "partition_sizes": [6000, 1]}, "add up to 6,001"),
    ({"kind": "size", "partition_sizes": [10, -1]}, r"partition_sizes\[1\] = -1"),
    ({"kind": "size", "partition_sizes": 10}, "must be a list of whole numbers"),
    ({"kind": "exponential", "clients": 100}, "use fewer clients"),
    ({"kind": "distribution", "clients": 15}, "multiples of 10"),
    (
        {"kind": "distribution", "clients": 10, "distribution_array": [[1, 2]]},
        "must be 10 rows",
    ),
    (
        {"kind": "inner_dirichlet", "clients": 3, "partition_sizes": [5, 5]},
        "lists 2; drop one",
    ),
]


@pytest.mark.parametrize(("table", "message"), WRONG)
def test_wrong_tables_are_one_clear_error(table, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as caught:
        divide(TEN_CLASSES, table, 0)
    assert "\n" not in str(caught.value)


def test_natural_id_without_owners_names_what_there_is():
    with pytest.raises(ConfigError, match=r"no such column\. It has: label"):
        divide(dataset([0, 1]), {"kind": "natural_id"}, 0)


def test_an_empty_table_means_100_equal_shares_where_nothing_is_natural():
    assert divide(dataset(np.zeros(200)), {}, 0).sizes().tolist() == [2] * 100


def test_a_kind_of_ones_own_is_called_and_checked(monkeypatch):
    own = SimpleNamespace(
        halves=lambda labels: np.arange(len(labels)) % 2,
        short=lambda labels: labels[1:],
        none=lambda labels: labels * 0 - 1,
        masked=lambda labels: np.ma.masked_equal(labels * 0 + [0, 1, 2], 1),
        drawn=lambda labels: np.random.permutation(len(labels)),
    )
    monkeypatch.setitem(sys.modules, "own_kinds", own)
    assert divide(
        dataset([3, 3, 3]), {"kind": "own_kinds:halves"}, 0
    ).sizes().tolist() == [2, 1]
    with pytest.raises(
        ConfigError,
        match=r"returned int64 \(2,\); it must return the client of every sample, \(3,\)",
    ):
        divide(dataset([3, 3, 3]), {"kind": "own_kinds:short"}, 0)
    with pytest.raises(ConfigError, match="gives no client any sample"):
        divide(dataset([3, 3, 3]), {"kind": "own_kinds:none"}, 0)
    with pytest.raises(ConfigError, match="returned a masked array"):
        divide(dataset([3, 3, 3]), {"kind": "own_kinds:masked"}, 0)
    # One that draws from numpy's global generator gives the same shares at each start.
    drawn = [
        divide(dataset(np.zeros(40)), {"kind": "own_kinds:drawn"}, 0) for _ in range(2)
    ]
    assert drawn[0].sha256() == drawn[1].sha256()
