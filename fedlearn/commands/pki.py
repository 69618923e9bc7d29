"""``fedlearn pki init``: make the authority that agents and coordinator trust; ``fedlearn pki server``: its names anew."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.authority import add_pki, require_cryptography

EPILOG = "exit codes: 0 done, 2 wrong input, 3 the folder cannot be written. Keep ca.key secret, and a copy of the folder."


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = Parser(
        prog="fedlearn pki",
        description="Make the coordinator's certificate authority.",
        epilog=EPILOG,
    )
    commands = made.add_subparsers(
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
    server = commands.add_parser(
        "server",
        help="issue the server's certificate anew: other names, or two more years",
        epilog=EPILOG,
    )
    for command in (init, server):
        add_pki(command)
        command.add_argument(
            "--name",
            action="append",
            default=[],
            metavar="NAME",
            help="a DNS name or IP address under which agents reach the coordinator; may be repeated "
            "(localhost is always added; default: "
            + ("this machine's host name)" if command is init else "the names it has)"),
        )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    require_cryptography()
    from fedlearn.server import identity

    place = shlex.quote(str(arguments.pki))
    if arguments.command == "server":
        names = identity.renew_server(arguments.pki, arguments.name)
        print(
            f"{place}/server.pem is new, for {', '.join(names)}; restart the coordinator to use it"
        )
        return
    names = identity.make(arguments.pki, arguments.name, arguments.days)
    given = "" if str(arguments.pki) == "pki" else f" --pki {place}"
    print(
        f"{place}/ca.pem and ca.key: the authority, for 10 years. Who reads ca.key can play any client: keep it here, and a copy safe"
    )
    print(
        f"{place}/server.pem and server.key: the coordinator, for 2 years, as {', '.join(names)}"
    )
    print(f"next, a token for each client: fedlearn token --client ID{given}")


if __name__ == "__main__":
    sys.exit(main())
