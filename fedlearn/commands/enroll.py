"""The command ``fedlearn enroll``: exchange a one-time token for this agent's certificate."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from getpass import getpass
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import UserError

# Characters. A token is shorter; a file that is longer is none and is not read whole.
LONGEST_TOKEN = 16384


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn enroll",
        description="Make a key on this device and get a certificate for it. The key "
        "never leaves the device.",
        epilog="exit codes: 0 done, 2 the token or the address is refused, 3 the "
        "coordinator cannot be reached",
    )
    parser.add_argument(
        "--coordinator",
        required=True,
        metavar="HOST:PORT",
        help="the coordinator's enrollment port",
    )
    token = parser.add_mutually_exclusive_group(required=True)
    token.add_argument(
        "--token",
        metavar="T",
        help="- asks for the token, or reads it from a pipe; the token itself works too, "
        "and stands in the list of processes for every user to see",
    )
    token.add_argument(
        "--token-file", metavar="F", type=Path, help="a file that holds the token"
    )
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=Path,
        default=Path("agent"),
        help="the agent's folder (default: agent)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    # Set before grpc is imported, whose own log would repeat our one line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from fedlearn.clients.agent.identity import check_address, enroll, read_token

    # Before the token, which may have to come from standard input.
    check_address(arguments.coordinator)
    token = read_token(_token(arguments))
    identity = enroll(arguments.coordinator, token, arguments.state)
    until = time.strftime("%Y-%m-%d", time.gmtime(identity.not_after))
    print(
        f"this device is client {identity.client}; its identity is in "
        f"'{arguments.state}', valid until {until} and renewed before"
    )


def _token(arguments: argparse.Namespace) -> str:
    """Return the token's text from the option, the file or standard input."""
    if arguments.token_file is not None:
        return _token_in(arguments.token_file)
    if arguments.token != "-":
        return str(arguments.token)
    # The program was started with standard input closed.
    if sys.stdin is None:
        raise UserError("standard input is closed; give --token-file")
    # At a terminal: one line, and not shown.
    if sys.stdin.isatty():
        return getpass("token: ")
    return sys.stdin.read(LONGEST_TOKEN + 1)


def _token_in(path: Path) -> str:
    try:
        # A file that is no text is refused as no token, without a traceback.
        with open(path, errors="replace") as file:
            return file.read(LONGEST_TOKEN + 1)
    # ValueError: a name with a null byte, which has no strerror.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"'{path}': {reason}") from None


if __name__ == "__main__":
    sys.exit(main())
