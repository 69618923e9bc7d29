"""How far requests and answers are from what a package was tested on.

The population stability index of two histograms, p of now and q of the reference, is the sum
over the bins of (p - q) ln(p / q) (Siddiqi, "Credit Risk Scorecards", Wiley 2006). Below 0.1
nothing has changed, above 0.25 much has. The reference is the package's own, signed, golden
file; here is the window of what came last.

Legend: B samples, C channels, E edges, K classes, V values of a channel.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.package import histograms
from fedlearn.package.golden import Golden
from fedlearn.package.manifest import Manifest
from fedlearn.package.parts import CONFIDENCE

Array = NDArray[Any]
Counts = NDArray[np.int64]

# The window: so many blocks of so many samples, of which the oldest one goes.
BLOCK = 250
BLOCKS = 4

# Samples below which a window proves nothing. Two histograms of ten bins, of 200 and of 1,000
# samples of one source, differ by 0.25 about once in 200,000 times (9 degrees of freedom:
# Yurdakul, "Statistical Properties of Population Stability Index", WMU 2018).
LEAST_SAMPLES = 200

# Samples for each class likewise; with more classes than this, a window is too short.
LEAST_A_CLASS = 20
MOST_CLASSES = BLOCK * BLOCKS // LEAST_A_CLASS

# Values of a sample that are looked at: a picture has 150,000, and 3 ms for them.
MOST_VALUES = 4096

# Added to each bin that either histogram uses, so that none is empty (Jeffreys' prior).
_PRIOR = 0.5


@dataclass(frozen=True)
class DriftReference:
    """The histograms of a package's test samples, over the graph's own inputs.

    edges: (C, E) float32. inputs: (C, E + 1), values between them. axis: of the channels in
    inputs (B, …); None: one histogram of all values, C = 1. classes: (K,), how often each had
    the highest score. confidences: (10,), of its probability, in tenths. least_confidence:
    below it an answer is unsure.
    """

    edges: NDArray[np.float32]
    inputs: Counts
    axis: int | None
    classes: Counts
    confidences: Counts
    least_confidence: float = CONFIDENCE

    @property
    def has_classes(self) -> bool:
        """Tell whether classes are few enough to be compared in a window."""
        classes = len(self.classes)
        is_few = classes <= MOST_CLASSES
        return is_few and int(self.classes.sum()) >= LEAST_A_CLASS / 2 * classes


@dataclass(frozen=True)
class Drift:
    """Population stability indices of a window; None: too few samples to say.

    inputs: of the channel that is furthest off, which is ``channel``.
    """

    inputs: float | None = None
    channel: int = 0
    classes: float | None = None
    confidence: float | None = None


def reference(content: Golden, manifest: Manifest) -> DriftReference:
    """Return the reference of a package: its golden file, with edges as inputs have them."""
    edges = content.input_edges[None]
    counts = content.input_counts[None]
    axis = None
    is_split = content.channel_edges is not None and content.channel_counts is not None
    if is_split and content.channel_axis is not None:
        edges = np.asarray(content.channel_edges)
        counts = np.asarray(content.channel_counts)
        axis = int(content.channel_axis)
    # Edges go the way of the samples, by the same operations: no value changes its bin.
    divide = manifest.preprocessing.divide
    if divide is not None:
        edges = edges / np.float32(divide)
    return DriftReference(
        edges=edges,
        inputs=counts,
        axis=axis,
        classes=content.class_counts,
        confidences=content.confidence_counts,
        least_confidence=manifest.health.least_confidence,
    )


def stability_index(counts: Counts, expected: Counts) -> NDArray[np.float64]:
    """Return the population stability index of histograms along their last axis.

    counts, expected: (…, bins). Bins that both leave empty do not count. Both need a value.
    """
    is_used = (counts + expected) > 0
    now = np.where(is_used, counts + _PRIOR, 1.0)
    before = np.where(is_used, expected + _PRIOR, 1.0)
    p = now / (now * is_used).sum(-1, keepdims=True)
    q = before / (before * is_used).sum(-1, keepdims=True)
    index: NDArray[np.float64] = ((p - q) * np.log(p / q) * is_used).sum(-1)
    return index


def confidences(outputs: Array) -> NDArray[np.float64]:
    """Return the highest probability (softmax) of each of outputs (…, K); of NaN, 0."""
    scores = outputs.reshape(-1, outputs.shape[-1]).astype(np.float64)
    with np.errstate(all="ignore"):
        sums = np.exp(scores - scores.max(-1, keepdims=True)).sum(-1)
    # A model that gives no numbers is not sure of anything.
    sums[~np.isfinite(sums)] = np.inf
    highest: NDArray[np.float64] = 1 / sums
    return highest


class Window:
    """The samples of the last blocks against a reference; memory for histograms alone."""

    def __init__(self, reference: DriftReference) -> None:
        """Begin with no samples."""
        self.reference = reference
        self._blocks = deque([_Block(reference)], BLOCKS)
        # Positions of a channel that are looked at, by the number of its values.
        self._positions: dict[int, Array] = {}

    def add(self, inputs: Array, outputs: Array) -> tuple[int, int]:
        """Count samples: inputs (B, …) as the graph takes them, and outputs (B, …, K).

        Returns how many answers there are, and how many of them are unsure.
        """
        highest = confidences(outputs)
        block = self._blocks[-1]
        if block.samples >= BLOCK:
            block = _Block(self.reference)
            self._blocks.append(block)
        block.samples += len(inputs)
        block.inputs += self._input_counts(inputs)
        classes = len(block.classes)
        # Of an output with an open last axis.
        if outputs.shape[-1] == classes:
            labels = outputs.argmax(-1).reshape(-1)
            block.classes += np.bincount(labels, minlength=classes)
        tenths = np.minimum(
            (histograms.BINS * highest).astype(np.int64), histograms.BINS - 1
        )
        block.confidences += np.bincount(tenths, minlength=histograms.BINS)
        unsure = np.count_nonzero(highest < self.reference.least_confidence)
        return len(highest), int(unsure)

    @property
    def samples(self) -> int:
        """Return how many samples are in the window."""
        return sum(block.samples for block in self._blocks)

    def drift(self) -> Drift:
        """Return how far the window is from the reference."""
        samples = self.samples
        expected = self.reference
        if samples < LEAST_SAMPLES:
            return Drift()
        inputs = _of(sum(block.inputs for block in self._blocks), expected.inputs)
        channel = 0 if inputs is None else int(inputs.argmax())
        classes = None
        if expected.has_classes and samples >= LEAST_A_CLASS * len(expected.classes):
            counts = sum(block.classes for block in self._blocks)
            classes = _of(counts, expected.classes)
        counts = sum(block.confidences for block in self._blocks)
        confidence = _of(counts, expected.confidences)
        return Drift(
            inputs=None if inputs is None else float(inputs.max()),
            channel=channel,
            classes=None if classes is None else float(classes),
            confidence=None if confidence is None else float(confidence),
        )

    def _input_counts(self, inputs: Array) -> Counts:
        """Return how many values of each channel lie between its edges, (C, E + 1)."""
        edges = self.reference.edges
        channels = len(edges)
        axis = self.reference.axis
        if axis is None:
            split = inputs.reshape(len(inputs), 1, -1)
        else:
            split = np.moveaxis(inputs, axis, 1)
            split = split.reshape(len(inputs), split.shape[1], -1)
        # Of an input with an open axis of channels.
        if split.shape[1] != channels:
            return np.zeros_like(self.reference.inputs)
        values = split[:, :, self._chosen(split.shape[2], channels)]
        return binned(values.astype(np.float32, copy=False), edges)

    def _chosen(self, values: int, channels: int) -> Any:
        """Return which values of a channel are looked at: all, or the same few of many.

        They are drawn once: every n-th one would be a column of a picture.
        """
        limit = ceil(MOST_VALUES / channels)
        if values <= limit:
            return slice(None)
        if values not in self._positions:
            # Of inputs of any length, the positions of one length at a time.
            self._positions.clear()
            draw = np.random.default_rng(0)
            self._positions[values] = draw.choice(values, limit, replace=False)
        return self._positions[values]


def binned(values: NDArray[np.float32], edges: NDArray[np.float32]) -> Counts:
    """Return how many of values (B, C, V) lie between edges (C, E), (C, E + 1) int64.

    A value on an edge lies above it, and NaN above all, as in `histograms.input_histogram`.
    """
    channels = len(edges)
    bins = edges.shape[1] + 1
    # All channels at once: a search in each would cost 5 µs apart.
    places = (~(values[..., None] < edges[:, None, :])).sum(-1)
    places += bins * np.arange(channels)[:, None]
    counts: Counts = np.bincount(places.reshape(-1), minlength=bins * channels)
    return counts.reshape(channels, bins)


class _Block:
    """The histograms of some samples that came one after another."""

    def __init__(self, reference: DriftReference) -> None:
        self.samples = 0
        self.inputs = np.zeros_like(reference.inputs)
        self.classes = np.zeros_like(reference.classes)
        self.confidences = np.zeros_like(reference.confidences)


def _of(counts: Any, expected: Counts) -> NDArray[np.float64] | None:
    """Return the index of histograms; None where one of them is empty."""
    if not counts.sum(-1).all() or not expected.sum(-1).all():
        return None
    return stability_index(counts, expected)
