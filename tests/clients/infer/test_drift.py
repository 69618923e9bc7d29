"""Drift: histograms and indices against their plain twins, and against sums made by hand."""

import math
from bisect import bisect_right
from dataclasses import replace

import numpy as np
import pytest

from fedlearn.clients.infer import drift
from fedlearn.clients.infer.drift import DriftReference, Window
from fedlearn.package import golden, histograms
from tests.package import small


def index_of(counts, expected):
    """`stability_index`'s slow twin, for one pair of histograms."""
    pairs = [(a, b) for a, b in zip(counts, expected, strict=True) if a + b]
    now = sum(a + 0.5 for a, _ in pairs)
    before = sum(b + 0.5 for _, b in pairs)
    total = 0.0
    for a, b in pairs:
        p = (a + 0.5) / now
        q = (b + 0.5) / before
        total += (p - q) * math.log(p / q)
    return total


def bins_of(values, edges):
    """`binned`'s slow twin, for one channel."""
    counts = [0] * (len(edges) + 1)
    for value in values:
        place = len(edges) if math.isnan(value) else bisect_right(edges, value)
        counts[place] += 1
    return counts


def reference(samples=None, axis=1, seed=5):
    """Return the reference of 1,000 samples of three features and two classes."""
    draw = np.random.default_rng(seed)
    if samples is None:
        samples = draw.normal(size=(1000, 3)).astype(np.float32)
    scores = np.stack([samples[:, 0], -samples[:, 0]], 1)
    content = golden.golden(samples, scores, scores[:16], axis)
    return drift.reference(content, small.manifest(preprocessing=PLAIN))


PLAIN = replace(small.manifest().preprocessing, dtype="float32", divide=None)


def test_an_index_by_hand():
    # Shares of 5.5/11 and 5.5/11 against 8.5/11 and 2.5/11.
    expected = (5.5 - 8.5) / 11 * math.log(5.5 / 8.5) + 3 / 11 * math.log(5.5 / 2.5)
    index = drift.stability_index(np.array([5, 5]), np.array([8, 2]))
    assert float(index) == pytest.approx(expected)
    # A bin that nobody uses is none.
    index = drift.stability_index(np.array([5, 0, 5]), np.array([8, 0, 2]))
    assert float(index) == pytest.approx(expected)


def test_indices_are_those_of_the_plain_twin():
    draw = np.random.default_rng(1)
    counts = draw.integers(0, 9, (50, 6)) * draw.integers(0, 2, (50, 6))
    expected = draw.integers(0, 30, (50, 6)) * draw.integers(0, 2, (50, 6))
    counts[:, 0] += 1
    expected[:, 1] += 1
    indices = drift.stability_index(counts, expected)
    for row in range(50):
        assert indices[row] == pytest.approx(index_of(counts[row], expected[row]))


def test_bins_are_those_of_the_plain_twin():
    draw = np.random.default_rng(2)
    # Few values, so that many lie on an edge, and edges that are equal.
    values = draw.integers(-3, 4, (7, 4, 11)).astype(np.float32)
    values[3, 2, :4] = np.nan
    edges = np.sort(draw.integers(-2, 3, (4, 5)), 1).astype(np.float32)
    counts = drift.binned(values, edges)
    for channel in range(4):
        flat = values[:, channel].reshape(-1).tolist()
        assert counts[channel].tolist() == bins_of(flat, edges[channel].tolist())
        same = histograms.input_histogram(values[:, channel], edges[channel])
        assert counts[channel].tolist() == same.tolist()


def test_raw_and_prepared_samples_lie_in_the_same_bins():
    pixels = np.arange(256, dtype=np.uint8).reshape(64, 4)
    scores = np.zeros((64, 2), np.float32)
    content = golden.golden(pixels, scores, scores[:16], 1)
    expected = drift.reference(content, small.manifest())
    prepared = pixels.astype(np.float32) / np.float32(255)
    counts = drift.binned(prepared[..., None], expected.edges)
    assert counts.tolist() == np.asarray(content.channel_counts).tolist()


