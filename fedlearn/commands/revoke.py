"""``fedlearn revoke ID``: refuse a client's certificates and tokens; a running coordinator closes its stream."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.authority import add_pki, require_cryptography


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = Parser(
        prog="fedlearn revoke",
        description="Refuse all certificates and unused tokens that clients were given so far.",
        epilog="A new token lets a client in again: fedlearn token --client ID",
    )
    made.add_argument(
        "clients", type=int, nargs="+", metavar="ID", help="a client's id"
    )
    add_pki(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    require_cryptography()
    from fedlearn.server.tokens import revoke

    for client in arguments.clients:
        found = revoke(arguments.pki, client)
        print(
            f"client {client} is refused from now on (valid certificates: {found.certificates}, unused tokens: {found.tokens})"
        )


if __name__ == "__main__":
    sys.exit(main())
