"""A constant answer beside the model's: recorded, drawn, and told where the model is no better."""

import math

import numpy as np
import pytest

from fedlearn.data.samples import IGNORE, Samples
from fedlearn.records.reading import read
from fedlearn.reporting.baseline import baseline_text, baseline_warning
from fedlearn.reporting.plots import plot_accuracy_rounds
from fedlearn.runs.baseline import baseline
from tests.jobs import CONFIG, run

ALARMS = CONFIG.replace('name = "digits"', f'name = "{__name__}:alarms"').replace(
    'kind = "dirichlet"\nclients = 12\nalpha = 1.0', 'kind = "iid"\nclients = 6'
)


def alarms():
    """Return inputs that say nothing of the labels, of which 1 in 20 is an alarm."""
    random = np.random.default_rng(3)
    x = random.normal(size=(700, 4)).astype(np.float32)
    y = (np.arange(700) % 20 == 0).astype(np.int64)
    return x[:400], y[:400], x[400:], y[400:]


def samples(targets):
    return Samples(np.zeros((len(targets), 1)), np.array(targets))


def test_the_most_frequent_class_counts():
    constant = baseline(samples([2, 0, 2, 1, 2]))
    assert (constant["label"], constant["accuracy"]) == (2, 0.6)
    assert constant["noise"] == pytest.approx(math.sqrt(0.6 * 0.4 / 5))


def test_of_several_the_lowest_and_padding_never():
    lines = [[7, 5, IGNORE], [5, 7, IGNORE]]
    assert baseline(samples(lines))["label"] == 5
    assert baseline(samples(lines))["accuracy"] == 0.5
    assert baseline(samples([])) == {}


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """A run that learns nothing but how frequent the classes are."""
    folder = tmp_path_factory.mktemp("blind") / "run"
    return run(folder, "experiment.rounds=8", config=ALARMS)


def test_a_model_that_says_no_alarm_each_time_is_told_so(blind):
    summary = blind.summary
    assert summary["baseline"]["accuracy"] == 0.95
    assert 0.9 < summary["accuracy"] <= 0.96
    assert baseline_text(summary) == "95.00 % by always answering class 0, NOT BEATEN"
    assert "Always answering class 0 gives 95.00 %" in baseline_warning(
        read(blind.folder)
    )
    page = (blind.folder / "report.html").read_text()
    assert "is not better than that" in page


def test_a_model_that_learns_is_not(tmp_path):
    ran = run(tmp_path / "run")
    assert 0.08 < ran.summary["baseline"]["accuracy"] < 0.15
    assert baseline_text(ran.summary).endswith(", beaten")
    assert baseline_warning(read(ran.folder)) == ""


def test_a_run_without_one_says_nothing(blind, tmp_path):
    assert baseline_text({"accuracy": 0.5}) == ""
    # Of an unfinished run the manifest has it, for the picture.
    (blind.folder / "summary.json").rename(tmp_path / "summary.json")
    assert plot_accuracy_rounds(read(blind.folder), tmp_path / "plot.png")
    (tmp_path / "summary.json").rename(blind.folder / "summary.json")
