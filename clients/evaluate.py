"""Loss and accuracy of a model on a client's or the server's samples.

Legend: N samples, B batch, T characters, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum

import torch
from torch import nn

from fedlearn.clients.batches import Tensors
from fedlearn.data.samples import IGNORE


@dataclass(frozen=True)
class Score:
    """Sums over targets, so that scores of parts add up exactly.

    A target is a sample, or a character of text.
    """

    loss_sum: float
    correct: int
    targets: int
    samples: int

    @property
    def loss(self) -> float:
        """Return the mean loss of a target."""
        return self.loss_sum / self.targets if self.targets else float("nan")

    @property
    def accuracy(self) -> float:
        """Return the share of targets whose highest score is right."""
        return self.correct / self.targets if self.targets else float("nan")


def add(scores: Iterable[Score]) -> Score:
    """Return the score of all parts together; exactly rounded, so their order does not matter."""
    # fsum rounds once, whatever the order: parts may be scored by any worker.
    parts = list(scores)
    return Score(
        fsum(part.loss_sum for part in parts),
        sum(part.correct for part in parts),
        sum(part.targets for part in parts),
        sum(part.samples for part in parts),
    )


def evaluate(module: nn.Module, data: Tensors, batch_size: int = 500) -> Score:
    """Return the score of ``module``, as its weights are now, in evaluation mode."""
    # Dropout off, and BatchNorm by its running statistics.
    module.eval()
    parts = []
    with torch.no_grad():
        # Fixed parts: other sizes would round the float sums differently.
        for start in range(0, len(data), batch_size):
            end = min(start + batch_size, len(data))
            x, y = data.batch(torch.arange(start, end, device=data.y.device))
            parts.append(_score(module(x).float(), y))
    return add(parts)


def _score(scores: torch.Tensor, targets: torch.Tensor) -> Score:
    """Return the score of scores (B, K) or (B, T, K) for targets (B,) or (B, T)."""
    # A sum, not a mean: means of unequal parts do not add up.
    loss_sum = nn.functional.cross_entropy(
        scores.flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    counts = targets != IGNORE
    correct = (scores.argmax(-1) == targets) & counts
    return Score(
        float(loss_sum), int(correct.sum()), int(counts.sum()), samples=len(targets)
    )
