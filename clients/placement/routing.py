"""Unsure answers go to a larger model: which ones, for a budget of samples that may be sent.

The margin between the two highest scores tells how sure a small model is: Park et al.,
"Big/Little Deep Neural Network for Ultra Low Power Inference", CODES+ISSS 2015. What
differs: the threshold is fitted on held-out samples for the bytes that a link allows, and
the budget also holds while samples come that are harder than those. A margin says less for
classes that are taken for one another, so each class may correct it: `fitted_corrections`.

Legend: B samples, K classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import UserError
from fedlearn.system import files

FORMAT = "fedlearn-routing-1"

# Samples whose budget may be saved up: a burst of hard ones is sent whole.
_BURST = 32.0

# Steps of Newton's method, of which a few are enough, and penalties on squared weights: the
# first one is worth ten samples a class. The other one keeps equations solvable.
_STEPS = 25
_PENALTY = 10.0
_LEAST_PENALTY = 1e-6

# Of corrections, which are in a file.
_DIGITS = 5

# A threshold is a difference of scores; JSON has no infinite one.
_MOST = 1e30

# A file of some facts; what is larger is another one.
_MOST_BYTES = 64 << 10


@dataclass(frozen=True)
class Routing:
    """What a device needs to route. threshold: what is less sure than it is unsure.

    share: of all samples that may be sent, 0 to 1. output: the scores' name in the model;
    "": its first output. facts: what was measured when it was fitted. first, second: (K,),
    what a margin is corrected by for the class of the highest score and of the next one;
    empty: by nothing.
    """

    threshold: float
    share: float
    output: str = ""
    facts: Mapping[str, Any] | None = None
    first: tuple[float, ...] = ()
    second: tuple[float, ...] = ()


@dataclass(frozen=True)
class RoutedScore:
    """What a threshold comes to on samples with labels: accuracies and shares, 0 to 1."""

    small: float
    large: float
    routed: float
    share_sent: float


def margins(scores: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return how far each sample's highest score is above the next one, (B,).

    scores: (B, K), as logits or as probabilities.
    """
    if scores.shape[-1] < 2:
        return np.full(scores.shape[:-1], np.inf, scores.dtype)
    highest = np.partition(scores, -2, axis=-1)[..., -2:]
    return np.asarray(highest[..., 1] - highest[..., 0])


def sureness(
    scores: NDArray[np.floating[Any]], routing: Routing
) -> NDArray[np.floating[Any]]:
    """Return how sure each sample's answer is, (B,): its margin, corrected by its classes.

    scores: (B, K).
    """
    values = margins(scores)
    if not routing.first:
        return values
    ordered = np.argsort(scores, axis=-1, kind="stable")
    first = np.asarray(routing.first)[ordered[..., -1]]
    second = np.asarray(routing.second)[ordered[..., -2]]
    return np.asarray(values + first + second)


def fitted_corrections(
    scores: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return `Routing.first` and `Routing.second` for the wrong answers of held-out samples.

    scores: (B, K) of the small model; labels: (B,). Empty where margins say nothing.

    Logistic regression of "this answer is wrong" on the margin and both classes, with a
    penalty on all weights, by Newton's method: Bishop, "Pattern Recognition and Machine
    Learning", Springer 2006, section 4.3.3. In units of the margin, so that margins alone
    are the case of no corrections.
    """
    classes = scores.shape[-1]
    values = margins(scores)
    spread = float(values.std()) if classes > 1 else 0.0
    if not spread > 0:
        return (), ()
    ordered = np.argsort(scores, axis=-1, kind="stable")
    kinds = np.eye(classes)
    columns = np.column_stack(
        [
            values / spread,
            kinds[ordered[:, -1]],
            kinds[ordered[:, -2]],
            np.ones(len(values)),
        ]
    )
    weights = _regressed(columns, ordered[:, -1] != labels)
    # Wrong answers that are not the less sure ones: nothing to correct.
    if weights[0] >= 0:
        return (), ()
    corrections = weights[1:-1] * spread / weights[0]
    first = tuple(np.round(corrections[:classes], _DIGITS).tolist())
    second = tuple(np.round(corrections[classes:], _DIGITS).tolist())
    return first, second


def _regressed(
    columns: NDArray[np.float64], targets: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the weights (C,) of columns (B, C); the last column has no penalty."""
    penalty = np.full(columns.shape[1], _PENALTY)
    penalty[-1] = _LEAST_PENALTY
    weights = np.zeros(columns.shape[1])
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-np.clip(columns @ weights, -30, 30)))
        slope = columns.T @ (chances - targets) + penalty * weights
        bends = (columns.T * (chances * (1 - chances))) @ columns
        weights = weights - np.linalg.solve(bends + np.diag(penalty), slope)
    return weights


