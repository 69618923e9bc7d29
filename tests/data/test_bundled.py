"""What comes with fedlearn: sizes, types, owners, and that nothing held out is trained on."""

import numpy as np
import pytest

from fedlearn.data.images import digits, fashion_mini
from fedlearn.data.plays import (
    examples,
    gather,
    last_fifth,
    parse_play,
    shakespeare_mini,
)
from fedlearn.data.registry import label_counts, population
from fedlearn.data.samples import IGNORE
from fedlearn.data.stored import BUNDLED
from fedlearn.data.watch import cut, thin, watch_mini, windows
from fedlearn.errors import ConfigError, DataError


def test_the_bundle_is_small_and_carries_its_licences():
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 6_000_000
    notes = (BUNDLED / "LICENCES.txt").read_text(encoding="utf-8")
    assert all(path.name in notes for path in BUNDLED.glob("*.npz"))


def test_digits():
    data = digits()
    assert (data.train.x.shape, data.test.x.shape) == ((1438, 1, 8, 8), (359, 1, 8, 8))
    assert (
        data.train.x.dtype.name,
        int(data.train.x.min()),
        int(data.train.x.max()),
    ) == ("uint8", 0, 255)
    fifths = np.bincount(data.test.y) / (
        np.bincount(data.train.y) + np.bincount(data.test.y)
    )
    assert np.abs(fifths - 0.2).max() < 0.003


def test_fashion_mini():
    data = fashion_mini()
    assert data.input_shape == data.train.x.shape[1:] == (1, 28, 28)
    assert np.bincount(data.train.y).tolist() == [600] * 10
    assert np.bincount(data.test.y).tolist() == [100] * 10
    assert data.train.y.dtype == data.labels.dtype == np.int64
    assert data.train.x.mean() / 255 == pytest.approx(
        0.286, abs=0.005
    )  # the known mean of Fashion-MNIST


def test_the_default_population():
    found = population(
        "fashion-mini", {}, {"kind": "dirichlet", "clients": 100, "alpha": 0.5}, 0
    )
    numbers, counts = label_counts(found)
    assert (found.modality, found.classes, len(found.clients), len(found.test)) == (
        "image",
        10,
        100,
        1000,
    )
    assert numbers.tolist() == list(range(100))
    assert counts.sum(axis=0).tolist() == [600] * 10
    assert counts.sum(axis=1).tolist() == [found.clients.size(k) for k in range(100)]
    assert counts[7].tolist() == np.bincount(found.clients[7].y, minlength=10).tolist()


def test_label_counts_spread_over_many_clients():
    numbers, counts = label_counts(
        population("fashion-mini", {}, {"kind": "iid", "clients": 500}, 0), most=5
    )
    assert numbers.tolist() == [0, 124, 249, 374, 499]
    assert counts.shape == (5, 10)


def test_watch_mini_has_20_owners_and_normalised_channels():
    data = watch_mini()
    assert (data.train.x.shape, data.test.x.shape, data.train.x.dtype.name) == (
        (2854, 64, 6),
        (561, 64, 6),
        "float32",
    )
    assert len(np.unique(data.ids["client"])) == 20
    assert (
        np.unique(data.ids["client"] // 2).tolist()
        == np.unique(data.ids["subject"]).tolist()
        == list(range(1, 11))
    )
    assert data.train.x.mean((0, 1)) == pytest.approx(np.zeros(6), abs=1e-5)
    assert data.train.x.std((0, 1)) == pytest.approx(np.ones(6), abs=1e-4)
    assert len(population("watch-mini", {}, {}, 0).clients) == 20
    assert watch_mini(rate=5, window=12, stride=12).input_shape == (12, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 10}, "does not divide the 25 Hz"),
        ({"window": 5000}, "longer than the series"),
    ],
)
def test_watch_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        watch_mini(**options)


def test_windows_are_cut_without_a_step_in_both_parts():
    starts, series, held_out = cut(np.array([20, 3, 5]), window=4, stride=2)
    # 20 steps: training 0…15, held out 16…19 · 3 steps: too short ·
    # 5 steps: only the window that ends it (1…4)
    assert starts[series == 0].tolist() == [0, 2, 4, 6, 8, 10, 12, 16]
    assert held_out[series == 0].tolist() == [False] * 7 + [True]
    assert (starts[series == 2].tolist(), held_out[series == 2].tolist()) == (
        [24],
        [True],
    )
    assert 1 not in series


