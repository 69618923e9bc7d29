"""The command ``fedlearn agent``: take part in a run with the data of this device."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from fedlearn.clients.device import notify
from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import UserError

EPILOG = "fedlearn agent install: run it as a service of this device, from now on and at every start (see: fedlearn agent install --help)"


def parser() -> Parser:
    """Return the command's arguments."""
    made = Parser(
        prog="fedlearn agent",
        description="Take part in a run with the data of this device, until the run is over.",
        epilog=EPILOG,
    )
    made.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where the coordinator listens"
    )
    made.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="what this device's owner decides: rules, and defaults of these options",
    )
    made.add_argument(
        "--client",
        type=int,
        metavar="ID",
        help="who this is (default: as the certificate in --state says)",
    )
    made.add_argument(
        "--state",
        type=Path,
        default=Path("agent"),
        metavar="DIR",
        help="key, certificate, models, answers (default: agent)",
    )
    made.add_argument(
        "--data",
        default="auto",
        help="auto: this client's share of the experiment's data; FILE.npz with x and y; or my_pkg:load",
    )
    made.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that models and data may be imported from; dir: folders",
    )
    made.add_argument(
        "--epochs",
        type=int,
        default=0,
        metavar="N",
        help="decline plans with more epochs than this (default: no limit)",
    )
    made.add_argument(
        "--steps",
        type=int,
        default=0,
        metavar="N",
        help="decline plans with more steps than this (default: no limit)",
    )
    made.add_argument(
        "--megabytes",
        type=int,
        default=1024,
        metavar="N",
        help="decline tasks that send more than this (default: %(default)s)",
    )
    made.add_argument(
        "--insecure",
        action="store_true",
        help="without TLS: anybody on the way reads and changes everything",
    )
    made.add_argument(
        "--end-with-input",
        action="store_true",
        help="end when standard input does, as with whoever started this",
    )
    return made


def _given(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options: of the command line, else of the settings file, else the defaults."""
    from fedlearn.clients.device.rules import NO_RULES

    made = parser()
    made.set_defaults(rules=NO_RULES)
    given = made.parse_args(argv)
    if given.settings:
        from fedlearn.clients.device import settings

        found = settings.read(given.settings)
        made.set_defaults(**found.agent, rules=found.rules)
        given = made.parse_args(argv)
    if not given.coordinator:
        raise UserError(
            "where is the coordinator? Give --coordinator HOST:PORT, or set it in the file of --settings"
        )
    return given


def _run(given: argparse.Namespace) -> None:
    from fedlearn.clients.agent import identity
    from fedlearn.clients.agent.agent import Agent, AgentSettings

    identity.check_address(given.coordinator)
    if given.megabytes < 1:
        raise UserError(f"--megabytes {given.megabytes}: a number from 1")
    client = given.client
    if not given.insecure:
        found = identity.read_identity(given.state)
        if found is not None and client not in (None, found.client):
            raise UserError(
                f"--client {client}: the certificate in '{given.state}' is client {found.client}'s"
            )
        client = found.client if found else client or 0
    if client is None or client < 0:
        raise UserError(
            "--insecure needs --client ID, a number from 0: there is no certificate that says who this is"
        )
    settings = AgentSettings(
        given.coordinator,
        client,
        given.state,
        given.data,
        given.insecure,
        given.epochs,
        given.steps,
        tuple(given.allow),
        given.end_with_input,
        given.megabytes << 20,
        given.rules,
    )
    reason = asyncio.run(Agent(settings, _say).run())
    print(reason, file=sys.stderr)


def _say(text: str) -> None:
    """Tell a line to whoever reads the log, and to systemd if it runs this."""
    print(text, file=sys.stderr, flush=True)
    notify.tell(STATUS=text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["install"]:
        from fedlearn.commands import install

        return install.main(arguments[1:])
    return ended(lambda: _run(_given(arguments)))


if __name__ == "__main__":
    sys.exit(main())
