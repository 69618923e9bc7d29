"""The command ``fedlearn pki``: the authority that agents and coordinators trust.

``init`` makes it; ``server`` issues the coordinator's certificate anew.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence

from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.authority import add_pki, require_cryptography, tell_restored

EPILOG = (
    "exit codes: 0 done, 2 wrong input, 3 the folder cannot be written. "
    "Keep ca.key secret, and a copy of the folder."
)


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn pki",
        description="Make the coordinator's certificate authority.",
        epilog=EPILOG,
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{init,server}"
    )
    init = commands.add_parser(
        "init", help="make the authority and the server's certificate", epilog=EPILOG
    )
    init.add_argument(
        "--days",
        type=int,
        default=90,
        help="validity of the clients' certificates; agents renew in time (default: 90)",
    )
    add_pki(init)
    _add_names(init, "this machine's host name")
    server = commands.add_parser(
        "server",
        help="issue the server's certificate anew: other names, or two more years",
        epilog=EPILOG,
    )
    add_pki(server)
    _add_names(server, "the names it has")
    server.add_argument(
        "--new-key",
        action="store_true",
        help="for a new key, where others may know the present one",
    )
    return parser


def _add_names(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--name",
        action="append",
        # Nothing given: `init` takes this machine's name, `server` those that the
        # certificate has.
        default=[],
        metavar="NAME",
        help="a DNS name or IP address under which agents reach the coordinator; may be "
        f"repeated (localhost is always added; default: {default})",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    require_cryptography()
    # Only the server's certificate is new: the agents go on trusting the same
    # authority.
    if arguments.command == "server":
        _renew_server(arguments)
    else:
        _make(arguments)


def _renew_server(arguments: argparse.Namespace) -> None:
    from fedlearn.server import identity

    tell_restored(arguments.pki)
    before = identity.server_expiry(arguments.pki)
    names = identity.renew_server(arguments.pki, arguments.name, arguments.new_key)
    folder = shlex.quote(str(arguments.pki))
    written = f"{folder}/server.pem is new"
    if arguments.new_key:
        written = f"{folder}/server.key and server.pem are new"
    print(f"{written}, for {', '.join(names)}; restart the coordinator to use it")
    if arguments.new_key:
        # Agents trust the authority, and no list tells them what it takes back.
        until = time.strftime("%Y-%m-%d", time.gmtime(before))
        print(
            f"agents take it as it is. Who knows the former key can play the coordinator "
            f"until {until}, when its certificate ends; to shut that out before, make a new "
            "authority and enroll the agents anew"
        )


def _make(arguments: argparse.Namespace) -> None:
    from fedlearn.server import identity

    names = identity.make(arguments.pki, arguments.name, arguments.days)
    folder = shlex.quote(str(arguments.pki))
    print(
        f"{folder}/ca.pem and ca.key: the authority, for 10 years. Who reads ca.key can "
        "play any client: keep it here, and a copy safe"
    )
    print(
        f"{folder}/server.pem and server.key: the coordinator, for 2 years, "
        f"as {', '.join(names)}"
    )
    # The default folder need not be named.
    option = "" if str(arguments.pki) == "pki" else f" --pki {folder}"
    print(f"next, a token for each client: fedlearn token --client ID{option}")


if __name__ == "__main__":
    sys.exit(main())