def test_thinning_keeps_every_nth_step_of_each_series():
    values, lengths = thin(np.arange(9)[:, None], np.array([5, 4]), 2)
    assert (values[:, 0].tolist(), lengths.tolist()) == ([0, 2, 5, 7], [2, 2])


def test_windows_normalise_by_the_training_part_only():
    series = {
        "values": np.concatenate([np.tile([1, 3], 8), np.full(4, 100)])[:, None].astype(
            np.int16
        ),
        "lengths": np.array([20]),
        "label": np.array([2]),
        "subject": np.array([4]),
        "arm": np.array([1]),
        "rate": np.array(25),
        "scale": np.full(1, 0.5, np.float32),
    }
    data = windows(
        "toy", series, 25, 4, 4
    )  # training values 0.5 and 1.5: mean 1, deviation 0.5; held out 50
    assert data.train.x[0, :, 0].tolist() == [-1, 1, -1, 1]
    assert data.test.x[0, :, 0].tolist() == [98] * 4
    assert (data.ids["client"].tolist(), data.labels.tolist()) == ([9] * 4, [2] * 4)


PLAY = """# Toy

## ACT I

_Enter all_

**ANNE**
Go _aside_ now.
_Exit_

**Bob**
Hm.

# SCENE II
Nobody speaks.
**ANNE**
Stay.
"""


def test_a_play_becomes_lines_by_role():
    assert parse_play(PLAY) == [("ANNE", "Go  now."), ("BOB", "Hm."), ("ANNE", "Stay.")]
    arrays = gather({"toy": PLAY, "again": PLAY})
    assert (
        arrays["text"].tobytes() == b"Go  now.\nStay.\n" * 2
    )  # Bob has one line: nothing could be held out
    assert arrays["role"].tolist() == [0, 0, 1, 1]
    assert (
        arrays["roles"].tolist(),
        arrays["plays"].tolist(),
        arrays["play_of_role"].tolist(),
    ) == (
        ["ANNE", "ANNE"],
        ["again", "toy"],
        [0, 1],
    )


def test_the_last_fifth_of_every_role_is_held_out():
    owner = np.repeat([0, 1, 2], [2, 5, 11])
    held_out = last_fifth(owner)
    assert [int(held_out[owner == k].sum()) for k in range(3)] == [
        1,
        1,
        3,
    ]  # 11 lines: 8 train
    assert held_out[1] and held_out[6] and held_out[-3:].all()


def test_long_lines_become_several_examples_and_the_end_predicts_a_newline():
    text = np.frombuffer(b"abcde\nxy\n", np.uint8)
    samples, line = examples(text, np.array([0, 6]), np.array([5, 8]), length=3)
    assert [row.tobytes() for row in samples.x] == [b"abc", b"de\0", b"xy\0"]
    assert samples.y.tolist() == [[98, 99, 100], [101, 10, IGNORE], [121, 10, IGNORE]]
    assert line.tolist() == [0, 0, 1]
    assert (samples.x.dtype.name, samples.y.dtype.name) == ("uint8", "int16")


def test_shakespeare_mini():
    data = shakespeare_mini()
    assert (data.modality, data.classes, data.input_shape) == ("text", 256, (80,))
    assert len(np.unique(data.ids["client"])) == 296
    assert np.unique(data.ids["play"]).tolist() == list(range(10))
    assert ((data.train.x == 0) == (data.train.y == IGNORE)).all()
    inner = (data.train.y != IGNORE)[:, 1:]
    assert (
        data.train.x[:, 1:][inner] == data.train.y[:, :-1][inner]
    ).all()  # each target is the next input
    text = b"".join(row.tobytes() for row in data.train.x)
    assert b"To be, or not to be: that is the question" in text
    assert label_counts(population("shakespeare-mini", {}, {}, 0))[1].shape == (100, 1)


def test_a_set_that_is_not_fetched_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLEARN_DATA", str(tmp_path))
    with pytest.raises(
        DataError,
        match=r"data set 'mnist' is not on this machine.*run 'fedlearn data fetch mnist'",
    ):
        population("mnist", {}, {}, 0)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 cut", b"\x93NUMPY", b"\x80\x04]\x94."]
)
def test_a_corrupt_cache_names_the_file_and_the_command(tmp_path, monkeypatch, content):
    monkeypatch.setenv("FEDLEARN_DATA", str(tmp_path))
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(
        DataError,
        match=r"mnist\.npz cannot be read .*run 'fedlearn data fetch mnist' again",
    ):
        population("mnist", {}, {}, 0)
