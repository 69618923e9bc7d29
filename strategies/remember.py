"""What a strategy remembers between rounds, as plain values: for checkpoints.

No pickle: only values whose kind is known are saved and restored (numbers, text, numpy arrays, Flower's records,
lists, tuples and dicts of these, and strategies within strategies). What a strategy cannot remember this way is
named, so that a run says at its start that it cannot be resumed, not at its end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from fedlearn.arrays import Layout, State
from fedlearn.errors import RunError

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]

_RECORDS: dict[str, Callable[..., Any]] = {
    "MetricRecord": MetricRecord,
    "ConfigRecord": ConfigRecord,
    "RecordDict": RecordDict,
}
_PLAIN = (bool, int, float, str, type(None))


def save(value: Any, arrays: Arrays) -> Any:
    """Return JSON for a value, its arrays added to ``arrays``; raises TypeError naming a value of unknown kind."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return {
            "array": _keep(np.asarray(value), arrays),
            "scalar": isinstance(value, np.generic),
        }
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, State):
        return {"state": [_keep(value.floats, arrays), _keep(value.integers, arrays)]}
    if isinstance(value, ArrayRecord):
        return {
            "ArrayRecord": [[k, _keep(v.numpy(), arrays)] for k, v in value.items()]
        }
    for name, kind in _RECORDS.items():
        if isinstance(value, kind):  # type: ignore[arg-type]
            return {name: [[k, save(v, arrays)] for k, v in value.items()]}
    if isinstance(value, dict):
        return {"dict": [[save(k, arrays), save(v, arrays)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {
            "list": [save(v, arrays) for v in value],
            "tuple": isinstance(value, tuple),
        }
    raise TypeError(type(value).__name__)


def load(saved: Any, arrays: Arrays) -> Any:
    """Return the value of JSON that `save` made."""
    if not isinstance(saved, dict):
        return saved
    kind, content = next(iter(saved.items()))
    if kind == "array":
        return arrays[content][()] if saved["scalar"] else arrays[content]
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "state":
        return State(arrays[content[0]], arrays[content[1]])
    if kind == "ArrayRecord":
        return ArrayRecord({k: Array(arrays[v]) for k, v in content})
    if kind == "dict":
        return {load(k, arrays): load(v, arrays) for k, v in content}
    if kind == "list":
        items = [load(v, arrays) for v in content]
        return tuple(items) if saved["tuple"] else items
    return _RECORDS[kind]({k: load(v, arrays) for k, v in content})


def remember(strategy: Strategy, arrays: Arrays) -> dict[str, Any]:
    """Return what a strategy's attributes hold now, as JSON; attributes made by its config alone are left out."""
    out: dict[str, Any] = {}
    for name, value in vars(strategy).items():
        if isinstance(value, Strategy):
            out[name] = {"strategy": remember(value, arrays)}
        elif not _made_by_config(value):
            try:
                out[name] = save(value, arrays)
            except TypeError:
                continue
    return out


def forgets(strategy: Strategy) -> list[str]:
    """Return the attributes of a strategy that `remember` cannot save: with any, a run cannot be resumed exactly."""
    odd = []
    for name, value in vars(strategy).items():
        if isinstance(value, Strategy):
            odd += [f"{name}.{inner}" for inner in forgets(value)]
        elif not _made_by_config(value):
            try:
                save(value, {})
            except TypeError as error:
                odd.append(f"{name} ({error})")
    return odd


def recall(strategy: Strategy, saved: dict[str, Any], arrays: Arrays) -> None:
    """Put remembered values back into a strategy made by the same config; raises RunError when it is another."""
    for name, value in saved.items():
        if isinstance(value, dict) and "strategy" in value:
            inner = getattr(strategy, name, None)
            if not isinstance(inner, Strategy):
                raise RunError(
                    f"the checkpoint is of another strategy: it remembers '{name}'"
                )
            recall(inner, value["strategy"], arrays)
        else:
            setattr(strategy, name, load(value, arrays))


def _made_by_config(value: Any) -> bool:
    """Tell whether a value is code or a layout: made anew from the config, and never changed by rounds."""
    return inspect.isroutine(value) or isinstance(value, type | Layout)


def _keep(array: Any, arrays: Arrays) -> str:
    key = f"memory.{len(arrays)}"
    arrays[key] = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
    return key
