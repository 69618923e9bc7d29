"""Ray itself: imported when it is asked for, quiet, and shut down when the run is over."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
from typing import Any

from fedlearn.errors import ConfigError, reason_of

# Seconds that a cluster's address may take to accept a connection.
_CONNECT_S = 10


def connect(address: str, cpus: int) -> tuple[Any, bool]:
    """Return the module ``ray``, connected, and whether the caller must shut it down.

    address: "" starts a cluster of this machine alone, with so many CPUs; otherwise as in
    ``ray.init``. A connection that this process has already is used as it is. Raises
    ConfigError.
    """
    ray = _imported()
    # A notebook may have connected before; its connection outlives the run.
    if ray.is_initialized():
        return ray, False
    _silence()
    # A cluster that is started here reports to nobody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"address": address}
    if not address:
        options = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    # Where "auto" finds no address in the environment, Ray looks on this machine.
    target = address
    if address == "auto":
        target = os.environ.get("RAY_ADDRESS", "")
    _check_reachable(target)
    try:
        ray.init(**options, log_to_driver=False, logging_level="ERROR")
    except Exception as error:
        # Ray has many: no answer, another version, a name that is no address.
        ray.shutdown()
        raise _unusable(address, error) from error
    return ray, True


def _unusable(address: str, error: Exception) -> ConfigError:
    reason = reason_of(error)
    if not address:
        return ConfigError(f"[engine] Ray cannot start a cluster here: {reason}")
    return ConfigError(
        f'[engine] no Ray cluster can be used at address = "{address}": {reason}; '
        "a cluster that was started with a token needs RAY_AUTH_MODE=token here too"
    )


def _check_reachable(address: str) -> None:
    """Raise ConfigError for a HOST:PORT where nobody listens; Ray takes minutes for that."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f'[engine] no Ray cluster can be used at address = "{address}": {reason}'
        ) from None


def _imported() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(
            f"[engine] kind = \"ray\" needs Ray: pip install 'fedlearn[ray]' ({error})"
        ) from None


def _silence() -> None:
    """Keep Ray's own messages from the display.

    ``log_to_driver=False`` leaves them, and there is no option for them.
    """
    with contextlib.suppress(ImportError):
        worker = importlib.import_module("ray._private.worker")
        worker.__dict__["print_to_stdstream"] = _print_nothing


def _print_nothing(data: object, ignore_prefix: bool = False) -> None:
    """Print nothing: a dead actor stands in the run's record, not on its display."""
