"""A partition for any number of clients: each draws its samples when it is asked, and many clients may draw the same one.

Real sets have fewer samples than a large population has clients. The kinds that deal samples out must then stop; this one draws
with replacement, so every client's share is a function of (seed, client), and a million clients cost what one does. What such a run
learns is that of many like clients, not of more data.

Source: the artificial users of pfl-research (Granqvist et al., NeurIPS 2024 Datasets and Benchmarks); the mix of classes as in Hsu
et al. (2019), with a symmetric Dirichlet.

Legend: N samples, M clients, K classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.by_owner import Ids, column
from fedlearn.data.checks import concentrations, whole
from fedlearn.data.partition import CLIENTS
from fedlearn.seeds import generator

LARGEST = 10**9
"""Most clients; also most samples of one."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """The shares of M clients with n samples each, made when asked for.

    order: (N,) int64 positions of samples, class after class. starts: (K + 1,) int64, where each class begins in it.
    alpha: (K,) float64 concentrations of a client's mix of classes; None: every sample is as likely as any other.
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
        """Return the positions of one client's samples, ascending, some perhaps twice; raises IndexError outside 0 ≤ client < M."""
        if not 0 <= client < self.clients:
            raise IndexError(f"client {client} of {self.clients}")
        rng = generator(self.seed, "partition/drawn", int(client))
        if self.alpha is None:
            places = rng.integers(len(self.order), size=self.samples)
        else:
            counts = rng.multinomial(self.samples, rng.dirichlet(self.alpha))
            first, room = (
                np.repeat(each, counts)
                for each in (self.starts[:-1], np.diff(self.starts))
            )
            places = first + rng.integers(room)
        return np.sort(self.order[places])

    def sha256(self) -> str:
        """Return the hex SHA-256 of what the shares follow from: equal where they are."""
        alpha = "" if self.alpha is None else self.alpha.astype("<f8").tobytes().hex()
        digest = hashlib.sha256(
            f"drawn {self.seed} {self.clients} {self.samples} {alpha}".encode()
        )
        digest.update(
            self.starts.astype("<i8").tobytes() + self.order.astype("<i8").tobytes()
        )
        return digest.hexdigest()


def drawn(
    labels: NDArray[np.int64],
    ids: Ids,
    rng: np.random.Generator,
    clients: int = CLIENTS,
    samples_per_client: int = 50,
    alpha: float | list[float] | None = None,
    partition_by: str = "label",
) -> Drawn:
    """Let every client draw ``samples_per_client`` samples with replacement.

    alpha: each client first draws its own mix of the classes, Dirichlet(alpha), one number or one per class; left out: all clients
    are alike. Raises ConfigError.
    """
    values = column(labels, ids, partition_by)
    classes, inverse = np.unique(values, return_inverse=True)
    counts = np.bincount(inverse.reshape(-1), minlength=len(classes))
    return Drawn(
        seed=int(rng.integers(1 << 62)),
        clients=whole("[data.partition] clients", clients, 1, LARGEST),
        samples=whole(
            "[data.partition] samples_per_client", samples_per_client, 1, LARGEST
        ),
        order=np.argsort(inverse.reshape(-1), kind="stable").astype(np.int64),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        alpha=None
        if alpha is None
        else concentrations("[data.partition] alpha", alpha, len(classes), "classes"),
    )
