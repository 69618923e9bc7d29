"""The command ``fedlearn run``: run a whole Flower app, unchanged."""

from __future__ import annotations

import argparse

from fedlearn.commands.app_arguments import add_app_options, app_started, run_to_end
from fedlearn.commands.arguments import Parser, add_quiet, ended
from fedlearn.commands.run_arguments import EPILOG

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
    add_app_options(parser)
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
    # Everything that can be wrong is found before flwr is imported.
    started = app_started(
        arguments, arguments.app, _FIXED, arguments.workers, arguments.node_config
    )
    from fedlearn.apps.api import run_app

    run_to_end(
        lambda path: run_app(
            started, path, resume=arguments.resume, quiet=arguments.quiet
        ),
        started,
        arguments.out,
        arguments.quiet,
        "fedlearn run",
    )
