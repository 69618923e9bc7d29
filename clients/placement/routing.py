"""Unsure answers go to a larger model: which ones, for a budget of samples that may be sent.

The margin between the two highest scores tells how sure a small model is: Park et al.,
"Big/Little Deep Neural Network for Ultra Low Power Inference", CODES+ISSS 2015. What
differs: the threshold is fitted on held-out samples for the bytes that a link allows, and
the budget also holds while samples come that are harder than those.

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

# A file of some facts; what is larger is another one.
_MOST_BYTES = 64 << 10


@dataclass(frozen=True)
class Routing:
    """What a device needs to route. threshold: margins below it are unsure.

    share: of all samples that may be sent, 0 to 1. output: the scores' name in the model;
    "": its first output. facts: what was measured when it was fitted.
    """

    threshold: float
    share: float
    output: str = ""
    facts: Mapping[str, Any] | None = None


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


def fit(scores: NDArray[np.floating[Any]], share: float) -> float:
    """Return the threshold below which at most a share of held-out samples lies.

    scores: (B, K) of the small model. Equal margins are all sent or none.
    """
    ordered = np.sort(margins(scores))
    count = math.floor(share * len(ordered))
    if count >= len(ordered):
        return float(np.nextafter(ordered[-1], np.inf))
    return float(ordered[count])


def scored(
    small: NDArray[np.floating[Any]],
    large: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    threshold: float,
) -> RoutedScore:
    """Return what routing by a threshold comes to. small, large: (B, K); labels: (B,)."""
    is_sent = margins(small) < threshold
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
        values = margins(scores)
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
    threshold = _number(path, values, "threshold", 0.0, math.inf)
    share = _number(path, values, "share", 0.0, 1.0)
    output = values.get("output", "")
    if not isinstance(output, str):
        raise UserError(f"'{path}': output is no text")
    return Routing(threshold, share, output)


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
