"""Histograms of samples and of answers, which a golden file keeps.

Legend: E edges, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Bins of the inputs' values and of the confidences.
BINS = 10


def input_histogram(
    inputs: NDArray[Any], edges: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return how many values of raw samples lie between edges, (E + 1,) int64."""
    values = inputs.reshape(-1).astype(np.float32)
    bins = np.searchsorted(edges, values, side="right")
    return np.bincount(bins, minlength=len(edges) + 1)


def confidence_histogram(outputs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return how many outputs (…, K) have which highest probability, (10,) int64."""
    scores = outputs.reshape(-1, outputs.shape[-1]).astype(np.float64)
    # Of softmax: the highest score has e^0 above the sum.
    sums = np.exp(scores - scores.max(-1, keepdims=True)).sum(-1)
    bins = np.minimum((BINS / sums).astype(np.int64), BINS - 1)
    return np.bincount(bins, minlength=BINS)
