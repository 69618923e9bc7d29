"""The data sets that a config can name, and the clients that a config divides them among."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import flag
from fedlearn.data.partition import Partitioned, divide
from fedlearn.data.samples import Dataset, Population
from fedlearn.errors import ConfigError, DataError, FedlearnError
from fedlearn.names import Named, call, find

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

NO_TWIN = ("synthetic", "dir")


def population(
    name: str, options: Mapping[str, Any], partition: Mapping[str, Any], seed: int
) -> Population:
    """Return the clients and the held-out samples of an experiment.

    name: a key of `DATASETS` or an import path; options: what else ``[data]`` holds; partition: the table
    ``[data.partition]``, see `fedlearn.data.partition.divide`. Raises ConfigError or DataError.
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
    )


def _load(
    name: str, options: Mapping[str, Any], partition: Mapping[str, Any], seed: int
) -> Dataset | Population:
    """Call the loader that ``name`` means, or build its synthetic twin; a user's own result is checked."""
    load = find("data set", name, DATASETS)
    options = dict(options)
    if (
        ":" not in name
        and name not in NO_TWIN
        and flag("[data] synthetic", options.pop("synthetic", False))
    ):
        from fedlearn.data.twins import twin

        return call(  # type: ignore[no-any-return]
            f"the synthetic twin of '{name}'",
            twin,
            options,
            {"name": name, "seed": seed},
        )
    if name == "synthetic":
        return call(  # type: ignore[no-any-return]
            "data set 'synthetic'",
            load,
            options,
            {"partition": partition, "seed": seed},
        )
    try:
        loaded = call(f"data set '{name}'", load, options, {"seed": seed})
    except FedlearnError:
        raise
    except (Exception, SystemExit) as error:  # the loader may be the user's
        raise DataError(
            f"data set '{name}' cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if name in DATASETS:
        return loaded  # type: ignore[no-any-return]
    from fedlearn.data.own import checked

    found = checked(name, loaded)
    if isinstance(found, Population) and partition:
        raise ConfigError(
            f"data set '{name}' brings its own clients: remove [data.partition] ({', '.join(partition)})"
        )
    return found


def label_counts(
    population: Population, most: int = 100
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the label mix of at most ``most`` clients, spread evenly over all: (numbers (m,), counts (m, K)) int64.

    Text has no classes worth counting: its counts are the clients' sizes, K = 1.
    """
    total = len(population.clients)
    numbers = np.unique(np.linspace(0, total - 1, min(most, total)).astype(np.int64))
    if population.modality == "text":
        return numbers, np.array(
            [[population.clients.size(int(k))] for k in numbers], np.int64
        )
    return numbers, np.array([_counts(population, int(k)) for k in numbers], np.int64)


def _counts(population: Population, client: int) -> NDArray[np.int64]:
    """Return a client's samples by label, (K,) int64; none where its data cannot be read or has no such labels."""
    try:
        counts = np.bincount(_labels(population, client), minlength=population.classes)
    except (
        Exception
    ):  # a user's own clients: such a one fails in its round, and is recorded there
        counts = np.zeros(population.classes, np.int64)
    return counts[: population.classes]


def _labels(population: Population, client: int) -> NDArray[np.int64]:
    clients = population.clients
    if isinstance(clients, Partitioned):  # the labels alone: no copy of the pictures
        return clients.train.y[clients.partition.indices(client)].astype(np.int64)
    return clients[client].y.astype(np.int64)
