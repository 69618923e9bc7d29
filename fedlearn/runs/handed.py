"""Python objects in the place of names: what a program hands over to a run.

An object that a config can name (``module:attribute``, importable) becomes that name, and
the run is like any other. One that no config can name, such as a class of a notebook, is
recorded as ``python:NAME``; a resumed run asks for it again.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from torch import nn

from fedlearn.arrays import Sparse
from fedlearn.errors import ConfigError, FormatError, PayloadError, reason_of
from fedlearn.names import HANDED

if TYPE_CHECKING:
    from fedlearn.codec.protocol import Codec, Context
    from fedlearn.config import Experiment

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


# Those whose table holds the arguments of what it names.
_WITH_OPTIONS = ("data", "model", "strategy")


def named(objects: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the config's changes that name the objects, and those that have to be at hand.

    objects: by the keys of `KEYS`; texts are names already, and None is not given. The
    second result maps ``python:NAME`` to what makes the object. Raises ConfigError for
    one that cannot be what it is handed over as.
    """
    changes: dict[str, str] = {}
    at_hand: dict[str, Any] = {}
    # Objects by their names, as two of them may have one.
    owners: dict[str, Any] = {}
    for kind, value in objects.items():
        if value is None:
            continue
        if isinstance(value, str):
            changes[KEYS[kind]] = value
            continue
        name = importable_name(value)
        # A codec's name goes into every payload, where import paths mean nothing.
        if name is None or kind in ("up", "down"):
            name = _free_name(value, owners)
            owners[name] = value
            at_hand[name] = maker(kind, value)
        changes[KEYS[kind]] = name
    return changes, at_hand


def instances(objects: Mapping[str, Any]) -> list[str]:
    """Return the tables of the config in whose thing's place an instance stands."""
    return [kind for kind in _WITH_OPTIONS if _is_instance(kind, objects.get(kind))]


def without_options(tables: Iterable[str], experiment: Experiment) -> dict[str, None]:
    """Return the changes that take away the options of some tables.

    An instance has its arguments already; those in the config are of the thing that the
    config names.
    """
    changes: dict[str, None] = {}
    for table in tables:
        options = getattr(experiment, table).options
        changes |= dict.fromkeys(f"{table}.{name}" for name in options)
    return changes


def _free_name(value: Any, owners: Mapping[str, Any]) -> str:
    """Return ``python:NAME`` for an object, with a number where another one has the name."""
    stem = f"{HANDED}:{_short_name(value)}"
    name = stem
    number = 2
    while name in owners and owners[name] is not value:
        name = f"{stem}-{number}"
        number += 1
    return name


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
    # Of a functools.partial, what it calls.
    value = getattr(value, "func", value)
    name = getattr(value, "__name__", None) or type(value).__name__
    return "".join(letter for letter in str(name) if letter.isalnum() or letter in "_-")


def maker(kind: str, value: Any) -> Any:
    """Return what the config's name leads to: a class, or a function that gives the object.

    An instance is copied for each run, so that a run leaves it as it was.
    """
    if kind in ("up", "down"):
        return _codec(value)
    if is_factory(kind, value):
        return value
    if kind == "data":
        # Arrays are read and never written, so they need no copy.
        return lambda: value
    return lambda: _copied(value)


def _is_instance(kind: str, value: Any) -> bool:
    # A text is a name.
    if value is None or isinstance(value, str):
        return False
    return not is_factory(kind, value)


def is_factory(kind: str, value: Any) -> bool:
    """Return whether calling an object makes the thing, and is not what the thing is for."""
    if isinstance(value, type):
        return True
    # Modules of torch can be called, and so can a user's strategy; both are instances.
    if kind == "model" and isinstance(value, nn.Module):
        return False
    if kind == "strategy" and isinstance(value, Strategy):
        return False
    return callable(value)


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    # A user's object may hold an open file, or a lock.
    except Exception as error:
        raise ConfigError(
            f"a {type(value).__name__} cannot be copied for a run ({reason_of(error)}); "
            "hand over its class, or a function that makes one"
        ) from error


@dataclass(frozen=True)
class OwnCodec:
    """A user's codec with what ours have besides; see `fedlearn.codec.protocol.Codec`.

    Its answers are checked here, where an error can still name it.
    """

    name: str
    own: Codec
    uses_moved: bool = False
    for_differences: bool = False

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return the user's bytes. Raises PayloadError for what is none, or what it raises."""
        try:
            body = self.own.encode(values, seed, context)
        except Exception as error:
            raise self._raised("encode", error) from error
        if not isinstance(body, bytes | bytearray):
            kind = type(body).__name__
            raise PayloadError(f"the codec {self.name}.encode gave a {kind}, not bytes")
        return bytes(body)

    def decode(
        self, body: bytes, seed: int, context: Context
    ) -> NDArray[np.float32] | Sparse:
        """Return the user's values (P,), as float32. Raises FormatError for any others."""
        try:
            values = self.own.decode(body, seed, context)
        except Exception as error:
            raise self._raised("decode", error) from error
        if isinstance(values, Sparse):
            return values
        if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
            kind = getattr(values, "dtype", None) or type(values).__name__
            raise FormatError(
                f"the codec {self.name}.decode gave a {kind}, not an array of floats"
            )
        if values.shape != (context.size,):
            raise FormatError(
                f"the codec {self.name}.decode gave values of shape {values.shape}; "
                f"the model has {context.size}"
            )
        return values.astype(np.float32, copy=False)

    def _raised(self, verb: str, error: Exception) -> FormatError:
        return FormatError(f"the codec {self.name}.{verb} raised {reason_of(error)}")


def _codec(value: Any) -> OwnCodec:
    name = _short_name(value)
    if isinstance(value, type):
        try:
            codec = value()
        except Exception as error:
            raise ConfigError(
                f"the codec {name}() raised {reason_of(error)}; "
                "hand over an instance in place of the class"
            ) from error
    else:
        # Pure functions: one object serves all clients.
        codec = _copied(value)
    for method in ("encode", "decode"):
        if not callable(getattr(codec, method, None)):
            raise ConfigError(
                f"the codec {name} has no {method}(); see fedlearn.codec.protocol.Codec"
            )
    return OwnCodec(
        name,
        codec,
        bool(getattr(codec, "uses_moved", False)),
        bool(getattr(codec, "for_differences", False)),
    )
