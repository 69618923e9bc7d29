"""Names in a config: short registered names, and import paths such as ``my_pkg.models:Net``."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedlearn.errors import ConfigError


@dataclass(frozen=True)
class Named:
    """A registered name: where it lives (``module:attribute``, imported on use) and one line about it."""

    path: str
    about: str


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest choice, or "" when none is close."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def find(what: str, name: str, registry: Mapping[str, Named]) -> Any:
    """Return the object that a config names: a registered name or an import path ``module:attribute``.

    what: the word for error messages, e.g. "model". Raises ConfigError when there is no such thing.
    """
    if ":" in name:
        return import_path(what, name)
    if name not in registry:
        if not registry:
            raise ConfigError(
                f"{what} = '{name}' is no import path; write it as 'my_package.my_module:name'"
            )
        raise ConfigError(
            f"unknown {what} '{name}'.{nearest(name, registry)} Known: {', '.join(registry)}; your own: 'my_package.my_module:name'"
        )
    return import_path(what, registry[name].path)


def import_path(what: str, path: str) -> Any:
    """Return the attribute that ``module:attribute`` names; raises ConfigError naming the part that fails."""
    module_name, _, attribute = path.partition(":")
    if not module_name.strip(".") or module_name.startswith(".") or not attribute:
        raise ConfigError(
            f"{what} '{path}' is no import path; write it as 'my_package.my_module:name'"
        )
    if "" not in sys.path and "." not in sys.path:
        sys.path.append(
            ""
        )  # a user's own module beside the config, also when started as a console script
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{what} '{path}': cannot import '{module_name}' ({error})"
        ) from error
    except (
        Exception,
        SystemExit,
    ) as error:  # the user's module runs its own code when imported
        raise ConfigError(
            f"{what} '{path}': importing '{module_name}' raised {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(
                f"{what} '{path}': '{module_name}' has no '{attribute}'.{nearest(part, dir(found))}"
            )
        found = getattr(found, part)
    return found


def call(
    what: str,
    function: Callable[..., Any],
    options: Mapping[str, Any],
    offered: Mapping[str, Any] | None = None,
) -> Any:
    """Call ``function(**options)``, adding those ``offered`` arguments that it takes.

    Raises ConfigError for what cannot be called, for an option that the function does not take (with the nearest
    one) and for a required argument that neither options nor offers give.
    """
    if not callable(function):
        raise ConfigError(
            f"{what} is a {type(function).__name__}, not a function or a class"
        )
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return function(**options)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [
        n
        for n, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    for option in options:
        if option not in known and not open_ended:
            free = [n for n in known if n not in (offered or {})]
            raise ConfigError(
                f"{what} takes no option '{option}'.{nearest(option, free)} It takes: {', '.join(free) or 'none'}"
            )
    arguments = {n: v for n, v in (offered or {}).items() if n in known} | dict(options)
    missing = [
        n
        for n in known
        if n not in arguments and parameters[n].default is inspect.Parameter.empty
    ]
    if missing:
        raise ConfigError(f"{what} needs the option '{missing[0]}'")
    return function(**arguments)


_FITS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool)),
    "float": (
        "a number",
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v == v,
    ),
    "bool": ("true or false", lambda v: isinstance(v, bool)),
    "str": ("a string", lambda v: isinstance(v, str)),
}


def check_types(
    what: str, function: Callable[..., Any], options: Mapping[str, Any]
) -> None:
    """Raise ConfigError for an option of another type than ``function`` says, and for NaN where it wants a number.

    Only parameters that are annotated with one plain type are checked; the rest is the function's business.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return
    for option, value in options.items():
        annotation = parameters[option].annotation if option in parameters else None
        name = (
            annotation
            if isinstance(annotation, str)
            else getattr(annotation, "__name__", "")
        )
        if name in _FITS and not _FITS[name][1](value):
            raise ConfigError(f"{what}: {option} = {value!r} is not {_FITS[name][0]}")
