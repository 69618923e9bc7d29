"""The command ``fedlearn fleet``: a coordinator that outlives runs, and drives rollouts."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended, interrupt
from fedlearn.errors import ConfigError

HIGHEST_PORT = 65535
# What a table of sessions is made for.
MOST_DEVICES = 1_000_000

EPILOG = (
    "fedlearn rollout start|pause|resume|abort|status --fleet DIR says what it does. exit "
    "codes: 0 ended, 2 wrong input, 3 the disk or the address failed, 130 interrupted"
)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn fleet",
        description="Let agents attend for good, and roll releases out to their devices.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the fleet's folder, made if need be"
    )
    parser.add_argument(
        "--pki", type=Path, metavar="DIR", help="the authority of 'fedlearn pki init'"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 for all (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=0,
        help="where agents attend (default: the one before, or any that is free)",
    )
    parser.add_argument(
        "--enroll-port",
        type=int,
        default=0,
        help="where agents enroll (default: so too)",
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=1000,
        metavar="N",
        help="ids go from 0 to N-1 (default: 1000)",
    )
    parser.add_argument(
        "--log",
        choices=("json", "text"),
        help="print every event; DIR/fleet.log has them anyway",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="without TLS: anybody on the way can say what is wanted",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    from fedlearn.release.fleet import FleetOptions, serve
    from fedlearn.server.listening import Address

    pki = None if arguments.insecure else arguments.pki
    address = Address(arguments.host, arguments.port, arguments.enroll_port, pki)
    options = FleetOptions(address, arguments.devices, arguments.log or "notes")
    serve(arguments.folder, options, lambda: False)


def _check(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not go together, or are out of range."""
    if arguments.insecure and arguments.pki:
        raise ConfigError("--insecure and --pki exclude each other")
    if not arguments.insecure and not arguments.pki:
        raise ConfigError(
            "agents are known by certificates: make an authority with 'fedlearn pki "
            "init' and give its folder with --pki"
        )
    if arguments.pki and not (arguments.pki / "ca.pem").exists():
        raise ConfigError(
            f"--pki: there is no authority in '{arguments.pki}'; make one: fedlearn pki "
            f"init --pki {shlex.quote(str(arguments.pki))}"
        )
    if not 1 <= arguments.devices <= MOST_DEVICES:
        raise ConfigError(f"--devices {arguments.devices}: from 1 to {MOST_DEVICES}")
    for name in ("port", "enroll_port"):
        port = getattr(arguments, name)
        if not 0 <= port <= HIGHEST_PORT:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} {port}: from 0 to {HIGHEST_PORT}")
