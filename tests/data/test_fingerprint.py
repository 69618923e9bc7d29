"""Another sample, share or held-out part is another fingerprint; the same data are the same."""

from dataclasses import replace

import numpy as np
import pytest

from fedlearn.data import fingerprint, population
from fedlearn.data.fingerprint import fingerprints, samples_sha256
from fedlearn.data.partition import Partition, Partitioned
from fedlearn.data.samples import Population, Samples

X = np.arange(60, dtype=np.float32).reshape(12, 5)
Y = np.arange(12) % 3


def people(x=X, y=Y, owners=Y, test_x=X):
    clients = Partitioned(Samples(x, y), Partition.from_owners(owners, 3))
    return Population("p", "features", 3, (5,), clients, Samples(test_x, Y))


def changed_parts(one, another):
    before = fingerprints(one)
    after = fingerprints(another)
    return {key for key in before if before[key] != after[key]}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({}, set()),
        ({"x": X.copy()}, set()),
        ({"x": X.astype(">f4")}, set()),
        ({"x": np.asfortranarray(X)}, set()),
        ({"x": X + np.eye(12, 5, -7, np.float32)}, {"train_sha256"}),
        ({"x": X.astype(np.float64)}, {"train_sha256"}),
        ({"y": Y[::-1]}, {"train_sha256"}),
        ({"owners": Y[::-1]}, {"partition_sha256"}),
        ({"test_x": X[::-1]}, {"test_sha256"}),
        (
            {"x": X[:6], "y": Y[:6], "owners": Y[:6]},
            {"train_sha256", "partition_sha256"},
        ),
    ],
)
def test_what_changed_is_named(change, parts):
    assert changed_parts(people(), people(**change)) == parts


def test_clients_that_are_drawn_when_asked_for():
    def synthetic(seed=1, **options):
        return population("synthetic", options, {"clients": 1_000_000}, seed)

    assert fingerprints(synthetic())["partition_sha256"] is None
    assert changed_parts(synthetic(), synthetic()) == set()
    assert "train_sha256" in changed_parts(synthetic(), synthetic(seed=2))
    assert "train_sha256" in changed_parts(synthetic(), synthetic(beta=0.5))
    drawn = {"kind": "drawn", "clients": 100_000}
    digits = population("digits", {}, drawn, 0)
    assert changed_parts(digits, population("digits", {}, drawn, 0)) == set()
    assert changed_parts(digits, population("digits", {}, drawn, 5)) == {
        "partition_sha256"
    }


class Restless:
    """Clients whose samples are new at each reading."""

    def __len__(self):
        return 2

    def size(self, client):
        return 12

    def __getitem__(self, client):
        return Samples(np.random.default_rng().normal(size=X.shape), Y)


class Seeded(Restless):
    def __getitem__(self, client):
        return Samples(np.random.normal(size=X.shape), Y)


class Unreadable(Restless):
    def __getitem__(self, client):
        raise OSError("not now")


@pytest.mark.parametrize("clients", [Restless(), Seeded(), Unreadable()])
def test_clients_of_any_mood_can_be_resumed(clients):
    source = replace(people(), clients=clients)
    assert changed_parts(source, source) == set()


def test_an_array_on_disk_stays_there_and_large_ones_are_read_in_part(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(fingerprint, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(fingerprint, "MOST_BYTES", 1 << 15)
    values = np.random.default_rng(0).integers(0, 255, (5_000, 64), np.uint8)
    np.save(tmp_path / "x.npy", values)
    on_disk = np.load(tmp_path / "x.npy", mmap_mode="r")
    y = np.zeros(5_000, np.int64)
    assert samples_sha256(Samples(on_disk, y)) == samples_sha256(Samples(values, y))
    blocks = list(fingerprint._blocks(on_disk))
    assert sum(block.nbytes for block in blocks) <= 1 << 15
    assert all(isinstance(block, np.memmap) for block in blocks)
    # Both ends are among them.
    assert (blocks[0][0] == values[0]).all()
    assert (blocks[-1][-1] == values[-1]).all()
    shorter = samples_sha256(Samples(values[:-1], y[:-1]))
    assert shorter != samples_sha256(Samples(values, y))
