"""A resumed run has the data that it began with, or is refused by name; odd data are told of."""

import json

import numpy as np
import pytest

import fedlearn as fl

CONFIG = {
    "experiment": {"name": "same-data", "rounds": 1},
    "model": {"name": "logistic"},
    "engine": {"kind": "serial"},
    "strategy": {"name": "fedavg", "fraction_train": 1.0},
    "data": {"name": "digits", "partition": {"kind": "iid", "clients": 2}},
}
X = np.random.default_rng(3).normal(size=(40, 5)).astype(np.float32)
Y = np.arange(40) % 2


class Loader:
    """A user's loader, whose data can change between two starts of one run."""

    def __init__(self):
        self.arrays = (X, Y, X, Y)

    def load(self):
        return self.arrays


def begun(out):
    loader = Loader()
    run = fl.run(CONFIG, out=out, data=loader.load, quiet=True)
    return loader, run


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ((X[:30], Y[:30], X, Y), "the training samples and the shares of the clients"),
        ((X, Y, X[5:], Y[5:]), "the held-out samples are not those"),
        ((X * 2, Y, X, Y), "the training samples are not those"),
        ((X, Y, X, 1 - Y), "the held-out samples are not those"),
    ],
)
def test_other_data_are_refused_by_name(arrays, words, tmp_path):
    loader, run = begun(tmp_path / "out")
    before = (run.folder / "metrics.jsonl").read_bytes()
    loader.arrays = arrays
    more = {"experiment.rounds": 2}
    with pytest.raises(fl.ConfigError, match=f"--resume: {words}"):
        fl.run(None, more, out=run.folder, data=loader.load, resume=True, quiet=True)
    assert (run.folder / "metrics.jsonl").read_bytes() == before
    loader.arrays = (X, Y, X, Y)
    resumed = fl.run(
        None, more, out=run.folder, data=loader.load, resume=True, quiet=True
    )
    assert resumed.summary["rounds"] == 2


def test_a_run_of_an_earlier_version_knows_its_partition_alone(tmp_path):
    loader, run = begun(tmp_path / "out")
    path = run.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for key in ("train_sha256", "test_sha256", "notes"):
        del manifest["data"][key]
    path.write_text(json.dumps(manifest))
    loader.arrays = (X * 2, Y, X, Y)
    more = {"experiment.rounds": 2}
    fl.run(None, more, out=run.folder, data=loader.load, resume=True, quiet=True)
    # It has all fingerprints from now on.
    loader.arrays = (X, Y, X, Y)
    with pytest.raises(fl.ConfigError, match="the training samples"):
        fl.run(None, more, out=run.folder, data=loader.load, resume=True, quiet=True)


def test_odd_data_are_told_of_in_the_output_and_in_the_manifest(tmp_path, capsys):
    odd = fl.dataset(X, Y * 4, X, Y * 4)
    run = fl.run(CONFIG, out=tmp_path / "out", data=odd)
    (note,) = json.loads((run.folder / "manifest.json").read_text())["data"]["notes"]
    assert "2 of the classes 0 to 4" in note
    assert note in capsys.readouterr().out.replace("\n", " ")
