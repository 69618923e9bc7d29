"""``fedlearn enroll --coordinator HOST:PORT --token T``: exchange a one-time token for this agent's certificate."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import UserError

LONGEST_TOKEN = 16384


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = Parser(
        prog="fedlearn enroll",
        description="Make a key on this device and get a certificate for it. The key never leaves the device.",
        epilog="exit codes: 0 done, 2 the token or the address is refused, 3 the coordinator cannot be reached",
    )
    made.add_argument(
        "--coordinator",
        required=True,
        metavar="HOST:PORT",
        help="the coordinator's enrolment port",
    )
    token = made.add_mutually_exclusive_group(required=True)
    token.add_argument(
        "--token",
        metavar="T",
        help="the token; - reads it from standard input, where no list of processes shows it",
    )
    token.add_argument(
        "--token-file", metavar="F", type=Path, help="a file that holds the token"
    )
    made.add_argument(
        "--state",
        metavar="DIR",
        type=Path,
        default=Path("agent"),
        help="the agent's folder (default: agent)",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    os.environ.setdefault(
        "GRPC_VERBOSITY", "NONE"
    )  # before grpc is imported: what goes wrong is told in one line below
    from fedlearn.clients.agent.identity import check_address, enrol, read_token

    check_address(arguments.coordinator)
    made = enrol(arguments.coordinator, read_token(_token(arguments)), arguments.state)
    until = time.strftime("%Y-%m-%d", time.gmtime(made.not_after))
    print(
        f"this device is client {made.client}; its identity is in '{arguments.state}', valid until {until} and renewed before"
    )


def _token(arguments: argparse.Namespace) -> str:
    if arguments.token_file is not None:
        try:
            with open(arguments.token_file, errors="replace") as file:
                return file.read(LONGEST_TOKEN + 1)
        except (OSError, ValueError) as error:
            raise UserError(
                f"'{arguments.token_file}': {getattr(error, 'strerror', None) or error}"
            ) from None
    if arguments.token != "-":
        return str(arguments.token)
    if sys.stdin is None:
        raise UserError("standard input is closed; give --token-file")
    return sys.stdin.read(LONGEST_TOKEN + 1)


if __name__ == "__main__":
    sys.exit(main())
