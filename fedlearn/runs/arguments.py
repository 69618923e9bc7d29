"""What a program hands over to the Python API, checked before anything is made of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.errors import ConfigError

if TYPE_CHECKING:
    from fedlearn.runs.callbacks import Callback

# Each local agent is a process; beyond this it is a mistake.
MOST_LOCAL_AGENTS = 1000

HIGHEST_PORT = 65535

# An exabyte: no disk has more.
MOST_MEGABYTES = 10**12

# Bytes of a file's name, and of a whole path, that Linux takes.
_NAME_BYTES = 255
_PATH_BYTES = 4095


def folder_path(name: str, value: Any) -> Path:
    """Return the path of a folder or file. Raises ConfigError for what is none.

    name: the argument's, for the message.
    """
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{name} is a {type(value).__name__}; give a path")
    text = os.fspath(value)
    if not isinstance(text, str) or not _is_name(text):
        raise ConfigError(f"{name} = {text!a:.80} cannot be the name of a file")
    return Path(text)


def _is_name(text: str) -> bool:
    try:
        # Names that are no UTF-8 are Python texts with surrogates of their own.
        name = os.fsencode(text)
    except UnicodeEncodeError:
        return False
    longest = max(len(part) for part in name.split(b"/"))
    return b"\0" not in name and longest <= _NAME_BYTES and len(name) <= _PATH_BYTES


def changes_of(changes: Any) -> dict[str, Any]:
    """Return changes of single keys as a dict. Raises ConfigError for anything else."""
    if changes is None:
        return {}
    if not isinstance(changes, Mapping):
        raise ConfigError(
            f"changes is a {type(changes).__name__}; give a mapping of keys to values, "
            "such as {'train.lr': 0.05}"
        )
    return dict(changes)


def own_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """Return the callbacks of a list. Raises ConfigError naming the one that is none."""
    # Here and not at the top: it loads numpy, which the commands' help does without.
    from fedlearn.runs.callbacks import Callback

    if isinstance(callbacks, Callback) or not isinstance(callbacks, list | tuple):
        raise ConfigError(
            f"callbacks is a {type(callbacks).__name__}; give a list, such as [Mine()]"
        )
    for place, callback in enumerate(callbacks):
        if not isinstance(callback, Callback):
            what = _described(callback)
            raise ConfigError(
                f"callbacks[{place}] is {what}; give an instance of a subclass of "
                "fedlearn.Callback"
            )
    return tuple(callbacks)


def _described(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    return f"a {type(value).__name__}"


def whole_number(name: str, value: Any, highest: int, lowest: int = 0) -> int:
    """Return a whole number of a range. Raises ConfigError naming the argument."""
    # Python counts its booleans among the numbers.
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not lowest <= value <= highest:
        raise ConfigError(
            f"{name} = {value!r:.40}: a whole number from {lowest} to {highest}"
        )
    return int(value)
