"""What a coordinator may name on a device: the check of names that come from the wire.

A module that the owner allows imports other modules, and through those a name could reach any
function of the device. So a name from the wire is one public name that an allowed module
defines, and it is of the kind that it is wanted for. What else an owner wants to offer, the
owner names exactly, as ``module:attribute``.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from types import FunctionType
from typing import Any

from torch import nn, optim

from fedlearn.brief import Brief
from fedlearn.clients.agent.modules import is_below, is_plain
from fedlearn.errors import ConfigError
from fedlearn.names import import_path

# Parts that may be classes, and what these are below.
_CLASSES: dict[str, type] = {"model": nn.Module, "optimizer": optim.Optimizer}

# The name of data that is a folder of the device.
_FOLDER = "dir"


def check_brief(brief: Brief, data: str, allow: Collection[str]) -> None:
    """Raise ConfigError for what the owner does not allow the coordinator to name.

    data: "auto", or the owner's own, in whose place no name of the coordinator's counts.
    allow: modules, exact names ``module:attribute``, and "dir".
    """
    check_name("model", brief.model, allow)
    if data != "auto":
        return
    check_name("data", brief.data, allow)
    # The coordinator would choose which of this device's files are read.
    if brief.data == _FOLDER and _FOLDER not in allow:
        raise ConfigError(
            "the experiment's data is a folder of this device; "
            "to allow it: --allow dir, or name your own by --data"
        )
    # Of another type than text it is no name, and refused where it is read.
    kind = brief.partition.get("kind")
    if isinstance(kind, str):
        check_name("partition", kind, allow)


def check_name(part: str, name: str, allow: Collection[str]) -> None:
    """Raise ConfigError for an import path that the owner does not allow.

    part: "model", "optimizer", "data" or "partition": what the name has to be. A name without
    a module is one of fedlearn's own: no code comes from outside. Imports the module, if it
    is allowed.
    """
    # The exact name is the owner's own choice, whatever it leads to.
    if ":" not in name or name in allow:
        return
    module, _, attribute = name.partition(":")
    wish = f"the coordinator asks for the {part} '{name}' of this device"
    # A warning: such names are what an attack looks like.
    exact_fix = f"only if you know what it does, to allow it: --allow {name}"
    if not is_plain(module, attribute):
        raise ConfigError(f"{wish}, which no module defines; {exact_fix}")
    if not is_below(module, allow):
        raise ConfigError(f"{wish}; to allow it: --allow {module}")
    reason = _objection(part, import_path(part, name), allow)
    if reason is not None:
        raise ConfigError(f"{wish}, {reason}; {exact_fix}")


def _objection(part: str, value: Any, allow: Collection[str]) -> str | None:
    """Return why a value may not be used as that part; None: it may."""
    base = _CLASSES.get(part)
    kind = "a function"
    if base is not None:
        kind = f"an {base.__name__} class or a function"
    # By its type: what calls itself a function may be any object.
    if type(value) is FunctionType:
        homes = _homes(value)
    elif base is not None and isinstance(value, type) and issubclass(value, base):
        homes = [str(value.__module__)]
    else:
        return f"which is a {type(value).__name__} and not {kind}"
    for home in homes:
        if not is_below(home, allow):
            return f"which is defined in {home}"
    # A lambda, or a function made by another one: it stands in the module, but nobody
    # wrote it there under this name.
    if "<" in value.__qualname__:
        return f"which is not {kind} with a name of its own"
    return None


def _homes(function: FunctionType) -> list[str]:
    """Return the modules that a function says it is of, and that its code is of.

    Both: packages rewrite ``__module__`` of functions that they export again. Below a
    decorator stands the function that it wraps.
    """
    try:
        innermost = inspect.unwrap(function)
    # A chain without an end.
    except ValueError:
        return [""]
    # A decorator may have been put around a class or a builtin.
    if not isinstance(innermost, FunctionType):
        return [str(function.__module__), str(getattr(innermost, "__module__", ""))]
    code_home = innermost.__globals__.get("__name__", "")
    return [str(function.__module__), str(innermost.__module__), str(code_home)]
