"""A user's own data: what a loader may return, and the checks that it goes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.samples import IGNORE, Dataset, Modality, Population, Samples
from fedlearn.data.stored import read_npz
from fedlearn.errors import DataError
from fedlearn.names import import_path

Array = NDArray[Any]


def checked(name: str, found: object) -> Dataset | Population:
    """Return what a user's loader gave as a checked data set, or its population.

    found: a Dataset, a Population, or a tuple (x_train, y_train, x_test, y_test[, client_ids]) of numpy arrays.
    Raises DataError naming the data set, the array and what is wrong with it.
    """
    if isinstance(found, Population):
        return _checked_population(name, found)
    if isinstance(found, Dataset):
        return _checked_dataset(name, found)
    if isinstance(found, tuple | list) and len(found) in (4, 5):
        return dataset(name, *found)
    raise DataError(
        f"data set '{name}' returned a {type(found).__name__}; return a fedlearn Dataset or Population, or a tuple "
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
    """Return a Dataset of plain arrays, the modality told from their shapes.

    x: (N, C, H, W) or (N, H, W) uint8, or floats in [0, 1], images · (N, T, F) floats, series · (N, F) floats,
    features · (N, T) uint8 with y (N, T), text. y: (N,) whole numbers from 0. Raises DataError.
    """
    arrays = [
        _array(name, key, value)
        for key, value in zip(
            ("x_train", "y_train", "x_test", "y_test"),
            (x_train, y_train, x_test, y_test),
            strict=True,
        )
    ]
    modality = _modality(name, arrays[0], arrays[1])
    train = _samples(name, "train", modality, arrays[0], arrays[1])
    test = _samples(name, "test", modality, arrays[2], arrays[3])
    if train.x.shape[1:] != test.x.shape[1:]:
        raise DataError(
            f"{name}: x_train has samples of shape {train.x.shape[1:]}, x_test of {test.x.shape[1:]}"
        )
    classes = 256 if modality == "text" else int(max(train.y.max(), test.y.max())) + 1
    ids = {} if client_ids is None else {"client": _ids(name, client_ids, len(train))}
    labels = (
        ids.get("client", np.zeros(len(train), np.int64))
        if modality == "text"
        else train.y.astype(np.int64)
    )
    return Dataset(
        name, modality, classes, train.x.shape[1:], train, test, labels, ids, licence
    )


def samples_of(
    source: str, modality: Modality, classes: int, input_shape: tuple[int, ...]
) -> Samples:
    """Return the samples that one client brings to an experiment: an npz file with x and y, or ``module:attribute``.

    An attribute is the arrays (x, y), or a function that returns them. Raises DataError for what does not fit the experiment.
    """
    if source.endswith(".npz"):
        found = read_npz(
            Path(source).expanduser(),
            ("x", "y"),
            "an agent's own data are the arrays x and y",
        )
        x, y = found["x"], found["y"]
    else:
        made = import_path("data", source)
        try:
            x, y = made() if callable(made) else made
        except Exception as error:  # the user's code
            raise DataError(
                f"'{source}' gives no arrays (x, y): {type(error).__name__}: {error}"
            ) from error
    samples = _samples(
        source, "own", modality, _array(source, "x", x), _array(source, "y", y)
    )
    if samples.x.shape[1:] != input_shape:
        raise DataError(
            f"{source}: its samples have the shape {samples.x.shape[1:]}, those of the experiment {input_shape}"
        )
    if modality != "text" and int(samples.y.max()) >= classes:
        raise DataError(
            f"{source}: it has the label {samples.y.max()}; the experiment has {classes} classes, 0 to {classes - 1}"
        )
    return samples


def _array(name: str, key: str, value: Any) -> Array:
    if not isinstance(value, np.ndarray):
        raise DataError(
            f"{name}: {key} is a {type(value).__name__}, not a numpy array; use numpy.asarray"
        )
    if value.dtype.kind not in "biuf":
        raise DataError(f"{name}: {key} has dtype {value.dtype}; numbers are needed")
    if value.ndim == 0 or len(value) == 0:
        raise DataError(f"{name}: {key} is empty")
    return value


def _modality(name: str, x: Array, y: Array) -> Modality:
    if x.ndim == 2 and x.dtype == np.uint8 and y.ndim == 2:
        return "text"
    if x.ndim == 4 or (x.ndim == 3 and x.dtype == np.uint8):
        return "image"
    if x.ndim in (2, 3):
        return "features" if x.ndim == 2 else "series"
    raise DataError(
        f"{name}: x_train has shape {x.shape}; known are (N, C, H, W) and (N, H, W) images, (N, T, F) series, "
        "(N, F) features and (N, T) text"
    )


def _samples(name: str, part: str, modality: Modality, x: Array, y: Array) -> Samples:
    where = f"{name}: x_{part}"
    if len(x) != len(y):
        raise DataError(f"{where} has {len(x)} samples, y_{part} has {len(y)} labels")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        bad = int(np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))[0])
        raise DataError(
            f"{where}[{bad}] holds NaN or infinity; remove or fill such samples"
        )
    if modality == "text":
        return Samples(_bytes(where, x), _targets(f"{name}: y_{part}", x, y))
    labels = _labels(f"{name}: y_{part}", y)
    return Samples(
        _pixels(where, x) if modality == "image" else x.astype(np.float32), labels
    )


def _bytes(where: str, x: Array) -> Array:
    if x.dtype != np.uint8 or x.ndim != 2:
        raise DataError(
            f"{where} is {x.dtype} with {x.ndim} dimensions; text is (N, T) uint8 bytes"
        )
    return x


def _targets(where: str, x: Array, y: Array) -> Array:
    if (
        y.shape != x.shape
        or y.dtype.kind not in "iu"
        or ((y < 0) & (y != IGNORE)).any()
        or (y > 255).any()
    ):
        raise DataError(
            f"{where} must be next bytes 0 to 255, {IGNORE} where padded, of shape {x.shape}"
        )
    return y.astype(np.int16)


def _pixels(where: str, x: Array) -> Array:
    if x.ndim == 3:
        return _pixels(where, x[:, None])
    if x.ndim != 4:
        raise DataError(
            f"{where} has shape {x.shape}; images are (N, C, H, W) or (N, H, W)"
        )
    if x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
        raise DataError(
            f"{where} has shape {x.shape}, channels last; use x.transpose(0, 3, 1, 2)"
        )
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind == "f" and x.min() >= 0 and x.max() <= 1:
        pixels: Array = np.rint(x * 255).astype(np.uint8)
        return pixels
    raise DataError(
        f"{where} is {x.dtype} from {x.min():g} to {x.max():g}; images are uint8, or floats from 0 to 1"
    )


def _labels(where: str, y: Array) -> Array:
    if y.ndim != 1:
        raise DataError(f"{where} has shape {y.shape}; labels are (N,) whole numbers")
    if y.dtype.kind not in "iu":
        raise DataError(
            f"{where} is {y.dtype}; labels are whole numbers: use y.astype('int64')"
        )
    if int(y.min()) < 0 or int(y.max()) >= 1_000_000:
        raise DataError(
            f"{where} has labels from {y.min()} to {y.max()}; they must count from 0"
        )
    return y.astype(np.int64)


def _ids(name: str, client_ids: Any, samples: int) -> NDArray[np.int64]:
    """Return one whole number per sample; names of owners are numbered in sorted order."""
    values = np.asarray(client_ids)
    if values.shape != (samples,) or values.dtype.kind not in "iuUS":
        raise DataError(
            f"{name}: client_ids is {values.dtype} {values.shape}; it must be one number or name for each of the {samples} training samples"
        )
    return (
        values.astype(np.int64)
        if values.dtype.kind in "iu"
        else np.unique(values, return_inverse=True)[1].reshape(-1)
    )


def _checked_dataset(name: str, found: Dataset) -> Dataset:
    """Refuse a Dataset whose parts do not fit each other."""
    count = len(found.train)
    for part, samples in (("train", found.train), ("test", found.test)):
        _check_part(name, part, samples, found)
    for key, column in {"labels": found.labels, **found.ids}.items():
        if (
            not isinstance(column, np.ndarray)
            or column.shape != (count,)
            or column.dtype.kind not in "iu"
        ):
            raise DataError(
                f"{name}: column '{key}' must be whole numbers, one for each of the {count} training samples"
            )
    return found


def _checked_population(name: str, found: Population) -> Population:
    """Refuse a Population that cannot be scored or counted; what a client's samples hold shows in its rounds."""
    _check_part(name, "test", found.test, found)
    try:
        sizes = [found.clients.size(k) for k in range(min(len(found.clients), 10_000))]
    except Exception as error:  # the clients are the user's code
        raise DataError(
            f"data set '{name}': the sizes of its clients cannot be told: {type(error).__name__}: {error}"
        ) from error
    if not sizes:
        raise DataError(f"data set '{name}' has no clients")
    return found


def _check_part(
    name: str, part: str, samples: Samples, found: Dataset | Population
) -> None:
    """Refuse samples that do not fit each other, or what their set says of itself."""
    x, y = _array(name, f"{part}.x", samples.x), _array(name, f"{part}.y", samples.y)
    _samples(name, part, found.modality, x, y)
    if x.shape[1:] != tuple(found.input_shape):
        raise DataError(
            f"{name}: {part}.x has samples of shape {x.shape[1:]}, input_shape says {found.input_shape}"
        )
    if found.modality != "text" and int(y.max()) >= found.classes:
        raise DataError(
            f"{name}: {part}.y has label {y.max()}, but classes = {found.classes}"
        )
    if (x.dtype == np.uint8) != (found.modality in ("image", "text")):
        raise DataError(
            f"{name}: {part}.x is {x.dtype}; a {found.modality} set needs {'uint8' if found.modality in ('image', 'text') else 'float32'}"
        )