def test_few_samples_say_nothing():
    window = Window(reference())
    window.add(np.zeros((199, 3), np.float32), np.ones((199, 2), np.float32))
    assert window.drift() == drift.Drift()
    window.add(np.zeros((1, 3), np.float32), np.ones((1, 2), np.float32))
    assert window.drift().inputs is not None


def test_what_is_like_the_reference_is_no_drift():
    window = Window(reference())
    draw = np.random.default_rng(9)
    for _ in range(100):
        x = draw.normal(size=(5, 3)).astype(np.float32)
        window.add(x, np.stack([x[:, 0], -x[:, 0]], 1))
    indices = window.drift()
    for index in (indices.inputs, indices.classes, indices.confidence):
        assert index is not None and index < 0.1


def test_one_dead_feature_shows_and_is_named():
    window = Window(reference())
    x = np.random.default_rng(9).normal(size=(300, 3)).astype(np.float32)
    x[:, 2] = 0
    window.add(x, np.stack([x[:, 0], -x[:, 0]], 1))
    indices = window.drift()
    assert indices.channel == 2
    assert indices.inputs is not None and indices.inputs > 0.25
    assert indices.classes is not None and indices.classes < 0.1


def test_a_class_that_comes_too_often_shows():
    window = Window(reference())
    x = np.random.default_rng(9).normal(size=(300, 3)).astype(np.float32)
    window.add(x, np.stack([np.abs(x[:, 0]), -np.abs(x[:, 0])], 1))
    indices = window.drift()
    assert indices.classes is not None and indices.classes > 0.25
    assert indices.inputs is not None and indices.inputs < 0.1


def test_old_samples_leave_the_window():
    window = Window(reference())
    draw = np.random.default_rng(9)
    x = draw.normal(size=(drift.BLOCK, 3)).astype(np.float32)
    y = np.stack([x[:, 0], -x[:, 0]], 1)
    window.add(x + 5, y)
    before = window.drift().inputs
    for _ in range(drift.BLOCKS):
        window.add(x, y)
    after = window.drift().inputs
    assert window.samples == drift.BLOCK * drift.BLOCKS
    assert before is not None and after is not None
    assert before > 1 > 0.1 > after


def test_a_large_picture_is_looked_at_in_part_and_alike():
    draw = np.random.default_rng(3)
    # Each column has its own brightness: every n-th value would be one column.
    columns = np.linspace(0, 1, 96, dtype=np.float32)
    pictures = draw.uniform(0, 1, (40, 1, 96, 96)).astype(np.float32) * columns
    scores = np.zeros((40, 2), np.float32)
    content = golden.golden(pictures, scores, scores[:16], 1)
    manifest = small.manifest(preprocessing=PLAIN)
    window = Window(drift.reference(content, manifest))
    for _ in range(5):
        window.add(pictures, scores)
    values = sum(block.inputs.sum() for block in window._blocks)
    assert values == 5 * 40 * drift.MOST_VALUES
    index = window.drift().inputs
    assert index is not None and index < 0.02


def test_unsure_answers_are_those_below_the_signed_confidence():
    # Probabilities of 0.5, 0.73, 0.88 and, of NaN, none.
    outputs = np.array([[0, 0], [1, 0], [2, 0], [np.nan, 0]], np.float32)
    assert drift.confidences(outputs)[:3].tolist() == pytest.approx(
        [0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))]
    )
    for least, unsure in ((0.5, 1), (0.6, 2), (0.8, 3), (0.95, 4)):
        window = Window(replace(reference(), least_confidence=least))
        assert window.add(np.zeros((4, 3), np.float32), outputs) == (4, unsure)


def test_many_classes_and_small_references_are_not_compared():
    few = DriftReference(
        np.zeros((1, 0), np.float32),
        np.array([[9]]),
        None,
        np.array([5, 4]),
        np.ones(10, np.int64),
    )
    assert not few.has_classes
    assert replace(few, classes=np.array([15, 5])).has_classes
    many = np.full(drift.MOST_CLASSES + 1, 1000)
    assert not replace(few, classes=many).has_classes


def test_an_open_axis_of_another_length_is_not_counted():
    window = Window(reference())
    window.add(np.zeros((200, 4), np.float32), np.zeros((200, 5), np.float32))
    assert window.drift().inputs is None and window.drift().classes is None
    assert window.drift().confidence is not None
