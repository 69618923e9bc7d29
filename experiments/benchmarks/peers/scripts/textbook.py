"""The workloads' models as a textbook writes them in torch. Needs torch alone: it runs in
the peers' own environments too.

Legend: B batch, T characters or time steps, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """Two convolutions with pooling and two dense layers: the textbook's way to write W1's and
    W2's models.
    """

    def __init__(
        self, size: int, kernel: int, channels: tuple[int, int], width: int
    ) -> None:
        """Make the layers for square pictures of one channel."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels[0], kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(channels[0], channels[1], kernel, padding=kernel // 2)
        self.hidden = nn.Linear(channels[1] * (size // 4) ** 2, width)
        self.output = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the class scores (B, K)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        scores: torch.Tensor = self.output(F.relu(self.hidden(x.flatten(1))))
        return scores


class CharNet(nn.Module):
    """W3's model."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.embedding = nn.Embedding(90, 8)
        self.lstm = nn.LSTM(8, 256, 2, batch_first=True)
        self.output = nn.Linear(256, 90)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores of the next character after each (B, T, K)."""
        scores: torch.Tensor = self.output(self.lstm(self.embedding(x))[0])
        return scores


class SeriesNet(nn.Module):
    """W4's model."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.lstm = nn.LSTM(6, 64, batch_first=True)
        self.output = nn.Linear(64, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the class scores (B, K)."""
        scores: torch.Tensor = self.output(self.lstm(x)[0].mean(dim=1))
        return scores


MODELS: dict[str, Callable[[], nn.Module]] = {
    "W1": lambda: Net(8, 3, (16, 32), 64),
    "W2": lambda: Net(28, 5, (32, 64), 512),
    "W3": CharNet,
    "W4": SeriesNet,
}


def parameters(module: nn.Module) -> int:
    """Return how many numbers a model learns."""
    return sum(weight.numel() for weight in module.parameters())


def loss(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy over a batch's targets, (B,) or (B, T)."""
    return F.cross_entropy(scores.flatten(0, -2), targets.flatten())
