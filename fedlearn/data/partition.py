"""Which samples belong to which client: partitions, and the kinds that a config can ask for.

Names and parameters are those of flwr-datasets' partitioners. A kind is a function that returns
``owners`` (N,) int64: the client of every sample, −1 for a sample that nobody gets. So no sample
can have two owners. The kind "drawn" is our own: any number of clients, who share samples.

Legend: N samples, M clients, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import whole
from fedlearn.data.drawn import DrawnPartition
from fedlearn.data.samples import Dataset, Samples
from fedlearn.errors import ConfigError, FedlearnError, pass_on_signal, reason_of
from fedlearn.names import Named, call, find
from fedlearn.seeds import derive, generator, isolated

# The kinds by name, imported when used: a run needs one of them.
KINDS: dict[str, Named] = {
    "iid": Named("fedlearn.data.by_size:iid", "shuffled, equal shares"),
    # McMahan et al. (AISTATS 2017).
    "shard": Named(
        "fedlearn.data.by_label:shard",
        "sorted by label, cut into shards, a few shards each (McMahan)",
    ),
    # Li et al., NIID-Bench (ICDE 2022).
    "pathological": Named(
        "fedlearn.data.by_label:pathological", "exactly c classes each"
    ),
    # Yurochkin et al. (ICML 2019); Hsu et al. (2019).
    "dirichlet": Named(
        "fedlearn.data.dirichlet:dirichlet",
        "every class is split by Dirichlet(alpha) shares",
    ),
    # Acar et al., FedDyn (ICLR 2021).
    "inner_dirichlet": Named(
        "fedlearn.data.dirichlet:inner_dirichlet",
        "given sizes, class mix by Dirichlet(alpha)",
    ),
    # Li et al., FedProx (MLSys 2020).
    "distribution": Named(
        "fedlearn.data.by_label:distribution",
        "two classes each, power-law sizes (FedProx)",
    ),
    "natural_id": Named(
        "fedlearn.data.by_owner:natural_id", "the owners that the data came from"
    ),
    "grouped_natural_id": Named(
        "fedlearn.data.by_owner:grouped_natural_id", "natural owners in groups"
    ),
    # flwr-datasets' own, unlike sizes of like mixes.
    "size": Named("fedlearn.data.by_size:size", "the sizes you list"),
    "linear": Named(
        "fedlearn.data.by_size:linear", "client i gets a share in proportion to i"
    ),
    "square": Named("fedlearn.data.by_size:square", "in proportion to i squared"),
    "exponential": Named(
        "fedlearn.data.by_size:exponential", "in proportion to exp(i)"
    ),
    # Granqvist et al., pfl-research (NeurIPS 2024).
    "drawn": Named(
        "fedlearn.data.drawn:drawn",
        "each draws its own with replacement: any number of clients",
    ),
}


@dataclass(frozen=True, eq=False)
class Partition:
    """The samples of M clients, as one array of positions cut at M + 1 offsets.

    order: (n,) int64 positions of samples, client after client, ascending within a client.
    offsets: (M + 1,) int64; client k has order[offsets[k]:offsets[k + 1]].
    """

    order: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @classmethod
    def from_owners(cls, owners: NDArray[np.int64], clients: int) -> Partition:
        """Gather each client's positions; ``owners`` (N,) holds client numbers, −1 for nobody."""
        used = np.flatnonzero(owners >= 0)
        # A stable sort leaves the positions of each client in ascending order.
        order = used[np.argsort(owners[used], kind="stable")].astype(np.int64)
        # A client whom nothing belongs to has a size too, 0.
        sizes = np.bincount(owners[used], minlength=clients)
        ends = np.cumsum(sizes)
        offsets = np.concatenate([[0], ends])
        return cls(order, offsets.astype(np.int64))

    def __len__(self) -> int:
        """Return M."""
        return len(self.offsets) - 1

    def size(self, client: int) -> int:
        """Return the number of samples of one client."""
        start = self.offsets[client]
        end = self.offsets[client + 1]
        return int(end - start)

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of samples of every client, (M,) int64."""
        return np.diff(self.offsets)

    def indices(self, client: int) -> NDArray[np.int64]:
        """Return the positions of one client's samples, ascending.

        Raises IndexError outside 0 ≤ client < M.
        """
        if not 0 <= client < len(self):
            raise IndexError(f"client {client} of {len(self)}")
        start = self.offsets[client]
        end = self.offsets[client + 1]
        return self.order[start:end]

    def sha256(self) -> str:
        """Return the hex SHA-256 of offsets and order as little-endian int64.

        Two partitions have the same digest where all shares are the same.
        """
        digest = hashlib.sha256()
        # Little-endian whatever the machine, so that the digest is the same everywhere.
        for array in (self.offsets, self.order):
            digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Partitioned:
    """`ClientData` over one data set in memory; samples are copied out on demand."""

    train: Samples
    partition: Partition | DrawnPartition

    def __len__(self) -> int:
        """Return M."""
        return len(self.partition)

    def size(self, client: int) -> int:
        """Return the number of training samples of one client."""
        return self.partition.size(client)

    def __getitem__(self, client: int) -> Samples:
        """Return the training samples of one client, as copies."""
        indices = self.partition.indices(client)
        return self.train.take(indices)


def divide(
    dataset: Dataset, table: Mapping[str, Any], seed: int
) -> Partition | DrawnPartition:
    """Divide a data set as a ``[data.partition]`` table says.

    The result is a function of the table and the seed, the same on every machine.
    An empty table means the natural owners where the set has a "client" column, otherwise
    `DEFAULT_CLIENTS` equal shares. Raises ConfigError for an unknown kind, a wrong parameter or
    a split that cannot be made.
    """
    options = _one_name_for_clients(table)
    # A config that gives options and no kind means those of "iid".
    kind = options.pop("kind", None)
    if not kind:
        natural = "client" in dataset.ids and not options
        kind = "natural_id" if natural else "iid"
    if not isinstance(kind, str):
        raise ConfigError(
            f"[data.partition] kind = {kind!r} is not a name; known: {', '.join(KINDS)}"
        )
    split = _call_kind(kind, dataset, options, seed)
    if isinstance(split, DrawnPartition):
        return split
    _check_owners(kind, split, len(dataset.labels))
    # Clients are numbered from 0 without gaps.
    clients = int(split.max(initial=-1)) + 1
    # Clients without samples count too, so that client numbers are those of the config.
    clients = max(clients, options.get("clients", 0))
    return Partition.from_owners(split.astype(np.int64), clients)


def _call_kind(
    kind: str, dataset: Dataset, options: Mapping[str, Any], seed: int
) -> DrawnPartition | NDArray[Any]:
    """Return the owners (N,) that a kind's function gives, or the partition of "drawn".

    Raises ConfigError for an unknown kind, a wrong option, and whatever a user's kind raises.
    """
    function = find("partition", kind, KINDS)
    # Each kind takes those that it names as parameters.
    offered = {
        "labels": dataset.labels,
        "ids": dataset.ids,
        "rng": generator(seed, "partition"),
    }
    try:
        # A user's kind may draw from global generators instead of `rng`.
        with isolated(derive(seed, "partition")):
            split = call(
                f"[data.partition] kind = '{kind}'", function, options, offered
            )
        if np.ma.is_masked(split):
            raise ConfigError(
                f"partition '{kind}' returned a masked array; -1 stands for nobody"
            )
        # A user's kind may not share samples among clients: it returns owners.
        if kind == "drawn" and isinstance(split, DrawnPartition):
            return split
        return np.asarray(split)
    except FedlearnError:
        raise
    # The kind may be the user's own code, which may raise anything.
    except (Exception, SystemExit) as error:
        pass_on_signal(error)
        raise ConfigError(
            f"[data.partition] kind = '{kind}' failed: {reason_of(error)}"
        ) from error


def _one_name_for_clients(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table's options, flwr-datasets' ``num_partitions`` renamed to ``clients``.

    Raises ConfigError where both are given and differ, or the number is not a whole one.
    """
    options = dict(table)
    if "num_partitions" in options:
        partitions = options.pop("num_partitions")
        clients = options.setdefault("clients", partitions)
        if clients != partitions:
            raise ConfigError(
                f"[data.partition] says clients = {clients} and num_partitions = "
                f"{partitions}; they mean the same, keep one"
            )
    if "clients" in options:
        whole("[data.partition] clients", options["clients"])
    return options


def _check_owners(kind: str, owners: NDArray[Any], samples: int) -> None:
    """Raise ConfigError unless a kind gave one client number per sample: a user's may err."""
    # Kind "i": signed, because −1 stands for nobody.
    fits = owners.shape == (samples,) and owners.dtype.kind == "i"
    if not fits or (samples and int(owners.min()) < -1):
        raise ConfigError(
            f"partition '{kind}' returned {owners.dtype} {owners.shape}; it must return "
            f"the client of every sample, ({samples},) int64, -1 for nobody"
        )
    if not (owners >= 0).any():
        raise ConfigError(
            f"[data.partition] kind = '{kind}' gives no client any sample"
        )
