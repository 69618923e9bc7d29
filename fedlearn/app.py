"""An experiment under ``flwr run``: the ServerApp, to be named in a Flower app's project.

In its pyproject.toml:

[tool.flwr.app.components]
serverapp = "fedlearn.app:app"
clientapp = "fedlearn.clients.app:app"

[tool.flwr.app.config]
# A shipped experiment, or a TOML file: in this app's folder, or where the SuperLink was
# started.
config = "mnist-2nn-iid"
# Changes, as --set: "train.lr=0.05 experiment.rounds=20".
set = ""
# The run folder; default: runs/NAME-TIME, where the SuperLink was started.
out = ""
# Whether to go on with the run in out.
resume = false
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedlearn.errors import ConfigError, FedlearnError, one_line
from fedlearn.names import nearest
from fedlearn.runs.start import run_in_folder

# The table of a Flower app that holds our keys, for messages.
TABLE = "[tool.flwr.app.config]"

# The keys of that table and their defaults, whose types are the keys'.
KEYS: dict[str, Any] = {"config": "", "set": "", "out": "", "resume": False}

RESUME_COMMAND = "flwr run APP --run-config 'resume=true out=\"{out}\"'"

app = ServerApp()


@dataclass(frozen=True)
class RunArguments:
    """The arguments of `fedlearn.runs.start.run_in_folder` that a user gives."""

    config: str | None
    changes: list[str]
    out: str | None
    resume: bool


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config names, and leave a run folder.

    Raises what `fedlearn simulate` reports.
    """
    from fedlearn.runs.on_flower import serve

    # Flower would log a traceback for what is one line of a user's mistake.
    logging.getLogger("flwr").addFilter(_in_one_line)
    run_arguments = arguments(context.run_config)
    # The run's manifest notes the command; that of Flower's process has a secret in it.
    settings = [f"{key}={value}" for key, value in sorted(context.run_config.items())]
    sys.argv = ["flwr", "run", *settings]
    run_in_folder(
        lambda experiment, folder, display, resume: serve(
            experiment, folder, display, resume, grid
        ),
        config=run_arguments.config,
        changes=run_arguments.changes,
        out=run_arguments.out,
        resume=run_arguments.resume,
        resume_command=RESUME_COMMAND,
    )


def arguments(run_config: Mapping[str, Any]) -> RunArguments:
    """Return Flower's run config as the arguments of a run.

    Raises ConfigError for a wrong value, and for a key that one of ours is missing for.
    """
    ours = {key: value for key, value in run_config.items() if key in KEYS}
    # Other keys are the ClientApp's, which reads them in its context.run_config.
    for key in run_config.keys() - KEYS:
        _check_spelling(key, KEYS.keys() - ours.keys())
    for key, value in ours.items():
        _check_key(key, value)
    values = KEYS | ours
    if values["resume"] and not values["out"]:
        raise ConfigError(
            f"{TABLE} resume = true needs out, the folder of the run to go on with"
        )
    # As a shell splits it: values may hold spaces in quotes.
    try:
        changes = shlex.split(values["set"])
    except ValueError as error:
        raise ConfigError(
            f"{TABLE} set = {values['set']!r}: {str(error).lower()}"
        ) from None
    return RunArguments(
        config=_config_path(values["config"]) or None,
        changes=changes,
        out=values["out"] or None,
        resume=values["resume"],
    )


def _check_spelling(key: str, missing: Collection[str]) -> None:
    """Raise ConfigError for a key that looks like one of ours which is not there."""
    advice = nearest(key, missing)
    if advice:
        raise ConfigError(
            f"{TABLE}: unknown key '{key}'.{advice} Known here: {', '.join(KEYS)}; "
            "if it is your app's own, give the other one too"
        )


def _check_key(key: str, value: Any) -> None:
    default = KEYS[key]
    # The exact type: no text or number may pass for true or false.
    if type(value) is not type(default):
        raise ConfigError(
            f"{TABLE} {key} = {value!r}: it is a {type(default).__name__}, "
            f"like {default!r}"
        )


def _config_path(config: str) -> str:
    """Return the path of a file in the app's folder; any other text as it is.

    Flower puts the app's folder on Python's path.
    """
    # Where the SuperLink was started comes first, as the docs say.
    if not config.endswith(".toml") or Path(config).exists():
        return config
    for folder in sys.path:
        path = Path(folder) / config
        if path.is_file():
            return str(path)
    return config


def _in_one_line(record: logging.LogRecord) -> bool:
    """Have Flower log an error that has a reason without its traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, FedlearnError):
        # The record is changed in place: Flower's handlers print it after this filter.
        record.msg = f"fedlearn: {one_line(error)}"
        record.args = ()
        record.exc_info = None
    # True: the record itself is still logged.
    return True
