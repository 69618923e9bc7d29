"""What a data set is to the rest of fedlearn: samples of one modality, shared out to clients.

Legend: N samples, T time steps or characters, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

# What one sample is. It decides the scaling of inputs and the shape of targets.
Modality = Literal["image", "series", "text", "features"]

# The target value that loss and accuracy skip (padding of a text line). It is
# torch's default ignore_index.
IGNORE = -100


@dataclass(frozen=True)
class Samples:
    """Inputs and targets of N samples.

    x: (N, C, H, W) uint8 for images (read as x / 255), (N, T, F) float32 for series,
       (N, T) uint8 for text (bytes, 0 is padding), (N, F) float32 for features.
    y: (N,) int64 class numbers, or (N, T) int16 next bytes for text, `IGNORE` where padded.
    """

    x: NDArray[np.generic]
    y: NDArray[np.generic]

    def __len__(self) -> int:
        """Return N."""
        return len(self.y)

    def take(self, indices: NDArray[np.int64]) -> Samples:
        """Return the samples at the given positions, as copies."""
        return Samples(self.x[indices], self.y[indices])


@dataclass(frozen=True)
class Dataset:
    """A data set in memory: training samples, held-out samples and natural owners.

    ids: columns of natural owners of the training samples, each (N,) int64, for example
         {"client": …, "subject": …}; empty where the set has no natural owners.
    labels: (N,) int64, what the label-based partitions split by.
    """

    name: str
    modality: Modality
    classes: int
    # Of one sample: (C, H, W), (T, F), (T,) or (F,).
    input_shape: tuple[int, ...]
    train: Samples
    test: Samples
    labels: NDArray[np.int64]
    ids: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    licence: str = ""
    source: str = ""
    # What its user should know of it, a sentence each: a run shows them once.
    notes: tuple[str, ...] = ()


class ClientData(Protocol):
    """The training data of every client, given out one client at a time."""

    def __len__(self) -> int:
        """Return the number of clients."""

    def size(self, client: int) -> int:
        """Return the number of training samples of one client, without loading them."""

    def __getitem__(self, client: int) -> Samples:
        """Return the training samples of one client (0 ≤ client < len)."""


@dataclass(frozen=True)
class Population:
    """What an experiment trains on: the clients' own data, and the server's held-out samples.

    input_shape: of one sample, as in `Dataset`.
    """

    name: str
    modality: Modality
    classes: int
    input_shape: tuple[int, ...]
    # Asked for one client at a time, so a population need not fit in memory.
    clients: ClientData
    test: Samples
    # As in `Dataset`.
    notes: tuple[str, ...] = ()
