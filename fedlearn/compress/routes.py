"""A threshold for two trained models: below it the small one's answers go to the large one.

Half of the test set sets the threshold, and the other half says what it comes to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.clients.batches import tensors
from fedlearn.clients.placement.routing import (
    RoutedScore,
    Router,
    Routing,
    fit,
    fitted_corrections,
    sureness,
)
from fedlearn.errors import UserError
from fedlearn.runs.trained import Trained

# Samples that are scored at a time: memory alone depends on it.
_BATCH = 500

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class RouteReport:
    """A routing, and what it comes to on samples that did not set it.

    samples: of that half. sent_samples: of them, how many went to the large model.
    """

    routing: Routing
    score: RoutedScore
    samples: int
    sent_samples: int


def fit_route(small: Trained, large: Trained, share: float) -> RouteReport:
    """Return the routing of two models for a share of samples that may be sent, 0 to 1.

    Raises UserError for models of text, and for two that have no test set in common.
    """
    labels = _labels(small, large)
    small_scores = scores_of(small)
    large_scores = scores_of(large)
    # Every other sample: a test set may be sorted by class.
    fitting = np.arange(len(labels)) % 2 == 0
    routing = routed_by(small_scores[fitting], labels[fitting], share)
    score = streamed(
        small_scores[~fitting], large_scores[~fitting], labels[~fitting], routing
    )
    samples = int((~fitting).sum())
    facts = {
        "small": small.name,
        "large": large.name,
        "small_sha256": small.model_sha256,
        "large_sha256": large.model_sha256,
        "small_accuracy": score.small,
        "large_accuracy": score.large,
        "routed_accuracy": score.routed,
        "share_sent": score.share_sent,
        "samples": samples,
    }
    routing = replace(routing, facts=facts)
    return RouteReport(routing, score, samples, round(score.share_sent * samples))


def routed_by(small: Scores, labels: NDArray[np.int64], share: float) -> Routing:
    """Return the routing that held-out samples set. small: (N, K) scores; labels: (N,)."""
    first, second = fitted_corrections(small, labels)
    routing = Routing(0.0, share, first=first, second=second)
    return replace(routing, threshold=fit(sureness(small, routing), share))


def streamed(
    small: Scores, large: Scores, labels: NDArray[np.int64], routing: Routing
) -> RoutedScore:
    """Return what a `Router` comes to on samples that arrive one by one.

    small, large: (N, K) scores; labels: (N,).
    """
    router = Router(routing)
    answers = small.argmax(-1)
    sent_samples = 0
    # One by one: the router keeps its share over time, so their order counts.
    for number in range(len(small)):
        if len(router.unsure(small[number : number + 1])):
            answers[number] = large[number].argmax()
            sent_samples += 1
    return RoutedScore(
        small=float((small.argmax(-1) == labels).mean()),
        large=float((large.argmax(-1) == labels).mean()),
        routed=float((answers == labels).mean()),
        share_sent=sent_samples / len(labels),
    )


def scores_of(trained: Trained) -> Scores:
    """Return a model's scores on its test set, (N, K)."""
    population = trained.population
    samples = tensors(population.test, population.modality)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(samples), _BATCH):
            end = min(start + _BATCH, len(samples))
            x, _ = samples.batch(torch.arange(start, end))
            parts.append(trained.module(x).numpy())
    return np.concatenate(parts)


def _labels(small: Trained, large: Trained) -> NDArray[np.int64]:
    """Return the labels (N,) of the test set that both models have. Raises UserError."""
    here: Any = small.population
    there: Any = large.population
    if here.modality == "text":
        raise UserError(
            f"'{small.source}' is a model of text, whose answers have no single margin"
        )
    is_same = here.test.x.shape == there.test.x.shape
    if not is_same or not np.array_equal(here.test.x, there.test.x):
        raise UserError(
            f"'{small.source}' and '{large.source}' have different test sets; train both "
            "on one data set"
        )
    if len(here.test.y) < 2:
        raise UserError(f"'{small.source}': its test set is too small to fit anything")
    return np.asarray(here.test.y, np.int64)
