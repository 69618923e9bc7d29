"""Python objects in the place of names: what a program hands over to a run.

An object that a config can name (``module:attribute``, importable) becomes that name, and
the run is like any other. One that no config can name, such as a class of a notebook, is
recorded as ``python:NAME``; a resumed run asks for it again.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedlearn.errors import ConfigError
from fedlearn.names import HANDED

# The config's key that each kind of object stands under, by the argument's name.
KEYS = {
    "data": "data.name",
    "model": "model.name",
    "strategy": "strategy.name",
    "up": "codec.up",
    "down": "codec.down",
}

# Modules that another process would not find again under the same name.
_NOWHERE = ("__main__", "__mp_main__", "builtins")


def named(objects: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the config's changes that name the objects, and those that have to be at hand.

    objects: by the keys of `KEYS`; texts are names already, and None is not given. The
    second result maps ``python:NAME`` to what makes the object. Raises ConfigError for
    one that cannot be what it is handed over as.
    """
    changes: dict[str, str] = {}
    at_hand: dict[str, Any] = {}
    for kind, value in objects.items():
        if value is None:
            continue
        if isinstance(value, str):
            changes[KEYS[kind]] = value
            continue
        name = importable_name(value)
        # A codec's name goes into every payload, where import paths mean nothing.
        if name is None or kind in ("up", "down"):
            name = f"{HANDED}:{_short_name(value)}"
            at_hand[name] = _maker(kind, value)
        changes[KEYS[kind]] = name
    return changes, at_hand


def importable_name(value: Any) -> str | None:
    """Return ``module:attribute`` of an object that can be imported; None: it cannot."""
    module_name = getattr(value, "__module__", None)
    attribute = getattr(value, "__qualname__", None)
    if not module_name or not attribute or module_name in _NOWHERE:
        return None
    try:
        target: Any = importlib.import_module(module_name)
        # A class inside a class has a dotted name.
        for part in attribute.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError):
        # A class of a function's body, or a module that was made by hand.
        return None
    return f"{module_name}:{attribute}" if target is value else None


def _short_name(value: Any) -> str:
    """Return a name for people: a class's or function's own, or that of an object's class."""
    name = getattr(value, "__name__", None) or type(value).__name__
    return "".join(letter for letter in str(name) if letter.isalnum() or letter in "_-")


def _maker(kind: str, value: Any) -> Any:
    """Return what the config's name leads to: a class, or a function that gives the object.

    An instance is copied for each run, so that a run leaves it as it was.
    """
    if kind in ("up", "down"):
        return _codec(value)
    if isinstance(value, type) or _is_function(value):
        return value
    if kind == "data":
        # Arrays are read and never written, so they need no copy.
        return lambda: value
    return lambda: copy.deepcopy(value)


def _is_function(value: Any) -> bool:
    """Return whether calling an object makes something, and is not what it is for.

    A module of torch and a strategy can be called, too; they are instances.
    """
    return callable(value) and hasattr(value, "__code__")


@dataclass(frozen=True)
class OwnCodec:
    """A user's codec with what ours have besides; see `fedlearn.codec.protocol.Codec`."""

    encode: Callable[..., bytes]
    decode: Callable[..., Any]
    uses_moved: bool = False
    for_differences: bool = False


def _codec(value: Any) -> OwnCodec:
    # Pure functions: one object serves all clients.
    codec = value() if isinstance(value, type) else value
    for method in ("encode", "decode"):
        if not callable(getattr(codec, method, None)):
            raise ConfigError(
                f"the codec {_short_name(value)} has no {method}(); "
                "see fedlearn.codec.protocol.Codec"
            )
    return OwnCodec(
        codec.encode,
        codec.decode,
        bool(getattr(codec, "uses_moved", False)),
        bool(getattr(codec, "for_differences", False)),
    )
