"""Proof that an exported model is the trained one: the same scores on the whole test set.

Legend: N samples, B batch, T characters of a text, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.clients.batches import Tensors, tensors
from fedlearn.data.samples import IGNORE
from fedlearn.errors import ModelError, reason_of
from fedlearn.export.extras import required
from fedlearn.export.session import Scorer
from fedlearn.runs.trained import Trained

# Of a score, absolute: other runtimes sum in other orders.
TOLERANCE = 1e-4

# Two scores that torch has closer together than this may change places: torch itself
# orders them otherwise in a batch of another size.
TIE = 1e-5

# Samples of the test set in batches of each size: a part, a part, all.
Batches = Sequence[tuple[int, int | None]]
BATCHES: Batches = ((1, 32), (2, 64), (500, None))


@dataclass(frozen=True)
class Parity:
    """How an exported model's scores compare with torch's, at all batch sizes together.

    largest: the largest difference of two scores. ties: targets whose highest score is
    another one, of two that torch has within `TIE`. changed: such targets beyond it.
    accuracy, torch_accuracy: shares of targets, on the whole test set.
    """

    largest: float
    ties: int
    changed: int
    targets: int
    accuracy: float
    torch_accuracy: float

    @property
    def holds(self) -> bool:
        """Tell whether the exported model is the trained one."""
        # Written so that NaN does not hold.
        return self.largest <= TOLERANCE and self.changed == 0


@dataclass
class _Tally:
    """What one pass over test samples counts."""

    largest: float = 0.0
    ties: int = 0
    changed: int = 0
    targets: int = 0
    correct: int = 0
    torch_correct: int = 0

    def add(
        self, scores: NDArray[Any], expected: NDArray[Any], targets: NDArray[Any]
    ) -> None:
        """Count a batch: scores (B, …, K), torch's, and targets (B, …)."""
        difference = np.abs(scores - expected).max()
        # NaN stays NaN.
        self.largest = float(np.maximum(self.largest, difference))
        highest = scores.argmax(-1)
        torch_highest = expected.argmax(-1)
        is_counted = targets != IGNORE
        self.targets += int(is_counted.sum())
        self.correct += int(((highest == targets) & is_counted).sum())
        self.torch_correct += int(((torch_highest == targets) & is_counted).sum())
        # How much higher torch has its own choice than the exported model's.
        gaps = _at(expected, torch_highest) - _at(expected, highest)
        is_other = highest != torch_highest
        is_tie = is_other & (gaps <= TIE)
        self.ties += int(is_tie.sum())
        self.changed += int((is_other & ~is_tie).sum())


def _at(scores: NDArray[Any], classes: NDArray[np.int64]) -> NDArray[Any]:
    """Return the score (B, …) of one class each."""
    chosen: NDArray[Any] = np.take_along_axis(scores, classes[..., None], -1)[..., 0]
    return chosen


def compare(trained: Trained, score: Scorer, batches: Batches = BATCHES) -> Parity:
    """Return how a scorer compares with the trained module on the server's test set.

    batches: (B, samples of the test set; None: all). The last must take all, as it gives
    the accuracies. Raises ModelError without test samples, and for scores of another shape.
    """
    data = tensors(trained.population.test, trained.population.modality)
    if not len(data):
        raise ModelError(
            f"data set '{trained.population.name}' has no test samples, so nothing proves "
            "that an exported model is the trained one"
        )
    # Models of half floats are exported as float32 ones.
    module = copy.deepcopy(trained.module).float().eval()
    passes = [_pass(module, score, data, size, samples) for size, samples in batches]
    full = passes[-1]
    return Parity(
        # numpy's maximum, as Python's would lose NaN.
        largest=float(np.max([tally.largest for tally in passes])),
        ties=sum(tally.ties for tally in passes),
        changed=sum(tally.changed for tally in passes),
        targets=full.targets,
        accuracy=full.correct / full.targets if full.targets else float("nan"),
        torch_accuracy=(
            full.torch_correct / full.targets if full.targets else float("nan")
        ),
    )


def _pass(
    module: torch.nn.Module,
    score: Scorer,
    data: Tensors,
    size: int,
    samples: int | None,
) -> _Tally:
    """Return what a pass over the first samples counts, in batches of one size."""
    total = len(data) if samples is None else min(samples, len(data))
    tally = _Tally()
    for start in range(0, total, size):
        positions = torch.arange(start, min(start + size, total))
        x, y = data.batch(positions)
        with torch.no_grad():
            expected = module(x).numpy()
        scores = np.asarray(score(np.ascontiguousarray(x.numpy())))
        if scores.shape != expected.shape:
            raise ModelError(
                f"the exported model gives scores {list(scores.shape)}, the trained one "
                f"{list(expected.shape)}"
            )
        tally.add(scores, expected, y.numpy())
    return tally


def check(parity: Parity, label: str) -> None:
    """Raise ModelError with the figure for a model that is not the trained one."""
    if parity.holds:
        return
    raise ModelError(
        f"{label}: the exported model is not the trained one: scores differ by up to "
        f"{parity.largest:.1e} (at most {TOLERANCE:.0e}), and {parity.changed} "
        "targets have another highest score; nothing is written"
    )


def check_graph(graph: Path) -> None:
    """Run ONNX's own checker on a file; raises ModelError for what it refuses."""
    onnx = required("onnx", "export", "ONNX")
    try:
        onnx.checker.check_model(str(graph), full_check=True)
    # It raises errors of several classes.
    except Exception as error:
        raise ModelError(
            f"onnx.checker refuses {graph.name}: {reason_of(error)}"
        ) from error
