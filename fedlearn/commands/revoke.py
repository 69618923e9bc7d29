"""The command ``fedlearn revoke ID``: refuse a client's certificates and tokens.

A running coordinator closes the client's stream.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.authority import add_pki, require_cryptography, tell_restored


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn revoke",
        description="Refuse all certificates and unused tokens that clients were given "
        "so far.",
        epilog="A new token lets a client in again: fedlearn token --client ID",
    )
    parser.add_argument(
        "clients", type=int, nargs="+", metavar="ID", help="a client's id"
    )
    parser.add_argument(
        "--anyway",
        action="store_true",
        help="refuse also whom the folder does not know, as after it was restored from a "
        "copy: certificates that were given since",
    )
    add_pki(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    require_cryptography()
    # Loaded after the check, which says how to install what is missing.
    from fedlearn.server.tokens import revoke

    tell_restored(arguments.pki)
    # One after another: what was refused before a wrong id stays refused.
    for client in arguments.clients:
        revoked = revoke(arguments.pki, client, arguments.anyway)
        print(
            f"client {client} is refused from now on (valid certificates: "
            f"{revoked.certificates}, unused tokens: {revoked.tokens})"
        )


if __name__ == "__main__":
    sys.exit(main())
