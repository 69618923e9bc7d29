"""The command ``fedlearn new``: write a Flower app that is an experiment too."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from fedlearn.commands.arguments import Parser, add_quiet, ended
from fedlearn.errors import UserError
from fedlearn.template.making import FILES, make

# The owners of the template's samples.
NODES = 10


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn new",
        description="Write a Flower app into a new folder. It runs as an app and as an\n"
        "experiment of fedlearn, at once and without a network.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="DIR",
        help="a folder that is new or empty; its name becomes the package's",
    )
    add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; a user's mistake is one line on stderr."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if not arguments.folder:
        raise UserError("name a folder that is new or empty: fedlearn new DIR")
    folder = Path(arguments.folder)
    name = make(folder)
    if not arguments.quiet:
        print(f"{folder}: a Flower app, and an experiment of its package '{name}'")
        print("\n".join(f"  {line}" for line in _commands(folder)))


def _commands(folder: Path) -> list[str]:
    """Return what can be done with an app, one command a line."""
    place = shlex.quote(str(folder))
    config = shlex.quote(str(folder / "experiment.toml"))
    return [
        # As many as the template has owners; Flower's default is two.
        f"fedlearn run {place} --nodes {NODES}",
        f"fedlearn simulate {config}",
        f"pytest {place}",
        f"flwr run {place} --federation-config num-supernodes={NODES}",
    ]


def _epilog() -> str:
    lines = [f"  {path:<24}{about}" for path, about in FILES.items()]
    table = "\n".join(["what comes:", *lines])
    return f"{table}\n\nexit codes: 0 done, 2 wrong input"
