"""The command ``fedlearn token --client ID``: a token for one enrollment of this client."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.authority import add_pki, require_cryptography, tell_restored

EPILOG = (
    "The token is all of standard output: one line. It is as good as a password until it "
    "is used or expires: hand it over by a safe way, e.g. fedlearn token --client 7 | "
    "ssh device fedlearn enroll --coordinator HOST:PORT --token -"
)


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn token",
        description="Print a one-time token for a client's agent.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--client",
        type=int,
        required=True,
        metavar="ID",
        help="the client's id, a whole number from 0",
    )
    parser.add_argument(
        "--hours",
        type=float,
        default=24.0,
        help="how long the token can be used (default: 24)",
    )
    add_pki(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    require_cryptography()
    from fedlearn.server.tokens import new_token

    tell_restored(arguments.pki)
    # Nothing but the token: it may be piped into `fedlearn enroll --token -`.
    print(new_token(arguments.pki, arguments.client, arguments.hours))


if __name__ == "__main__":
    sys.exit(main())
