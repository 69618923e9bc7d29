"""An experiment under ``flwr run``: the ServerApp, to be named in a Flower app's pyproject.toml.

[tool.flwr.app.components]
serverapp = "fedlearn.app:app"
clientapp = "fedlearn.clients.app:app"

[tool.flwr.app.config]
config = "mnist-2nn-iid"  # a shipped experiment, or a TOML file: in this app's folder, or where the SuperLink was started
set = ""                  # changes, as --set: "train.lr=0.05 experiment.rounds=20"
out = ""                  # the run folder; default: runs/NAME-TIME, where the SuperLink was started
resume = false            # go on with the run in out
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedlearn.errors import ConfigError, FedlearnError, one_line
from fedlearn.names import nearest
from fedlearn.runs.start import run_in_folder

KEYS: dict[str, Any] = {"config": "", "set": "", "out": "", "resume": False}
"""The keys of ``[tool.flwr.app.config]`` and their defaults."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config names, and leave a run folder; raises what `fedlearn simulate` reports."""
    from fedlearn.runs.superlink import serve

    logging.getLogger("flwr").addFilter(_in_one_line)
    given = arguments(context.run_config)
    # The run's manifest notes the command; that of Flower's process has a secret in it.
    sys.argv = [
        "flwr",
        "run",
        *(f"{key}={value}" for key, value in sorted(context.run_config.items())),
    ]
    again = "flwr run APP --run-config 'resume=true out=\"{out}\"'"
    run_in_folder(
        lambda experiment, folder, display, resume: serve(
            experiment, folder, display, resume, grid
        ),
        **given,
        resume_command=again,
    )


class RunArguments(TypedDict):
    """The arguments of `fedlearn.runs.start.run_in_folder` that a user gives."""

    config: str | None
    changes: list[str]
    out: str | None
    resume: bool


def arguments(run_config: Mapping[str, Any]) -> RunArguments:
    """Return Flower's run config as the arguments of a run. Raises ConfigError naming the nearest key."""
    for key, value in run_config.items():
        if key not in KEYS:
            raise ConfigError(
                f"[tool.flwr.app.config]: unknown key '{key}'.{nearest(key, KEYS)} Known here: {', '.join(KEYS)}"
            )
        if type(value) is not type(KEYS[key]):
            raise ConfigError(
                f"[tool.flwr.app.config] {key} = {value!r}: it is a {type(KEYS[key]).__name__}, like {KEYS[key]!r}"
            )
    values = KEYS | dict(run_config)
    if values["resume"] and not values["out"]:
        raise ConfigError(
            "[tool.flwr.app.config] resume = true needs out, the folder of the run to go on with"
        )
    try:
        changes = shlex.split(values["set"])
    except ValueError as error:
        raise ConfigError(
            f"[tool.flwr.app.config] set = {values['set']!r}: {str(error).lower()}"
        ) from None
    return RunArguments(
        config=_found(values["config"]) or None,
        changes=changes,
        out=values["out"] or None,
        resume=values["resume"],
    )


def _found(config: str) -> str:
    """Return the path of a file in the app's folder, which Flower puts on Python's path; anything else as it is."""
    if not config.endswith(".toml") or Path(config).exists():
        return config
    return next(
        (str(path) for folder in sys.path if (path := Path(folder) / config).is_file()),
        config,
    )


def _in_one_line(record: logging.LogRecord) -> bool:
    """Have Flower log an error that has a reason without its traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, FedlearnError):
        record.msg, record.args, record.exc_info = (
            f"fedlearn: {one_line(error)}",
            (),
            None,
        )
    return True
