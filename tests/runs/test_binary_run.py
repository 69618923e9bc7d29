"""A run with binary weights: the same on every engine, and its bits start another run."""

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import fedlearn as fl
from fedlearn.compress.binary import packed_file
from fedlearn.models.binary import binary_names
from fedlearn.runs.textbook import fedavg
from fedlearn.runs.trained import load
from fedlearn.runs.weights import read_weights

CONFIG = {
    "experiment": {"name": "binary", "rounds": 2},
    "data": {"name": "digits", "partition": {"kind": "iid", "clients": 4}},
    "model": {"name": "cnn-small", "binary": True},
    "train": {"lr": 0.05},
    "strategy": {"name": "fedavg", "fraction_train": 0.5, "server_momentum": 0.0},
    "engine": {"kind": "serial"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fl.run(CONFIG, out=tmp_path_factory.mktemp("binary") / "run", quiet=True)


@pytest.mark.parametrize("kind", ["pool", "stacked"])
def test_every_engine_gives_the_same_bits(kind, run, tmp_path):
    changes = {"engine.kind": kind, "engine.workers": 2}
    other = fl.run(CONFIG, changes, out=tmp_path / kind, quiet=True)
    assert other.summary["model_sha256"] == run.summary["model_sha256"]


def test_the_textbook_has_the_same_model(run):
    assert run.summary["model_sha256"] == fedavg(run.config)


def test_a_trained_model_has_the_binary_weights(run):
    module: Any = load(str(run.folder)).module
    weight = module.hidden.weight
    assert weight.abs().unique(dim=1).shape[1] == 1
    x = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(module(x), run.model()(x))


def test_bits_start_a_run_as_their_floats_do(run, tmp_path):
    trained = load(str(run.folder))
    names = binary_names(trained.module)
    path = tmp_path / "model.bits.safetensors"
    path.write_bytes(packed_file(trained.layout, trained.state, names))
    tensors = read_weights(str(path)).tensors
    state = trained.layout.join(dict(tensors))
    assert np.array_equal(state.floats, trained.state.floats)
    second = fl.run(
        CONFIG, {"model.weights": str(path)}, out=tmp_path / "out", quiet=True
    )
    assert second.rounds[0]["accuracy"] == run.summary["accuracy"]


def test_damaged_bits_are_an_error_of_the_config(tmp_path):
    path = tmp_path / "torn.safetensors"
    save_file(
        {"w.bits": np.zeros(1, np.uint8), "w.shape": np.array([9], np.int32)}, path
    )
    with pytest.raises(fl.ConfigError, match="tensor 'w' has bits, but no scales"):
        read_weights(str(path))
