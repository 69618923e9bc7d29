"""What ``--set`` may say of a run of an app: its codecs, and the time that a node has.

Nothing of flwr is imported here, so a mistake is told at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedlearn.codec import AUTO, FEEDBACK, canonical
from fedlearn.errors import ConfigError
from fedlearn.names import nearest

_CODECS = ("codec.up", "codec.down", "codec.first")
_TIMEOUT = "engine.client_timeout_s"
_KEYS = (*_CODECS, _TIMEOUT)


@dataclass(frozen=True)
class RunOptions:
    """The engine of a run.

    up, down: codecs of replies and of messages; "": whole. first: of the first record that a
    node is sent, whose like it does not hold; "": whole. client_timeout_s: seconds after
    which a node's work on a message is given up; 0: never.
    """

    up: str = ""
    down: str = ""
    first: str = ""
    client_timeout_s: float = 0.0


# Exact: an app that nobody compressed runs as it does in Flower.
EXACT = RunOptions()


def read(changes: Sequence[str]) -> RunOptions:
    """Return the options of texts such as "codec.up=eden1".

    Raises ConfigError for another key, a codec that apps cannot use, and a time that is none.
    """
    codecs = dict.fromkeys(_CODECS, "")
    timeout_s = 0.0
    for change in changes:
        key, separator, text = change.partition("=")
        key = key.strip()
        # Any other key is one of experiments, or of the app's own config.
        if not separator or key not in _KEYS:
            raise ConfigError(
                f"--set {change}: an app's run knows {', '.join(_KEYS)}, as "
                f"--set codec.up=eden1; the app's own keys go into --run-config."
                f"{nearest(key, _KEYS)}"
            )
        value = text.strip().strip("\"'")
        if key == _TIMEOUT:
            timeout_s = seconds(value)
        else:
            codecs[key] = _codec(key, value)
    up, down, first = (codecs[key] for key in _CODECS)
    if first and not down:
        raise ConfigError(
            f"codec.first = '{first}' needs codec.down: without it each message is whole"
        )
    return RunOptions(up, down, first, timeout_s)


def seconds(text: str) -> float:
    """Return the seconds that a node has; raises ConfigError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # Infinity is never, which 0 says.
    if not 0 <= value < math.inf:
        raise ConfigError(
            f"{_TIMEOUT} = '{text}' is no number of seconds from 0 (0: never)"
        )
    return value


def _codec(key: str, text: str) -> str:
    if text in (AUTO, ""):
        return text
    if text.startswith(FEEDBACK):
        raise ConfigError(
            f"{key} = '{text}': error feedback needs a residual of each client, which an "
            f"app's messages do not have; use {key} = '{text.removeprefix(FEEDBACK)}'"
        )
    return canonical(text, ConfigError)
