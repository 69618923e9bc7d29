"""A user's own data: what a loader may return, and the checks that it goes through.

The checks of single arrays are in `fedlearn.data.own_arrays`, of casts in `fedlearn.data.casts`
and of what a population gives out in `fedlearn.data.own_clients`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.data.casts import Array
from fedlearn.data.checks import whole
from fedlearn.data.own_arrays import (
    MAX_LABELS,
    checked_array,
    checked_samples,
    modality_of,
)
from fedlearn.data.own_clients import checked_dataset, checked_population
from fedlearn.data.own_columns import owner_numbers
from fedlearn.data.remarks import remarks
from fedlearn.data.samples import Dataset, Modality, Population, Samples
from fedlearn.data.stored import read_npz
from fedlearn.errors import DataError, reason_of
from fedlearn.names import import_path
from fedlearn.seeds import derive, isolated


def checked(
    name: str, loaded: object, classes: int | None = None
) -> Dataset | Population:
    """Return what a user's loader gave as a checked data set, or its population.

    loaded: a Dataset, a Population, or a tuple (x_train, y_train, x_test, y_test[, client_ids])
    of numpy arrays. classes: how many there are; None: as loaded, or up to the largest label.
    Raises DataError naming the data set, the array and what is wrong with it.
    """
    if classes is not None:
        classes = whole(f"{name}: classes", classes, 1, MAX_LABELS)
    if isinstance(loaded, Population):
        return checked_population(
            name, replace(loaded, classes=classes or loaded.classes)
        )
    if isinstance(loaded, Dataset):
        return checked_dataset(name, replace(loaded, classes=classes or loaded.classes))
    # With or without client_ids.
    if isinstance(loaded, tuple | list) and len(loaded) in (4, 5):
        x_train, y_train, x_test, y_test, *owners = loaded
        client_ids = owners[0] if owners else None
        return dataset(
            name, x_train, y_train, x_test, y_test, client_ids, classes=classes
        )
    raise DataError(
        f"data set '{name}' returned a {_described(loaded)}; return a fedlearn "
        "Dataset or Population, or a tuple "
        "(x_train, y_train, x_test, y_test[, client_ids]) of numpy arrays"
    )


def _described(loaded: object) -> str:
    """Return what a loader gave, in words: of a tuple its parts too."""
    kind = type(loaded).__name__
    if not isinstance(loaded, tuple | list):
        return kind
    parts = ", ".join(type(part).__name__ for part in loaded[:6])
    return f"{kind} of {len(loaded)} ({parts})"


def dataset(
    name: str,
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    client_ids: Any = None,
    licence: str = "",
    classes: int | None = None,
    notes: Sequence[str] = (),
) -> Dataset:
    """Return a Dataset of plain arrays, the modality inferred from their shapes.

    x: (N, C, H, W) or (N, H, W) uint8, or floats in [0, 1], images; such floats without
    channels have H = W · (N, T, F) floats, series · (N, F) floats, features · (N, T) uint8 with
    y (N, T), text. y: (N,) whole numbers from 0. client_ids: (N,) numbers or names of the
    owners of the training samples. classes: how many there are; None: up to the largest label.
    notes: stand before those of the checks. Raises DataError.
    """
    x_train = checked_array(name, "x_train", x_train)
    y_train = checked_array(name, "y_train", y_train)
    x_test = checked_array(name, "x_test", x_test)
    y_test = checked_array(name, "y_test", y_test)
    # The training part decides; the held-out part must be of the same kind.
    modality = modality_of(name, x_train, y_train, x_test)
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
        # Lines have no label: partitions split by owner.
        labels = ids.get("client", np.zeros(len(train), np.int64))
    else:
        labels = train.y.astype(np.int64)
    oddities = [
        *_of_guess(name, modality, x_train),
        *remarks(name, modality, train, test, classes),
    ]
    return Dataset(
        name,
        modality,
        _classes(name, modality, train, test, classes),
        train.x.shape[1:],
        train,
        test,
        labels,
        ids,
        licence,
        notes=(*notes, *oddities),
    )


def _of_guess(name: str, modality: Modality, x: Array) -> Iterator[str]:
    """Yield that floats without a channel axis were taken for pictures, which is a guess."""
    if modality == "image" and x.ndim == 3 and x.dtype.kind == "f":
        yield (
            f"{name}: x_train {x.shape} of floats from 0 to 1 is read as grey pictures of "
            "256 shades; if they are series, return a Dataset with modality = 'series'"
        )


def _classes(
    name: str, modality: Modality, train: Samples, test: Samples, stated: int | None
) -> int:
    """Return how many classes a set has; raises DataError where fewer are stated than occur."""
    # Every byte is a class.
    if modality == "text":
        return 256
    # A class may occur in the held-out part alone.
    largest = int(max(train.y.max(), test.y.max()))
    if stated is None:
        return largest + 1
    number = whole(f"{name}: classes", stated, 1, MAX_LABELS)
    if largest >= number:
        raise DataError(f"{name} has the label {largest}, but classes = {number}")
    return number


def samples_of(
    source: str, modality: Modality, classes: int, input_shape: tuple[int, ...]
) -> Samples:
    """Return the samples that one client brings to an experiment.

    source: an npz file with x and y, or ``module:attribute``; the attribute is the arrays (x, y),
    or a function that returns them. input_shape: of one sample.
    Raises DataError for samples that do not fit the experiment, ConfigError for a wrong path.
    """
    x, y = _arrays_of(source)
    x = checked_array(source, "x", x)
    y = checked_array(source, "y", y)
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
    path = Path(source).expanduser()
    # Whatever its ending: a table or a folder is no import path, and is told what is.
    if source.endswith(".npz") or ":" not in source or path.exists():
        fix = (
            "an agent's own data are an npz with the arrays x and y, or 'my_data:load'"
        )
        arrays = read_npz(path, ("x", "y"), fix, ())
        return arrays["x"], arrays["y"]
    attribute = import_path("data", source)
    try:
        # Seeded, so that an agent that starts again has the same samples.
        with isolated(derive(0, "own-data")):
            x, y = attribute() if callable(attribute) else attribute
    # The attribute is the user's code, which may raise anything.
    except Exception as error:
        raise DataError(
            f"'{source}' gives no arrays (x, y): {reason_of(error)}"
        ) from error
    return x, y
