"""Names in a config: short registered names, and import paths as ``my_pkg.models:Net``."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedlearn.errors import ConfigError, pass_on_signal, reason_of
from fedlearn.system import own_path
from fedlearn.text import first_few, shortened
from fedlearn.text.spelling import likely

_AN_IMPORT_PATH = "write it as 'my_package.my_module:name'"


@dataclass(frozen=True)
class Named:
    """A registered name.

    path: where it lives (``module:attribute``, imported on use). about: one line.
    """

    path: str
    about: str


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for what a word most likely means, or "" for none."""
    close = likely(word, choices)
    if not close:
        return ""
    quoted = [f"'{choice}'" for choice in close]
    return f" Did you mean {' or '.join(quoted)}?"


# The module of names that stand for Python objects which a program handed over to a run.
HANDED = "python"

# The argument of fedlearn.run that an object is handed over by, where the word differs.
_ARGUMENTS = {"data set": "data", "codec": "up"}

# Those objects by their names, such as "python:Net", for as long as the run goes on.
_handed: dict[str, Any] = {}

# Held by the thread whose run goes on. Runs share this process's random generators and
# torch's threads besides those names, so two at a time would change each other's models.
_turn = threading.RLock()


@contextlib.contextmanager
def handed_over(objects: Mapping[str, Any]) -> Iterator[None]:
    """Let names of the module ``python`` lead to these objects, inside the block.

    One thread at a time: others wait. A block may stand in another one.
    """
    with _turn:
        before = dict(_handed)
        _handed.update(objects)
        try:
            yield
        finally:
            _handed.clear()
            _handed.update(before)


def is_handed(name: str) -> bool:
    """Return whether a name stands for a Python object that was handed over."""
    return name.startswith(f"{HANDED}:")


def handed(what: str, name: str) -> Any:
    """Return the object that was handed over under a name.

    Raises ConfigError that says how to hand it over again.
    """
    if name in _handed:
        return _handed[name]
    own_name = name.partition(":")[2]
    raise ConfigError(
        f"{what} '{own_name}' was a Python object, which no config can name; hand it over "
        f"again, as fedlearn.run(…, {_ARGUMENTS.get(what, what)}={own_name})"
    )


def find(what: str, name: str, registry: Mapping[str, Named]) -> Any:
    """Return the object that a config names: registered, or ``module:attribute``.

    what: the word for error messages, e.g. "model".
    Raises ConfigError when there is no such thing.
    """
    if ":" in name:
        return import_path(what, name)
    if name in registry:
        return import_path(what, registry[name].path)
    if not registry:
        raise ConfigError(f"{what} = '{name}' is no import path; {_AN_IMPORT_PATH}")
    raise ConfigError(
        f"unknown {what} '{name}'.{nearest(name, registry)} Known: {', '.join(registry)}; "
        "your own: 'my_package.my_module:name'"
    )


def import_path(what: str, path: str) -> Any:
    """Return the attribute that ``module:attribute`` names.

    what: the word for error messages. Raises ConfigError naming the part that fails.
    """
    module_name, _, attributes = path.partition(":")
    if not module_name.strip(".") or module_name.startswith(".") or not attributes:
        raise ConfigError(f"{what} '{path}' is no import path; {_AN_IMPORT_PATH}")
    if module_name == HANDED:
        return handed(what, path)
    value = _module(what, path, module_name)
    for attribute in attributes.split("."):
        if not hasattr(value, attribute):
            raise ConfigError(
                f"{what} '{path}': '{module_name}' has no '{attributes}'."
                f"{nearest(attribute, dir(value))}"
            )
        value = getattr(value, attribute)
    return value


def _module(what: str, path: str, module_name: str) -> Any:
    # A user's module may lie in the current folder, which a console script does not search.
    if not module_name.startswith("fedlearn."):
        own_path.look_in("")
    try:
        return _imported(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{what} '{path}': cannot import '{module_name}' ({shortened(str(error))})"
            f"{_looked_in(module_name, error)}"
        ) from error
    # The user's module runs its own code when imported, which may raise anything.
    except (Exception, SystemExit) as error:
        pass_on_signal(error)
        raise ConfigError(
            f"{what} '{path}': importing '{module_name}' raised {reason_of(error)}"
        ) from error


