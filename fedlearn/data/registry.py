"""The data sets that a config can name, and the clients that a config divides them among."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import flag
from fedlearn.data.partition import Partitioned, divide
from fedlearn.data.samples import Dataset, Population
from fedlearn.errors import (
    ConfigError,
    DataError,
    FedlearnError,
    pass_on_signal,
    reason_of,
)
from fedlearn.names import Named, call, find
from fedlearn.seeds import derive, isolated

# The loaders by name, imported when used; each takes its own options of ``[data]``.
DATASETS: dict[str, Named] = {
    "digits": Named(
        "fedlearn.data.images:digits",
        "1,797 handwritten digits 8x8, comes with fedlearn",
    ),
    "fashion-mini": Named(
        "fedlearn.data.images:fashion_mini",
        "6,000 + 1,000 of Fashion-MNIST, comes with fedlearn",
    ),
    "watch-mini": Named(
        "fedlearn.data.watch:watch_mini",
        "7 exercises by smartwatch, 20 owners, comes with fedlearn",
    ),
    "shakespeare-mini": Named(
        "fedlearn.data.plays:shakespeare_mini", "10 plays by role, comes with fedlearn"
    ),
    "mnist": Named(
        "fedlearn.data.images:mnist",
        "60,000 + 10,000 handwritten digits 28x28, fetched",
    ),
    "fashion": Named(
        "fedlearn.data.images:fashion",
        "60,000 + 10,000 pieces of clothing 28x28, fetched",
    ),
    "shakespeare": Named(
        "fedlearn.data.plays:shakespeare", "38 plays by role, fetched"
    ),
    "watch": Named(
        "fedlearn.data.watch:watch",
        "as watch-mini, unquantised, at 25 or 50 Hz, fetched",
    ),
    "synthetic": Named(
        "fedlearn.data.fedprox:synthetic",
        "FedProx's synthetic(alpha, beta), any number of clients",
    ),
    "dir": Named(
        "fedlearn.data.folder:folder",
        "a folder of IDX or LEAF files, or an npz, of your own",
    ),
}

# Sets without a synthetic twin. One is synthetic itself, the other is the user's.
NO_TWIN = ("synthetic", "dir")


def population(
    name: str, options: Mapping[str, Any], partition: Mapping[str, Any], seed: int
) -> Population:
    """Return the clients and the held-out samples of an experiment.

    name: a key of `DATASETS` or an import path; options: the other keys of ``[data]``;
    partition: the table ``[data.partition]``, see `fedlearn.data.partition.divide`.
    Raises ConfigError or DataError.
    """
    loaded = _load(name, options, partition, seed)
    if isinstance(loaded, Population):
        return loaded
    shares = Partitioned(loaded.train, divide(loaded, partition, seed))
    return Population(
        loaded.name,
        loaded.modality,
        loaded.classes,
        loaded.input_shape,
        shares,
        loaded.test,
        loaded.notes,
    )


def _load(
    name: str, options: Mapping[str, Any], partition: Mapping[str, Any], seed: int
) -> Dataset | Population:
    """Call the loader that ``name`` means, or build its synthetic twin.

    What a user's own loader returns is checked. Raises ConfigError or DataError.
    """
    loader = find("data set", name, DATASETS)
    options = dict(options)
    if _wants_twin(name, options):
        return _twin(name, options, seed)
    if name == "synthetic":
        # This set alone has clients of its own, whose number the partition may give.
        offered = {"partition": partition, "seed": seed}
        return call(  # type: ignore[no-any-return]
            "data set 'synthetic'", loader, options, offered
        )
    classes = None
    # Known here for every set of a user's, unless its loader has its own use for the word.
    if name not in DATASETS and not _takes(loader, "classes"):
        classes = options.pop("classes", None)
    loaded = _call_loader(name, loader, options, seed)
    if name in DATASETS:
        return loaded  # type: ignore[no-any-return]
    from fedlearn.data.own import checked

    data = checked(name, loaded, classes)
    if isinstance(data, Population) and partition:
        raise ConfigError(
            f"data set '{name}' brings its own clients: remove [data.partition] "
            f"({', '.join(partition)})"
        )
    return data


def _takes(loader: Any, option: str) -> bool:
    """Return whether a loader can be given an option by name."""
    try:
        parameters = inspect.signature(loader).parameters
    # Of what cannot be called, or is written in C: `call` says what is wrong.
    except (TypeError, ValueError):
        return False
    kinds = {parameter.kind for parameter in parameters.values()}
    return option in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def _wants_twin(name: str, options: dict[str, Any]) -> bool:
    """Take the key "synthetic" out of the options of a set that has a twin, and return its value.

    Raises ConfigError where it is neither true nor false.
    """
    if ":" in name or name in NO_TWIN:
        return False
    return flag("[data] synthetic", options.pop("synthetic", False))


def _twin(name: str, options: Mapping[str, Any], seed: int) -> Dataset:
    """Return the synthetic twin of a set; raises ConfigError for a wrong option."""
    from fedlearn.data.twins import twin

    offered = {"name": name, "seed": seed}
    return call(  # type: ignore[no-any-return]
        f"the synthetic twin of '{name}'", twin, options, offered
    )


def _call_loader(name: str, loader: Any, options: Mapping[str, Any], seed: int) -> Any:
    """Return what a loader gives; raises ConfigError or DataError, whatever the loader raises."""
    try:
        # A user's loader may draw from global generators: each start gives the same data.
        with isolated(derive(seed, "data")):
            return call(f"data set '{name}'", loader, options, {"seed": seed})
    except FedlearnError:
        raise
    # The loader may be the user's code, which may raise anything.
    except (Exception, SystemExit) as error:
        pass_on_signal(error)
        raise DataError(
            f"data set '{name}' cannot be loaded: {reason_of(error)}"
        ) from error


def label_counts(
    population: Population, most: int = 100
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the label mix of at most ``most`` clients, spread evenly over all.

    The client numbers (m,) and their counts (m, K), both int64. Text has no classes worth
    counting: its counts are the clients' sizes, K = 1.
    """
    # Evenly over all numbers: partitions such as "linear" give clients unlike shares in order.
    total = len(population.clients)
    evenly = np.linspace(0, total - 1, min(most, total))
    numbers = np.unique(evenly.astype(np.int64))
    clients = [int(number) for number in numbers]
    if population.modality == "text":
        sizes = [[population.clients.size(client)] for client in clients]
        return numbers, np.array(sizes, np.int64)
    counts = [_counts(population, client) for client in clients]
    return numbers, np.array(counts, np.int64)


def _counts(population: Population, client: int) -> NDArray[np.int64]:
    """Return a client's samples by label, (K,) int64; zeros where its data cannot be read."""
    try:
        labels = _labels(population, client)
        counts = np.bincount(labels, minlength=population.classes)
    # The clients may be the user's code. One that cannot be read fails in its round, and
    # the round's record says why.
    except Exception:
        counts = np.zeros(population.classes, np.int64)
    return counts[: population.classes]


def _labels(population: Population, client: int) -> NDArray[np.int64]:
    """Return the labels of a client's samples, (n,) int64."""
    clients = population.clients
    if isinstance(clients, Partitioned):
        # The labels alone: `clients[client]` would copy the inputs too.
        indices = clients.partition.indices(client)
        return clients.train.y[indices].astype(np.int64)
    return clients[client].y.astype(np.int64)
