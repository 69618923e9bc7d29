"""What other people's strategies do: the same as in Flower's own loop, by both commands."""

import json
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from safetensors.numpy import load_file, save_file

from fedlearn.apps import private, start
from fedlearn.apps.api import run_app
from fedlearn.apps.loading import on_path
from tests.apps import plain
from tests.apps.plain import SAMPLES
from tests.jobs import run as simulate

# Classes of samples/patterns/pat/strategies.py.
IN_BOTH = [
    "History",
    "Decay",
    "OwnMetrics",
    "ByShare",
    "Reweighted",
    "BestModel",
    "StopsEarly",
    "StopsBeforeTraining",
    "OwnCohort",
    "Momentum",
    "EverySecond",
    "Wrapper",
]
# What needs a ServerApp: rounds that begin anew, and draws in an order of its own.
IN_APPS = ["TwoPhases", "Draws"]

KINDS = {
    "train": "train_metrics_clientapp",
    "evaluate": "evaluate_metrics_clientapp",
}


def lines(path):
    texts = (path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(text) for text in texts]


def history(text):
    return text.rpartition("history ")[2].splitlines()[0]


@pytest.mark.parametrize("name", IN_BOTH + IN_APPS)
def test_a_strategy_of_an_app_gives_what_flowers_own_loop_gives(name, tmp_path, capfd):
    changes = {"strategy": name}
    started = start.of_options(SAMPLES / "patterns", changes=changes, workers=2)
    summary = run_app(started, tmp_path / "run", quiet=True).summary
    capfd.readouterr()
    result = plain.run("patterns", **changes)
    arrays = load_file(tmp_path / "run" / summary["result"])
    for key, array in result.arrays.items():
        np.testing.assert_allclose(arrays[key], array.numpy(), rtol=1e-6, atol=1e-7)
    # What the strategy kept on itself, as its app prints it.
    log = (tmp_path / "run" / "app.log").read_text()
    assert history(log) == history(capfd.readouterr().out)
    assert summary["failed"] == 0
    recorded = {(line["part"], line["round"]): line for line in lines(tmp_path / "run")}
    part = max(number for number, _ in recorded)
    for kind, attribute in KINDS.items():
        for number, metrics in getattr(result, attribute).items():
            expected = {k: pytest.approx(v) for k, v in dict(metrics).items()}
            assert recorded[part, number][kind] == expected


@pytest.fixture(scope="module")
def initial():
    """Return the first model: of the layout of 'logistic' on digits."""
    generator = np.random.default_rng(3)
    return {
        "linear.weight": generator.normal(size=(10, 64)).astype(np.float32),
        "linear.bias": np.zeros(10, np.float32),
    }


CONFIG = """
[experiment]
name = "patterns"
rounds = 4

[data]
name = "digits"

[data.partition]
kind = "iid"
clients = 4

[model]
name = "logistic"
weights = "{weights}"

[train]
lr = 0.5

[evaluate]
clients = true

[client]
app = "pat.client_app:app"

[strategy]
name = "pat.strategies:{name}"
"""


def flowers(name, initial):
    """Return the arrays of Flower's own loop over a plain Grid."""
    client_app = import_module("pat.client_app")
    strategies = import_module("pat.strategies")
    grid = plain.PlainGrid(
        client_app.app, SimpleNamespace(nodes=4, run_config={}), seed=0
    )
    private.enter()
    arrays = ArrayRecord({key: Array(value) for key, value in initial.items()})
    config = ConfigRecord({"lr": 0.5})
    strategy = getattr(strategies, name)()
    return strategy.start(grid, arrays, 4, train_config=config).arrays


@pytest.mark.parametrize("name", IN_BOTH)
def test_a_strategy_of_a_config_gives_what_flowers_own_loop_gives(
    name, initial, tmp_path
):
    weights = tmp_path / "first.safetensors"
    save_file(initial, weights)
    config = CONFIG.format(name=name, weights=weights)
    with on_path(SAMPLES / "patterns"):
        ran = simulate(tmp_path / "run", config=config)
        assert ran.code == 0
        expected = flowers(name, initial)
    model = load_file(tmp_path / "run" / "model.safetensors")
    assert model.keys() == dict(expected.items()).keys()
    for key, array in expected.items():
        np.testing.assert_allclose(model[key], array.numpy(), rtol=1e-5, atol=1e-6)
    assert not np.allclose(model["linear.bias"], initial["linear.bias"])
