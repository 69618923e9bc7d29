"""A partition for any number of clients: each draws its samples with replacement, when asked for.

Real sets have fewer samples than a large population has clients, so the kinds that deal samples
out must stop. This kind lets clients share samples. A client's share is a function of
(seed, client), so a million clients take no more memory than one. A run on such clients shows
what a large population costs; it does not show what more data would teach.

Source: the artificial users of pfl-research (Granqvist et al., NeurIPS 2024 Datasets and
Benchmarks). The mix of classes follows Hsu et al. (2019), with a symmetric Dirichlet.

Legend: N samples, M clients, K classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.by_owner import Ids, column
from fedlearn.data.checks import DEFAULT_CLIENTS, concentrations, whole
from fedlearn.seeds import generator

# Largest number of clients, and of samples of one client.
LARGEST = 10**9


@dataclass(frozen=True, eq=False)
class DrawnPartition:
    """The shares of M clients with n samples each, computed when asked for.

    order: (N,) int64 positions of samples, class after class.
    starts: (K + 1,) int64, where each class begins in ``order``.
    alpha: (K,) float64 concentrations of a client's mix of classes; None: every sample is
           as likely as any other.
    """

    seed: int
    clients: int
    samples: int
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    alpha: NDArray[np.float64] | None

    def __len__(self) -> int:
        """Return M."""
        return self.clients

    def size(self, client: int) -> int:
        """Return the number of samples of one client."""
        return self.samples

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of samples of every client, (M,) int64."""
        return np.full(self.clients, self.samples, np.int64)

    def indices(self, client: int) -> NDArray[np.int64]:
        """Return the positions (n,) of one client's samples, ascending, with repetitions.

        Raises IndexError outside 0 ≤ client < M.
        """
        if not 0 <= client < self.clients:
            raise IndexError(f"client {client} of {self.clients}")
        # A stream of its own for each client: no client depends on how many there are.
        rng = generator(self.seed, "partition/drawn", int(client))
        if self.alpha is None:
            places = rng.integers(len(self.order), size=self.samples)
        else:
            # First the client's mix of classes, then so many samples of each class.
            mix = rng.dirichlet(self.alpha)
            counts = rng.multinomial(self.samples, mix)
            first = np.repeat(self.starts[:-1], counts)
            class_sizes = np.diff(self.starts)
            places = first + rng.integers(np.repeat(class_sizes, counts))
        return np.sort(self.order[places])

    def sha256(self) -> str:
        """Return the hex SHA-256 of everything that the shares follow from."""
        alpha = ""
        if self.alpha is not None:
            alpha = self.alpha.astype("<f8").tobytes().hex()
        numbers = f"{self.seed} {self.clients} {self.samples}"
        head = f"drawn {numbers} {alpha}"
        digest = hashlib.sha256(head.encode())
        # Little-endian whatever the machine, so that the digest is the same everywhere.
        for array in (self.starts, self.order):
            digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()


def drawn(
    labels: NDArray[np.int64],
    ids: Ids,
    rng: np.random.Generator,
    clients: int = DEFAULT_CLIENTS,
    samples_per_client: int = 50,
    alpha: float | list[float] | None = None,
    partition_by: str = "label",
) -> DrawnPartition:
    """Let every client draw ``samples_per_client`` samples with replacement.

    alpha: each client first draws its own mix of the classes, Dirichlet(alpha), one number or
    one per class; None: all clients are alike. Raises ConfigError for a wrong value.
    """
    values = column(labels, ids, partition_by)
    classes, inverse = np.unique(values, return_inverse=True)
    # numpy 2.0 alone returns the inverse in the shape of its input.
    inverse = inverse.reshape(-1)
    counts = np.bincount(inverse, minlength=len(classes))
    mix = None
    if alpha is not None:
        where = "[data.partition] alpha"
        mix = concentrations(where, alpha, len(classes), "classes")
    return DrawnPartition(
        # From the partition's stream, so that the experiment's seed decides.
        seed=int(rng.integers(1 << 62)),
        clients=whole("[data.partition] clients", clients, 1, LARGEST),
        samples=whole(
            "[data.partition] samples_per_client", samples_per_client, 1, LARGEST
        ),
        order=np.argsort(inverse, kind="stable").astype(np.int64),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        alpha=mix,
    )