def _imported(module_name: str) -> Any:
    """Return a module, imported with seeded generators where it is not loaded yet."""
    # Some names are looked up at each step of a client's training.
    if module_name.startswith("fedlearn.") and module_name in sys.modules:
        return sys.modules[module_name]
    # It imports numpy, for which reading a config need not wait.
    from fedlearn.seeds import isolated

    # A module may draw its data while it is imported: in each process the same.
    with isolated(0):
        return own_path.load(module_name)


def _looked_in(module_name: str, error: ImportError) -> str:
    """Return where a module was looked for, if it is that one which is not there."""
    if error.name != module_name.partition(".")[0]:
        return ""
    folders = [os.path.abspath(folder) for folder in own_path.own_folders()]
    return (
        f"; looked in {first_few(dict.fromkeys(folders), 3)} and among installed packages: "
        "put the file beside the config, or its folder on PYTHONPATH"
    )


def call(
    what: str,
    function: Callable[..., Any],
    options: Mapping[str, Any],
    offered: Mapping[str, Any] | None = None,
) -> Any:
    """Call ``function(**options)``, adding those ``offered`` arguments that it takes.

    An option wins over an offer of its name.
    Raises ConfigError for what cannot be called, for an option that the function does
    not take (with the nearest one) and for a required argument that neither gives.
    """
    if not callable(function):
        raise ConfigError(
            f"{what} is a {type(function).__name__}, not a function or a class"
        )
    offers = offered or {}
    parameters = _parameters(function)
    # Python knows no signature of some functions written in C.
    if parameters is None:
        return function(**options)
    accepted = _accepted(parameters)
    _check_options(what, parameters, accepted, options, offers)
    arguments = {name: offers[name] for name in offers if name in accepted}
    arguments.update(options)
    for name in accepted:
        required = parameters[name].default is inspect.Parameter.empty
        if required and name not in arguments:
            raise ConfigError(f"{what} needs the option '{name}'")
    return function(**arguments)


def _parameters(
    function: Callable[..., Any],
) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def _accepted(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """Return the names of the parameters that can be given by name."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, p in parameters.items() if p.kind in by_name]


def _check_options(
    what: str,
    parameters: Mapping[str, inspect.Parameter],
    accepted: list[str],
    options: Mapping[str, Any],
    offers: Mapping[str, Any],
) -> None:
    """Raise ConfigError for the first option that a function does not take."""
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for option in options:
        if option in accepted:
            continue
        free = [name for name in accepted if name not in offers]
        raise ConfigError(
            f"{what} takes no option '{option}'.{nearest(option, free)} "
            f"It takes: {', '.join(free) or 'none'}"
        )


def _is_number(value: Any) -> bool:
    """Return whether a value is a number, which neither a boolean nor NaN is."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return not math.isnan(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# The plain types that are checked: their name in an annotation → (words, test).
_FITS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", _is_whole),
    "float": ("a number", _is_number),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "str": ("a string", lambda value: isinstance(value, str)),
}


def check_types(
    what: str, function: Callable[..., Any], options: Mapping[str, Any]
) -> None:
    """Check options against a function's annotations.

    Only parameters that are annotated with one plain type are checked; the rest is the
    function's business. Raises ConfigError for an option of another type, and for NaN
    where a number is expected.
    """
    parameters = _parameters(function) or {}
    for option, value in options.items():
        if option not in parameters:
            continue
        type_name = _type_name(parameters[option].annotation)
        if type_name not in _FITS:
            continue
        words, fits = _FITS[type_name]
        if not fits(value):
            raise ConfigError(f"{what}: {option} = {value!r} is not {words}")


def _type_name(annotation: Any) -> str:
    """Return an annotation's name: the text itself under postponed evaluation."""
    if isinstance(annotation, str):
        return annotation
    return str(getattr(annotation, "__name__", ""))
