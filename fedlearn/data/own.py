"""A user's own data: what a loader may return, and the checks that it goes through.

The checks of single arrays are in `fedlearn.data.own_arrays`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.data.own_arrays import (
    checked_array,
    checked_samples,
    modality_of,
    owner_numbers,
)
from fedlearn.data.samples import Dataset, Modality, Population, Samples
from fedlearn.data.stored import read_npz
from fedlearn.errors import DataError
from fedlearn.names import import_path

# Clients whose size is asked for when a population is checked: a million would take too long.
SIZES_CHECKED = 10_000


def checked(name: str, loaded: object) -> Dataset | Population:
    """Return what a user's loader gave as a checked data set, or its population.

    loaded: a Dataset, a Population, or a tuple (x_train, y_train, x_test, y_test[, client_ids])
    of numpy arrays. Raises DataError naming the data set, the array and what is wrong with it.
    """
    if isinstance(loaded, Population):
        return _checked_population(name, loaded)
    if isinstance(loaded, Dataset):
        return _checked_dataset(name, loaded)
    # With or without client_ids.
    if isinstance(loaded, tuple | list) and len(loaded) in (4, 5):
        return dataset(name, *loaded)
    raise DataError(
        f"data set '{name}' returned a {type(loaded).__name__}; return a fedlearn "
        "Dataset or Population, or a tuple "
        "(x_train, y_train, x_test, y_test[, client_ids]) of numpy arrays"
    )


def dataset(
    name: str,
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    client_ids: Any = None,
    licence: str = "",
) -> Dataset:
    """Return a Dataset of plain arrays, the modality inferred from their shapes.

    x: (N, C, H, W) or (N, H, W) uint8, or floats in [0, 1], images · (N, T, F) floats, series ·
    (N, F) floats, features · (N, T) uint8 with y (N, T), text. y: (N,) whole numbers from 0.
    client_ids: (N,) numbers or names of the owners of the training samples. Raises DataError.
    """
    x_train = checked_array(name, "x_train", x_train)
    y_train = checked_array(name, "y_train", y_train)
    x_test = checked_array(name, "x_test", x_test)
    y_test = checked_array(name, "y_test", y_test)
    # The training part decides; the held-out part must be of the same kind.
    modality = modality_of(name, x_train, y_train)
    train = checked_samples(name, "train", modality, x_train, y_train)
    test = checked_samples(name, "test", modality, x_test, y_test)
    if train.x.shape[1:] != test.x.shape[1:]:
        raise DataError(
            f"{name}: x_train has samples of shape {train.x.shape[1:]}, "
            f"x_test of {test.x.shape[1:]}"
        )
    ids = {}
    if client_ids is not None:
        ids["client"] = owner_numbers(name, client_ids, len(train))
    if modality == "text":
        # Every byte is a class, and lines have no label: partitions split by owner.
        classes = 256
        labels = ids.get("client", np.zeros(len(train), np.int64))
    else:
        # A class may occur in the held-out part alone.
        classes = int(max(train.y.max(), test.y.max())) + 1
        labels = train.y.astype(np.int64)
    shape = train.x.shape[1:]
    return Dataset(name, modality, classes, shape, train, test, labels, ids, licence)


def samples_of(
    source: str, modality: Modality, classes: int, input_shape: tuple[int, ...]
) -> Samples:
    """Return the samples that one client brings to an experiment.

    source: an npz file with x and y, or ``module:attribute``; the attribute is the arrays (x, y),
    or a function that returns them. input_shape: of one sample.
    Raises DataError for samples that do not fit the experiment, ConfigError for a wrong path.
    """
    x, y = _arrays_of(source)
    x, y = checked_array(source, "x", x), checked_array(source, "y", y)
    samples = checked_samples(source, "own", modality, x, y)
    if samples.x.shape[1:] != input_shape:
        raise DataError(
            f"{source}: its samples have the shape {samples.x.shape[1:]}, "
            f"those of the experiment {input_shape}"
        )
    # Every byte is a class of text.
    if modality != "text" and int(samples.y.max()) >= classes:
        raise DataError(
            f"{source}: it has the label {samples.y.max()}; "
            f"the experiment has {classes} classes, 0 to {classes - 1}"
        )
    return samples


def _arrays_of(source: str) -> tuple[Any, Any]:
    """Return x and y, not yet checked, of an npz file or ``module:attribute``.

    Raises DataError or ConfigError when there is no such thing, or it gives no two arrays.
    """
    if source.endswith(".npz"):
        path = Path(source).expanduser()
        fix = "an agent's own data are the arrays x and y"
        arrays = read_npz(path, ("x", "y"), fix)
        return arrays["x"], arrays["y"]
    attribute = import_path("data", source)
    try:
        x, y = attribute() if callable(attribute) else attribute
    # The attribute is the user's code, which may raise anything.
    except Exception as error:
        raise DataError(
            f"'{source}' gives no arrays (x, y): {type(error).__name__}: {error}"
        ) from error
    return x, y


def _checked_dataset(name: str, data: Dataset) -> Dataset:
    """Return a Dataset; raises DataError where its parts do not fit each other."""
    count = len(data.train)
    # Sizes first: the columns are compared with the number of training samples.
    _check_part(name, "train", data.train, data)
    _check_part(name, "test", data.test, data)
    columns = {"labels": data.labels, **data.ids}
    for key, column in columns.items():
        if not _is_whole_column(column, count):
            raise DataError(
                f"{name}: column '{key}' must be whole numbers, "
                f"one for each of the {count} training samples"
            )
    return data


def _is_whole_column(column: object, count: int) -> bool:
    """Tell whether a column is a numpy array (count,) of whole numbers."""
    return (
        isinstance(column, np.ndarray)
        and column.shape == (count,)
        and column.dtype.kind in "iu"
    )


def _checked_population(name: str, population: Population) -> Population:
    """Return a Population; raises DataError where it cannot be scored or counted.

    Wrong samples of a client show in its rounds: reading all of them here could take hours.
    """
    _check_part(name, "test", population.test, population)
    clients = population.clients
    try:
        count = min(len(clients), SIZES_CHECKED)
        for client in range(count):
            clients.size(client)
    # The clients are the user's code, which may raise anything.
    except Exception as error:
        raise DataError(
            f"data set '{name}': the sizes of its clients cannot be told: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not count:
        raise DataError(f"data set '{name}' has no clients")
    return population


def _check_part(
    name: str, part: str, samples: Samples, data: Dataset | Population
) -> None:
    """Raise DataError for samples that do not fit each other, or the figures of their set."""
    x = checked_array(name, f"{part}.x", samples.x)
    y = checked_array(name, f"{part}.y", samples.y)
    checked_samples(name, part, data.modality, x, y)
    if x.shape[1:] != tuple(data.input_shape):
        raise DataError(
            f"{name}: {part}.x has samples of shape {x.shape[1:]}, "
            f"input_shape says {data.input_shape}"
        )
    if data.modality != "text" and int(y.max()) >= data.classes:
        raise DataError(
            f"{name}: {part}.y has label {y.max()}, but classes = {data.classes}"
        )
    # A Dataset is taken as it is, so its arrays must have the types that training expects.
    of_bytes = data.modality in ("image", "text")
    if (x.dtype == np.uint8) != of_bytes:
        needed = "uint8" if of_bytes else "float32"
        raise DataError(
            f"{name}: {part}.x is {x.dtype}; a {data.modality} set needs {needed}"
        )
