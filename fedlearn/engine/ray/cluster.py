"""Ray itself: imported when it is asked for, quiet, and gone when the run is over."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
from typing import Any

from fedlearn.errors import ConfigError, one_line

_REACH_S = 10


def connect(address: str, cpus: int) -> tuple[Any, bool]:
    """Return the module ``ray``, connected, and whether the connection was made here, and is ours to shut down.

    address: "" starts a cluster of this machine alone, with so many CPUs; else as in ``ray.init``. Where this process is
    connected already, that connection is used. Raises ConfigError.
    """
    ray = _imported()
    if ray.is_initialized():
        return ray, False
    with contextlib.suppress(
        ImportError
    ):  # log_to_driver = False leaves Ray's own messages, and there is no option for those
        importlib.import_module("ray._private.worker").__dict__[
            "print_to_stdstream"
        ] = _silent
    os.environ.setdefault(
        "RAY_USAGE_STATS_ENABLED", "0"
    )  # a cluster that we start reports to nobody
    where: dict[str, Any] = (
        {"address": address}
        if address
        else {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    )
    _reach(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
    try:
        ray.init(**where, log_to_driver=False, logging_level="ERROR")
    except (
        Exception
    ) as error:  # Ray has many: no answer, another version, a name that is no address
        ray.shutdown()
        if not address:
            raise ConfigError(
                f"[engine] Ray cannot start a cluster here: {one_line(error)}"
            ) from error
        hint = "; a cluster that was started with a token needs RAY_AUTH_MODE=token here too"
        raise ConfigError(
            f'[engine] no Ray cluster can be used at address = "{address}": {one_line(error)}{hint}'
        ) from error
    return ray, True


def _reach(address: str) -> None:
    """Raise ConfigError for a HOST:PORT where nobody listens: Ray takes minutes to say so."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()
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


def _silent(data: object, ignore_prefix: bool = False) -> None:
    """Take the place of what prints Ray's errors: a dead actor is a line of the run's record, not of its display."""
