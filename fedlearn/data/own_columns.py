"""Owners of samples, as people keep them: numbers or names in columns of any type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.casts import is_whole
from fedlearn.errors import DataError


def owner_numbers(
    name: str, owners: Any, samples: int, key: str = "client_ids"
) -> NDArray[np.int64]:
    """Return one whole number per sample, (N,); names are numbered in sorted order.

    owners: (N,) or (N, 1) of numbers or names, in any type of numpy, or objects of Python, as
    columns of pandas have them. key: the column's name, for the messages. Raises DataError
    unless each sample has one owner.
    """
    where = f"{name}: {key}"
    if np.ma.is_masked(owners):
        raise DataError(
            f"{where} is a masked array, and its mask would be lost; leave out samples "
            "without an owner"
        )
    values = _column(where, owners, samples)
    if values.dtype.kind == "O":
        return _numbers_of_objects(where, values)
    return _numbers(where, values)


def _numbers(where: str, values: NDArray[Any]) -> NDArray[np.int64]:
    """Return one whole number per value of a column (N,) of one of numpy's own types."""
    _check_known(where, values)
    # Numbers stay what they are, so that they can be found again in the data.
    if values.dtype.kind in "biuf" and _fit(values):
        return values.astype(np.int64)
    # Sorted order, so that the numbers do not depend on the order of the samples.
    _, numbers = np.unique(values, return_inverse=True)
    return numbers.reshape(-1).astype(np.int64)


def _column(where: str, owners: Any, samples: int) -> NDArray[Any]:
    """Return a column as an array (N,); raises DataError for another number of owners."""
    # A list of unlike types would become one of texts, in which 1 and "1" are the same.
    try:
        values = np.asarray(owners)
        if isinstance(owners, list | tuple) and values.dtype.kind in "US":
            values = np.array(owners, dtype=object)
    # Lists of several lengths, and whatever an object's own code raises.
    except Exception as error:
        raise DataError(f"{where} is no column of owners ({error})") from error
    if values.shape == (samples, 1):
        values = values[:, 0]
    if values.shape != (samples,):
        raise DataError(
            f"{where} is {values.dtype} {values.shape}; it must be one number "
            f"or name for each of the {samples} training samples"
        )
    return values


def _check_known(where: str, values: NDArray[Any]) -> None:
    """Raise DataError for samples without an owner, and for fractions, which name nobody."""
    # NaN, and the dates that are none, equal nothing, themselves included.
    unknown = values != values
    if np.any(unknown):
        first = int(np.flatnonzero(unknown)[0])
        raise DataError(
            f"{where}[{first}] is missing ({values[first]}); leave out samples without "
            "an owner"
        )
    if not is_whole(values):
        raise DataError(
            f"{where} is {values.dtype} with fractions; owners are whole numbers or names"
        )


def _fit(values: NDArray[Any]) -> bool:
    """Return whether all values are numbers that int64 holds."""
    limits = np.iinfo(np.int64)
    # As Python's numbers: numpy would compare as floats, which round here.
    return int(values.min()) >= limits.min and int(values.max()) <= limits.max


def _numbers_of_objects(where: str, values: NDArray[Any]) -> NDArray[np.int64]:
    """Return one whole number per object, (N,): its own, or its rank among all."""
    owners = [_plain(owner) for owner in values]
    for place, owner in enumerate(owners):
        if _is_missing(owner):
            raise DataError(
                f"{where}[{place}] is missing ({owner}); leave out samples without an owner"
            )
    # Of one type, they are a column as numpy knows it.
    if len({type(owner) for owner in owners}) == 1:
        column = np.array(owners)
        if column.dtype.kind != "O" and column.shape == values.shape:
            return _numbers(where, column)
    try:
        distinct = {_key(owner) for owner in owners}
    # A list, for example, cannot be looked up.
    except TypeError as error:
        raise DataError(
            f"{where} holds what is no name ({error}); owners are numbers or names"
        ) from None
    try:
        ordered = sorted(distinct)
    # Objects that know no order among them.
    except TypeError:
        ordered = sorted(distinct, key=lambda pair: (pair[0], str(pair[1])))
    ranks = {pair: rank for rank, pair in enumerate(ordered)}
    return np.array([ranks[_key(owner)] for owner in owners], np.int64)


def _plain(owner: Any) -> Any:
    """Return a number of numpy's, or a whole float, as the plain number that it is."""
    if isinstance(owner, np.generic):
        owner = owner.item()
    if isinstance(owner, float) and owner.is_integer():
        return int(owner)
    return owner


def _key(owner: Any) -> tuple[str, Any]:
    """Return what tells an owner from all others: 1, True and "1" are three."""
    return type(owner).__name__, owner


def _is_missing(owner: Any) -> bool:
    """Return whether an object stands for nobody: None, NaN, and what pandas has for it."""
    if owner is None or type(owner).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(owner, float) and owner != owner