def fit(values: NDArray[np.floating[Any]], share: float) -> float:
    """Return the threshold below which at most a share of held-out samples lies.

    values: (B,), the `sureness` of each. Equal ones are all sent or none.
    """
    ordered = np.sort(values)
    count = math.floor(share * len(ordered))
    if count >= len(ordered):
        return float(np.nextafter(ordered[-1], np.inf))
    return float(ordered[count])


def scored(
    small: NDArray[np.floating[Any]],
    large: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    routing: Routing,
) -> RoutedScore:
    """Return what routing comes to without its budget. small, large: (B, K); labels: (B,)."""
    is_sent = sureness(small, routing) < routing.threshold
    here = small.argmax(-1)
    there = large.argmax(-1)
    routed = np.where(is_sent, there, here)
    return RoutedScore(
        small=float((here == labels).mean()),
        large=float((there == labels).mean()),
        routed=float((routed == labels).mean()),
        share_sent=float(is_sent.mean()),
    )


class Router:
    """Tells which samples of a batch go to the larger model, within the budget."""

    def __init__(self, routing: Routing) -> None:
        """Begin with an empty budget: what is sent is never more than the share."""
        self.routing = routing
        self._credit = 0.0

    def unsure(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
        """Return the numbers of the samples that are to be sent, the least sure first.

        scores: (B, K). Each sample adds ``share`` to the budget, and one that is sent takes 1.
        """
        values = sureness(scores, self.routing)
        self._credit = min(
            self._credit + self.routing.share * len(values),
            max(_BURST, self.routing.share * len(values)),
        )
        order = np.argsort(values, kind="stable")
        below = order[values[order] < self.routing.threshold]
        chosen = below[: int(self._credit)]
        self._credit -= len(chosen)
        return chosen

    def unsent(self, count: int) -> None:
        """Take back the budget of samples that could not be sent."""
        self._credit += count


def write(path: Path, routing: Routing) -> None:
    """Write a routing file. Raises OSError."""
    values = {"format": FORMAT, **asdict(routing)}
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    files.replace(path, text.encode(), files.PUBLIC)


def read(path: Path) -> Routing:
    """Return what a routing file says; raises UserError, which names the key."""
    try:
        with open(path, "rb") as file:
            values = json.loads(file.read(_MOST_BYTES))
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be read: {error.strerror}; `fedlearn place route` writes one"
        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"'{path}' is no JSON") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(
            f"'{path}' is no routing file of the format {FORMAT}; `fedlearn place route` "
            "writes one"
        )
    threshold = _number(path, values, "threshold", -_MOST, _MOST)
    share = _number(path, values, "share", 0.0, 1.0)
    output = values.get("output", "")
    if not isinstance(output, str):
        raise UserError(f"'{path}': output is no text")
    first = _numbers(path, values, "first")
    second = _numbers(path, values, "second")
    if len(first) != len(second):
        raise UserError(f"'{path}': first and second have to be as long as each other")
    return Routing(threshold, share, output, first=first, second=second)


def _numbers(path: Path, values: Mapping[str, Any], key: str) -> tuple[float, ...]:
    """Return a list of numbers, or none of them. Raises UserError."""
    cells: Any = values.get(key, [])
    if not isinstance(cells, list):
        raise UserError(f"'{path}': {key} has to be a list of numbers, one a class")
    numbered = {f"{key}[{place}]": cell for place, cell in enumerate(cells)}
    return tuple(_number(path, numbered, name, -_MOST, _MOST) for name in numbered)


def _number(
    path: Path, values: Mapping[str, Any], key: str, lowest: float, highest: float
) -> float:
    value: Any = values.get(key)
    # A boolean is an int to Python, and NaN is within no bounds.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and lowest <= float(value) <= highest):
        raise UserError(
            f"'{path}': {key} has to be a number from {lowest:g} to {highest:g}"
        )
    return float(value)
