"""Two trained models share the work, and a model is cut where its link says: by real models."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fedlearn.clients.batches import tensors
from fedlearn.clients.placement.routing import Routing, sureness
from fedlearn.clients.placement.splitting import ALL_HERE, ALL_THERE
from fedlearn.compress import measuring
from fedlearn.compress.routes import fit_route, scores_of, streamed
from fedlearn.compress.splits import measured_cuts
from fedlearn.config import read
from fedlearn.errors import UserError
from fedlearn.models import read_state
from fedlearn.runs.parts import build_parts
from fedlearn.runs.trained import Trained
from tests.export.models import untrained


def taught(name: str, steps: int) -> Trained:
    """Return a model of the digits after some steps of 64 samples."""
    table = {
        "data": {"name": "digits", "partition": {"kind": "iid", "clients": 1}},
        "model": {"name": name},
    }
    experiment = read(table)
    parts = build_parts(experiment)
    samples = tensors(parts.population.clients[0], "image")
    optimizer = torch.optim.SGD(parts.module.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x, y = samples.batch(torch.randint(len(samples), (64,), generator=generator))
        optimizer.zero_grad()
        cross_entropy(parts.module(x), y).backward()
        optimizer.step()
    module = parts.module.eval()
    state = read_state(module, parts.layout)
    return Trained(
        name, None, experiment, module, parts.layout, state, parts.population
    )


@pytest.fixture(scope="module")
def pair():
    """Return a small model that has learned little, and a large one that has learned more."""
    threads = torch.get_num_threads()
    # More of them would only wait for one another.
    torch.set_num_threads(1)
    try:
        yield taught("logistic", 12), taught("cnn-small", 100)
    finally:
        torch.set_num_threads(threads)


def test_routing_brings_a_small_model_near_the_large_one(pair):
    report = fit_route(pair[0], pair[1], 0.3)
    score = report.score
    assert score.small < score.large
    # More than half of the way, with less than a third of the samples.
    assert score.routed - score.small > 0.5 * (score.large - score.small)
    assert (
        report.sent_samples
        == round(score.share_sent * report.samples)
        <= 0.3 * report.samples
    )
    assert report.routing.facts is not None
    assert report.routing.facts["routed_accuracy"] == score.routed


def test_the_threshold_was_set_by_the_other_half(pair):
    report = fit_route(pair[0], pair[1], 0.2)
    fitting = sureness(scores_of(pair[0])[::2], report.routing)
    below = (fitting < report.routing.threshold).sum()
    assert below == int(0.2 * len(fitting))


def test_a_stream_is_what_its_samples_come_to_by_hand():
    small = np.array([[0, 1], [0, 9], [0, 1], [0, 1]], np.float32)
    large = np.array([[1, 0], [1, 0], [1, 0], [1, 0]], np.float32)
    labels = np.zeros(4, np.int64)
    score = streamed(small, large, labels, Routing(threshold=5.0, share=0.5))
    # The budget has room for the third sample, not for the first, nor for the fourth
    # before it is full again.
    assert (score.small, score.large, score.routed) == (0.0, 1.0, 0.5)
    assert score.share_sent == 0.5


def test_models_that_cannot_be_routed_are_told(pair):
    with pytest.raises(UserError, match="model of text"):
        fit_route(untrained("lstm-char"), untrained("lstm-char"), 0.3)
    with pytest.raises(UserError, match="different test sets"):
        fit_route(pair[0], untrained("cnn-small"), 0.3)


def test_every_cut_of_a_model_is_measured(monkeypatch):
    # The figures themselves are not looked at.
    monkeypatch.setattr(measuring, "TURNS", 2)
    points = {
        point.name: point for point in measured_cuts(untrained("cnn-small"), 10.0)
    }
    assert list(points) == [ALL_THERE, "conv1", "conv2", "hidden", ALL_HERE]
    sizes = [point.crossing_bytes for point in points.values()]
    # The pictures; 16 and 32 channels behind their poolings; 64 units.
    assert sizes == [4 * 28 * 28, 4 * 16 * 14 * 14, 4 * 32 * 7 * 7, 4 * 64, 0]
    assert points[ALL_THERE].head_s == points[ALL_HERE].tail_s == 0.0
    assert points[ALL_HERE].head_s == pytest.approx(10 * points[ALL_THERE].tail_s)
    assert all(points[name].head_s > 0 for name in ("conv1", "conv2", "hidden"))
