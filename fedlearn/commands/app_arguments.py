"""The arguments of the commands that run a Flower app: ``run`` and ``serve``."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.errors import ConfigError, RunError

if TYPE_CHECKING:
    from fedlearn.apps.start import Started


def add_app_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what an app is run with."""
    parser.add_argument(
        "--run-config",
        action="append",
        metavar="'KEY=VALUE …'|FILE.toml",
        help="change keys of the app's [tool.flwr.app.config]",
    )
    parser.add_argument(
        "--nodes",
        type=int,
        metavar="N",
        help="the app's nodes (default: num-supernodes of its federation, or 2)",
    )
    parser.add_argument(
        "--federation-config",
        action="append",
        metavar="'KEY=VALUE …'|FILE.toml",
        help="as of flwr run: num-supernodes is honoured, what else is there is named",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="the app's seed (default: 0)"
    )


def app_started(
    arguments: argparse.Namespace,
    app: str | None,
    fixed: Sequence[str],
    workers: int,
    node_config: str | None = None,
) -> Started:
    """Return the run of an app that is asked for; raises ConfigError.

    app: its folder; None: with --resume, that of the run in --out. fixed: options that a run
    which goes on takes from its folder.
    """
    from fedlearn.apps import options
    from fedlearn.apps.project import changed, federation
    from fedlearn.apps.start import of_folder, of_options

    # A name by the clock would be another one.
    if arguments.resume and not arguments.out:
        raise ConfigError("--resume: name the run's folder with --out")
    if app is None:
        if not arguments.resume:
            raise ConfigError("give the folder of a Flower app: fedlearn run APP")
        # Absent, or a list without an entry.
        named = [name for name in fixed if getattr(arguments, name) not in (None, [])]
        if named:
            raise ConfigError(
                f"--{named[0].replace('_', '-')}: a run that goes on has it from its "
                "folder; leave it out"
            )
        return of_folder(Path(arguments.out), workers)
    return of_options(
        Path(app),
        changes=changed(arguments.run_config or ()),
        nodes=arguments.nodes,
        federation=federation(arguments.federation_config or ()),
        seed=arguments.seed or 0,
        workers=workers,
        options=options.read(arguments.set or ()),
        node_config=Path(node_config) if node_config else None,
    )


def run_to_end(
    run: Callable[[Path], Any],
    started: Started,
    out: str | None,
    quiet: bool,
    again: str,
) -> None:
    """Run an app in its folder, and say how to go on with it where it stops early.

    run: takes the folder. again: the command that goes on, without the folder.
    """
    from fedlearn.apps.start import is_unfinished

    path = _path(out, started)
    try:
        run(path)
    except (KeyboardInterrupt, RunError):
        # What is on disk is kept, whatever ended the run.
        if not quiet and is_unfinished(path):
            command = f"{again} --resume --out {shlex.quote(str(path))}"
            print(f"to go on: {command}", flush=True)
        raise


def _path(out: str | None, started: Started) -> Path:
    from fedlearn.apps.start import folder_name
    from fedlearn.records.places import new_folder

    # A new folder each time: no run is written over.
    if out is None:
        return new_folder(folder_name(started.project))
    if not out:
        raise ConfigError("--out is empty; name a folder, or leave it out")
    return Path(out)
