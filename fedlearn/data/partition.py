"""Which samples belong to which client: the partition itself, and the kinds that a config can ask for.

Names and parameters are those of flwr-datasets' partitioners. A kind is a function that returns ``owners``
(N,) int64: the client of every sample, −1 for a sample that nobody gets; so no sample can have two owners. Ours alone is
"drawn", which has any number of clients: there, many share a sample.

Legend: N samples, M clients, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import whole
from fedlearn.data.samples import Dataset, Samples
from fedlearn.errors import ConfigError, FedlearnError
from fedlearn.names import Named, call, find
from fedlearn.seeds import generator

if TYPE_CHECKING:
    from fedlearn.data.drawn import Drawn

CLIENTS = 100  # when a config does not say: the population of McMahan et al. (2017)

KINDS: dict[str, Named] = {
    "iid": Named("fedlearn.data.by_size:iid", "shuffled, equal shares"),
    "shard": Named(
        "fedlearn.data.by_label:shard",
        "sorted by label, cut into shards, a few shards each (McMahan)",
    ),
    "pathological": Named(
        "fedlearn.data.by_label:pathological", "exactly c classes each"
    ),
    "dirichlet": Named(
        "fedlearn.data.dirichlet:dirichlet",
        "every class is split by Dirichlet(alpha) shares",
    ),
    "inner_dirichlet": Named(
        "fedlearn.data.dirichlet:inner_dirichlet",
        "given sizes, class mix by Dirichlet(alpha)",
    ),
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
    "size": Named("fedlearn.data.by_size:size", "the sizes you list"),
    "linear": Named(
        "fedlearn.data.by_size:linear", "client i gets a share in proportion to i"
    ),
    "square": Named("fedlearn.data.by_size:square", "in proportion to i squared"),
    "exponential": Named(
        "fedlearn.data.by_size:exponential", "in proportion to exp(i)"
    ),
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
        """Gather the positions of every client; ``owners`` (N,) holds client numbers, −1 for nobody."""
        used = np.flatnonzero(owners >= 0)
        order = used[np.argsort(owners[used], kind="stable")].astype(np.int64)
        sizes = np.bincount(owners[used], minlength=clients)
        return cls(order, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))

    def __len__(self) -> int:
        """Return M."""
        return len(self.offsets) - 1

    def size(self, client: int) -> int:
        """Return the number of samples of one client."""
        return int(self.offsets[client + 1] - self.offsets[client])

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of samples of every client, (M,) int64."""
        return np.diff(self.offsets)

    def indices(self, client: int) -> NDArray[np.int64]:
        """Return the positions of one client's samples, ascending; raises IndexError outside 0 ≤ client < M."""
        if not 0 <= client < len(self):
            raise IndexError(f"client {client} of {len(self)}")
        return self.order[self.offsets[client] : self.offsets[client + 1]]

    def sha256(self) -> str:
        """Return the hex SHA-256 of offsets and order as little-endian int64: equal where the shares are."""
        digest = hashlib.sha256(self.offsets.astype("<i8").tobytes())
        digest.update(self.order.astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Partitioned:
    """`ClientData` over one data set in memory: client k's samples are copied out when asked for."""

    train: Samples
    partition: Partition | Drawn

    def __len__(self) -> int:
        """Return M."""
        return len(self.partition)

    def size(self, client: int) -> int:
        """Return the number of training samples of one client."""
        return self.partition.size(client)

    def __getitem__(self, client: int) -> Samples:
        """Return the training samples of one client, as copies."""
        return self.train.take(self.partition.indices(client))


def divide(dataset: Dataset, table: Mapping[str, Any], seed: int) -> Partition | Drawn:
    """Divide a data set as a ``[data.partition]`` table says; the same for a seed on every machine.

    An empty table means the natural owners where the set has a "client" column, else `CLIENTS` equal shares.
    Raises ConfigError for an unknown kind, a wrong parameter or a split that cannot be made.
    """
    options = _one_name_for_clients(table)
    kind = options.pop("kind", None) or (
        "natural_id" if "client" in dataset.ids and not options else "iid"
    )
    if not isinstance(kind, str):
        raise ConfigError(
            f"[data.partition] kind = {kind!r} is not a name; known: {', '.join(KINDS)}"
        )
    split = find("partition", kind, KINDS)
    offered = {
        "labels": dataset.labels,
        "ids": dataset.ids,
        "rng": generator(seed, "partition"),
    }
    try:
        found = call(f"[data.partition] kind = '{kind}'", split, options, offered)
        if kind == "drawn":
            return found  # type: ignore[no-any-return]
        owners = np.asarray(found)
    except FedlearnError:
        raise
    except (Exception, SystemExit) as error:  # the kind may be the user's
        raise ConfigError(
            f"[data.partition] kind = '{kind}' failed: {type(error).__name__}: {error}"
        ) from error
    _check(kind, owners, len(dataset.labels))
    clients = int(owners.max(initial=-1)) + 1
    return Partition.from_owners(
        owners.astype(np.int64), max(clients, options.get("clients", 0))
    )


def _one_name_for_clients(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table's options with flwr-datasets' ``num_partitions`` under our name ``clients``."""
    options = dict(table)
    if "num_partitions" in options:
        same = options.pop("num_partitions")
        if options.setdefault("clients", same) != same:
            raise ConfigError(
                f"[data.partition] says clients = {options['clients']} and num_partitions = {same}; they mean the same, keep one"
            )
    if "clients" in options:
        whole("[data.partition] clients", options["clients"])
    return options


def _check(kind: str, owners: NDArray[Any], samples: int) -> None:
    """Refuse what a user's own kind might return: anything but one client number per sample."""
    if (
        owners.shape != (samples,)
        or owners.dtype.kind != "i"
        or (samples and int(owners.min()) < -1)
    ):
        raise ConfigError(
            f"partition '{kind}' returned {owners.dtype} {owners.shape}; it must return the client of every sample, "
            f"({samples},) int64, -1 for nobody"
        )
    if not (owners >= 0).any():
        raise ConfigError(
            f"[data.partition] kind = '{kind}' gives no client any sample"
        )
