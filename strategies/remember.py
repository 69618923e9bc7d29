"""What a strategy remembers between rounds, as plain values: for checkpoints.

No pickle: only values of known kinds are saved and restored (numbers, text, numpy
arrays, Flower's records; lists, tuples and dicts of these; strategies within strategies).
A run names at its start, not at its end, what a strategy cannot remember this way: such a
run cannot be resumed exactly.

JSON keys and array names stand in files: a change breaks the resume of older runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from fedlearn.arrays import Layout, State
from fedlearn.errors import RunError

# Array name → array: the part of a checkpoint that is not JSON.
Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]

# Flower's records of named values; an `ArrayRecord` is saved apart, for its arrays.
_RECORDS: dict[str, Callable[..., Any]] = {
    "MetricRecord": MetricRecord,
    "ConfigRecord": ConfigRecord,
    "RecordDict": RecordDict,
}
_PLAIN = (bool, int, float, str, type(None))
_NUMERIC_KINDS = "biuf"  # numpy's: bool, int, unsigned int, float


def save(value: Any, arrays: Arrays) -> Any:
    """Return JSON for a value, its arrays added to ``arrays``.

    Raises TypeError with the kind of the value, or of one inside it, that is not known.
    """
    if isinstance(value, _PLAIN):
        return value
    # numpy's float64 is a float too, and loses its type here: its bits are the same.
    saved = _save_arrays(value, arrays)
    if saved is None:
        saved = _save_container(value, arrays)
    if saved is None:
        raise TypeError(type(value).__name__)
    return saved


def _save_arrays(value: Any, arrays: Arrays) -> dict[str, Any] | None:
    """Return JSON for a value made of numbers or bytes; None for other kinds."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in _NUMERIC_KINDS:
            return None
        name = _add(np.asarray(value), arrays)
        # numpy's numbers come back as numbers, and not as arrays without dimensions.
        return {"array": name, "scalar": isinstance(value, np.generic)}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, State):
        return {"state": [_add(value.floats, arrays), _add(value.integers, arrays)]}
    if isinstance(value, ArrayRecord):
        names = [[key, _save_array(array, arrays)] for key, array in value.items()]
        return {"ArrayRecord": names}
    return None


def _save_array(array: Array, arrays: Arrays) -> str | dict[str, Any]:
    """Return the name of an array of Flower's; of one that is not of numbers, its bytes."""
    numbers = np.empty(0)
    is_numpy = array.stype == "numpy.ndarray"
    if is_numpy:
        numbers = array.numpy()
    if is_numpy and numbers.dtype.kind in _NUMERIC_KINDS:
        return _add(numbers, arrays)
    # Text, complex numbers, or what an app serialises by itself: as Flower has it.
    return {
        "dtype": array.dtype,
        "shape": list(array.shape),
        "stype": array.stype,
        "data": array.data.hex(),
    }


def _load_array(saved: str | dict[str, Any], arrays: Arrays) -> Array:
    if isinstance(saved, str):
        return Array(arrays[saved])
    data = bytes.fromhex(saved["data"])
    shape = tuple(saved["shape"])
    return Array(saved["dtype"], shape, saved["stype"], data)


def _save_container(value: Any, arrays: Arrays) -> dict[str, Any] | None:
    """Return JSON for a value that holds others; None for other kinds."""
    for name, kind in _RECORDS.items():
        if isinstance(value, kind):  # type: ignore[arg-type]
            return {name: [[key, save(item, arrays)] for key, item in value.items()]}
    if isinstance(value, dict):
        # Keys are saved as values are: in JSON they could only be text.
        pairs = [[save(key, arrays), save(item, arrays)] for key, item in value.items()]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        # JSON has one kind of list.
        items = [save(item, arrays) for item in value]
        return {"list": items, "tuple": isinstance(value, tuple)}
    return None


def load(saved: Any, arrays: Arrays) -> Any:
    """Return the value of JSON that `save` made."""
    if not isinstance(saved, dict):
        return saved
    # The first key is the kind; a second one tells two kinds apart.
    kind, content = next(iter(saved.items()))
    if kind == "array":
        return arrays[content][()] if saved["scalar"] else arrays[content]
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "state":
        return State(arrays[content[0]], arrays[content[1]])
    if kind == "ArrayRecord":
        return ArrayRecord({key: _load_array(item, arrays) for key, item in content})
    if kind == "dict":
        return {load(key, arrays): load(item, arrays) for key, item in content}
    if kind == "list":
        items = [load(item, arrays) for item in content]
        return tuple(items) if saved["tuple"] else items
    return _RECORDS[kind]({key: load(item, arrays) for key, item in content})


def remember(strategy: Strategy, arrays: Arrays) -> dict[str, Any]:
    """Return what a strategy's attributes hold now, as JSON; arrays go to ``arrays``.

    Attributes that `save` does not know are left out; `forgets` names them.
    """
    saved: dict[str, Any] = {}
    for name, value in _attributes(strategy):
        if isinstance(value, Strategy):
            saved[name] = {"strategy": remember(value, arrays)}
            continue
        try:
            saved[name] = save(value, arrays)
        except TypeError:
            # The run said so when it began.
            continue
    return saved


def forgets(strategy: Strategy) -> list[str]:
    """Return the attributes of a strategy that `remember` leaves out unasked.

    With any, a run cannot be resumed exactly.
    """
    forgotten = []
    for name, value in _attributes(strategy):
        if isinstance(value, Strategy):
            forgotten += [f"{name}.{inner}" for inner in forgets(value)]
            continue
        try:
            save(value, {})
        except TypeError as error:
            forgotten.append(f"{name} ({error})")
    return forgotten


def recall(strategy: Strategy, saved: dict[str, Any], arrays: Arrays) -> None:
    """Put remembered values back into a strategy made by the same config.

    Raises RunError when the checkpoint is of another strategy.
    """
    for name, value in saved.items():
        if not isinstance(value, dict) or "strategy" not in value:
            setattr(strategy, name, load(value, arrays))
            continue
        inner = getattr(strategy, name, None)
        if not isinstance(inner, Strategy):
            raise RunError(
                f"the checkpoint is of another strategy: it remembers '{name}'"
            )
        recall(inner, value["strategy"], arrays)


def _attributes(strategy: Strategy) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that rounds may change, or that cannot be told from those.

    Code, types and layouts are made anew from the config and never change. Numbers of
    the config, such as server_lr, look like state and are remembered with it.
    """
    left_out: frozenset[str] = getattr(strategy, "not_remembered", frozenset())
    for name, value in vars(strategy).items():
        constant = inspect.isroutine(value) or isinstance(value, type | Layout)
        if name not in left_out and not constant:
            yield name, value


def _add(array: Any, arrays: Arrays) -> str:
    """Add an array under the next free name, and return the name."""
    name = f"memory.{len(arrays)}"
    # `ascontiguousarray` would make a one-element vector of a number.
    arrays[name] = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
    return name
