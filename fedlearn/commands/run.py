"""The command ``fedlearn run``: run a whole Flower app, unchanged."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.commands.arguments import Parser, add_quiet, ended
from fedlearn.commands.run_arguments import EPILOG
from fedlearn.errors import ConfigError, RunError

if TYPE_CHECKING:
    from fedlearn.apps.start import Started

# Options that a run which goes on takes from its folder.
_FIXED = ("run_config", "nodes", "federation_config", "seed", "set", "node_config")


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn run",
        description="Run a Flower app, whole and unchanged: its ServerApp and its ClientApp.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "app",
        nargs="?",
        metavar="APP",
        help="the app's folder, with its pyproject.toml",
    )
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
        help="the nodes (default: num-supernodes of the project's federation, or 2)",
    )
    parser.add_argument(
        "--federation-config",
        action="append",
        metavar="'KEY=VALUE …'|FILE.toml",
        help="as of flwr run: num-supernodes is honoured, what else is there is named",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the seed (default: 0)")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that run the ClientApp (default: one a core)",
    )
    parser.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="codec.up, codec.down: have arrays travel as differences, by a codec or auto; "
        "codec.first: the codec of a node's first model; engine.client_timeout_s: seconds "
        "after which a node's work on a message has failed",
    )
    parser.add_argument(
        "--node-config",
        metavar="FILE.toml",
        help="keys of context.node_config, for all nodes, and in [0], [1], … for one",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="the run folder (default: runs/NAME-TIME)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --out"
    )
    add_quiet(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code; a user's mistake is one line on stderr."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    from fedlearn.runs.start import require_extra

    require_extra()
    from fedlearn.apps.api import run_app
    from fedlearn.apps.start import is_unfinished

    if arguments.resume and not arguments.out:
        raise ConfigError("--resume: name the run's folder with --out")
    # Everything that can be wrong is found before flwr is imported.
    started = _started(arguments)
    path = _path(arguments, started)
    try:
        run_app(started, path, resume=arguments.resume, quiet=arguments.quiet)
    except (KeyboardInterrupt, RunError):
        # What is on disk is kept, whatever ended the run.
        if not arguments.quiet and is_unfinished(path):
            command = f"fedlearn run --resume --out {shlex.quote(str(path))}"
            print(f"to go on: {command}", flush=True)
        raise


def _started(arguments: argparse.Namespace) -> Started:
    from fedlearn.apps import options
    from fedlearn.apps.project import changed, federation
    from fedlearn.apps.start import of_folder, of_options

    if arguments.app is None:
        if not arguments.resume:
            raise ConfigError("give the folder of a Flower app: fedlearn run APP")
        fixed = [name for name in _FIXED if getattr(arguments, name) is not None]
        if fixed:
            raise ConfigError(
                f"--{fixed[0].replace('_', '-')}: a run that goes on has it from its "
                "folder; leave it out"
            )
        return of_folder(Path(arguments.out), arguments.workers)
    return of_options(
        Path(arguments.app),
        changes=changed(arguments.run_config or ()),
        nodes=arguments.nodes,
        federation=federation(arguments.federation_config or ()),
        seed=arguments.seed or 0,
        workers=arguments.workers,
        options=options.read(arguments.set or ()),
        node_config=Path(arguments.node_config) if arguments.node_config else None,
    )


def _path(arguments: argparse.Namespace, started: Started) -> Path:
    from fedlearn.apps.start import folder_name
    from fedlearn.records.places import new_folder

    # A new folder each time: no run is written over.
    if arguments.out is None:
        return new_folder(folder_name(started.project))
    if not arguments.out:
        raise ConfigError("--out is empty; name a folder, or leave it out")
    return Path(arguments.out)
