"""The best model is kept, and a run that stands still ends: alike after kills and resumes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedlearn
from fedlearn.arrays import State
from fedlearn.errors import ConfigError, RecordError
from fedlearn.runs.best import Best, check_patience, stalled
from fedlearn.runs.status import of_folder
from tests.jobs import CONFIG, run

# A rate so high that rounds go up and down.
WILD = CONFIG.replace("rounds = 3", "rounds = 12\nkeep_best = true").replace(
    "lr = 0.5", "lr = 4.0"
)


def lines(*accuracies):
    return [
        {"round": number, "accuracy": accuracy}
        for number, accuracy in enumerate(accuracies)
    ]


@pytest.mark.parametrize(
    ("patience", "min_delta", "accuracies", "end"),
    [
        (0, 0.0, (0.5, 0.5, 0.5), None),
        (2, 0.0, (0.1, 0.5, 0.5, 0.4, 0.9), 3),
        (2, 0.0, (0.1, 0.5, None, 0.4, None, 0.6), None),
        (2, 0.0, (0.1, 0.5, None, 0.4, None, 0.5), 5),
        (2, 0.1, (0.1, 0.5, 0.55, 0.59), 3),
        (2, 0.1, (0.1, 0.5, 0.55, 0.61), None),
        (1, 0.0, (0.1, 0.1), 1),
    ],
)
def test_when_a_run_stands_still(patience, min_delta, accuracies, end):
    assert stalled(patience, min_delta, lines(*accuracies)) == end


def test_a_patience_that_ended_before_is_refused():
    history = lines(0.1, 0.5, 0.4, 0.4, 0.4)
    check_patience(3, 0.0, history, 4)
    with pytest.raises(
        ConfigError, match="patience = 2 ended in round 3, and 4 rounds"
    ):
        check_patience(2, 0.0, history, 4)


def test_the_first_of_the_best_counts_and_goes_back_with_a_checkpoint():
    best = Best()
    model = State(np.zeros(3, np.float32), np.zeros(1, np.int64))
    for line in lines(0.2, 0.6, 0.6, None, 0.3):
        model.floats[:] = line["round"]
        best.see(line, model)
    assert (best.round, best.accuracy) == (1, 0.6)
    assert best.model is not None
    assert best.model.floats.tolist() == [1, 1, 1]
    other = Best()
    other.recall(best.sync())
    assert (other.round, other.accuracy) == (1, 0.6)
    assert other.model is not None
    assert other.model.floats.tolist() == [1, 1, 1]
    other.recall(None)
    assert other.model is None
    assert other.sync() == {}


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
    return run(tmp_path_factory.mktemp("wild") / "run", config=WILD)


def test_the_best_model_is_that_of_its_round(wild, tmp_path):
    best = wild.summary["best"]
    assert best["accuracy"] == wild.summary["best_accuracy"]
    assert best["accuracy"] > wild.summary["accuracy"]
    first = [line["accuracy"] for line in wild.lines].index(best["accuracy"])
    assert best["round"] == first
    # A run of so many rounds ends with it.
    short = run(tmp_path / "short", f"experiment.rounds={first}", config=WILD)
    assert short.sha256 == best["model_sha256"]
    ours = load_file(wild.folder / "best.safetensors")
    theirs = load_file(short.folder / "model.safetensors")
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    loaded = fedlearn.load(wild.folder).model(best=True).state_dict()
    assert all(np.array_equal(loaded[name].numpy(), ours[name]) for name in ours)


def test_a_run_that_was_resumed_keeps_the_same(wild, tmp_path):
    again = run(tmp_path / "run", "experiment.rounds=5", config=WILD)
    assert again.summary["rounds"] == 5
    resumed = run(tmp_path / "run", config=WILD, resume=True)
    assert resumed.summary["best"] == wild.summary["best"]
    assert resumed.sha256 == wild.sha256


def test_keeping_it_changes_nothing_else(wild, tmp_path):
    plain = run(tmp_path / "run", "experiment.keep_best=false", config=WILD)
    assert plain.sha256 == wild.sha256
    assert not (plain.folder / "best.safetensors").exists()
    with pytest.raises(RecordError, match="keep_best = true"):
        fedlearn.load(plain.folder).model(best=True)


def test_patience_ends_a_run_and_a_resumed_one_alike(wild, tmp_path):
    sets = ("experiment.patience=2", "experiment.min_delta=0.01")
    end = stalled(2, 0.01, wild.lines)
    assert end is not None
    ran = run(tmp_path / "run", *sets, config=WILD)
    assert (ran.summary["rounds"], ran.summary["ended"]) == (end, "patience")
    assert of_folder(ran.folder).state == "finished"
    short = run(tmp_path / "short", "experiment.rounds=1", *sets, config=WILD)
    assert "ended" not in short.summary
    resumed = run(tmp_path / "short", *sets, config=WILD, resume=True)
    assert resumed.sha256 == ran.sha256
    # More patience goes on, less is refused.
    more = run(
        tmp_path / "run", "experiment.patience=9", *sets[1:], config=WILD, resume=True
    )
    assert more.summary["rounds"] > end
    text = (tmp_path / "run" / "summary.json").read_text()
    assert json.loads(text)["rounds"] == more.summary["rounds"]
    less = run(
        tmp_path / "run", "experiment.patience=1", *sets[1:], config=WILD, resume=True
    )
    assert less.code == 2
