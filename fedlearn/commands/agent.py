"""The command ``fedlearn agent``: take part in a run with the data of this device."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.clients.device import notify
from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import UserError

if TYPE_CHECKING:
    from fedlearn.clients.agent.agent import Agent
    from fedlearn.clients.agent.options import AgentSettings
    from fedlearn.clients.agent.release_settings import ReleaseSettings

EPILOG = (
    "fedlearn agent install: run it as a service of this device, from now on and at every "
    "start (see: fedlearn agent install --help)"
)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn agent",
        description="Take part in a run with the data of this device, until the run is "
        "over.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where the coordinator listens"
    )
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="what this device's owner decides: rules, and defaults of these options",
    )
    parser.add_argument(
        "--client",
        type=int,
        metavar="ID",
        help="who this is (default: as the certificate in --state says)",
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=Path("agent"),
        metavar="DIR",
        help="key, certificate, models, answers (default: agent)",
    )
    parser.add_argument(
        "--data",
        default="auto",
        help="auto: this client's share of the experiment's data; FILE.npz with x and y; "
        "or my_pkg:load",
    )
    _add_limits(parser)
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="without TLS: anybody on the way reads and changes everything",
    )
    parser.add_argument(
        "--no-diagnose",
        dest="diagnose",
        action="store_false",
        help="a fleet's coordinator may not ask what the doctor finds here",
    )
    parser.add_argument(
        # `fedlearn serve` starts its local agents with it, so that none outlives its
        # coordinator.
        "--end-with-input",
        action="store_true",
        help="end when standard input does, as with whoever started this",
    )
    return parser


def _add_limits(parser: Parser) -> None:
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module whose own models and functions the coordinator may name; "
        "MODULE:NAME: this one, whatever it is; dir: folders of this device",
    )
    parser.add_argument(
        "--apps",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="an installed package whose Flower ClientApp the coordinator may have run; "
        "PACKAGE.MODULE:NAME: this one alone",
    )
    parser.add_argument(
        "--app-s",
        type=float,
        default=3600.0,
        metavar="N",
        help="seconds that an app may take for one message; 0: any (default: 3600)",
    )
    for limit in ("epochs", "steps"):
        parser.add_argument(
            f"--{limit}",
            type=int,
            default=0,
            metavar="N",
            help=f"decline plans with more {limit} than this (default: no limit)",
        )
    parser.add_argument(
        "--megabytes",
        type=int,
        default=1024,
        metavar="N",
        help="hold no more than this of all tasks and answers together, and decline what "
        "is beyond (default: %(default)s)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, or ``install``, and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    # Only `install` loads what it takes to write a service.
    if words[:1] == ["install"]:
        from fedlearn.commands import install

        return install.main(words[1:])
    return ended(lambda: _run(_arguments(words)))


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options: the command line's, else the settings file's, else defaults."""
    from fedlearn.clients.device.rules import NO_RULES

    options = parser()
    # No option gives rules: they stand in the owner's settings file alone.
    options.set_defaults(rules=NO_RULES, releases=None, node_config={})
    arguments = options.parse_args(argv)
    if arguments.settings:
        from fedlearn.clients.device import settings

        file = settings.read(arguments.settings)
        # Parsed again over the file's values, so that what is given wins.
        options.set_defaults(
            **file.agent,
            rules=file.rules,
            releases=file.releases,
            node_config=file.node_config,
        )
        arguments = options.parse_args(argv)
    if not arguments.coordinator:
        raise UserError(
            "where is the coordinator? Give --coordinator HOST:PORT, or set it in the "
            "file of --settings"
        )
    return arguments


def _run(arguments: argparse.Namespace) -> None:
    from fedlearn.clients.agent.agent import Agent
    from fedlearn.clients.agent.identity import check_address

    check_address(arguments.coordinator)
    if arguments.megabytes < 1:
        raise UserError(f"--megabytes {arguments.megabytes}: a number from 1")
    if not 0 <= arguments.app_s < float("inf"):
        raise UserError(f"--app-s {arguments.app_s:g}: a number of seconds from 0")
    reason = asyncio.run(_attended(Agent(_settings(arguments), notify.say)))
    print(reason, file=sys.stderr)


async def _attended(agent: Agent) -> str:
    """Let an agent attend until its end or SIGTERM, in order; returns why it ended."""
    loop = asyncio.get_running_loop()
    attending = asyncio.create_task(agent.run())
    is_stopped = asyncio.Event()

    def stop() -> None:
        is_stopped.set()
        # Once: a second one must not break off what the first began.
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        attending.cancel()

    # Else a trial would cost a start, and what serves would outlive its agent.
    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        return await attending
    except asyncio.CancelledError:
        # Of Ctrl-C, which ends in its own way.
        if not is_stopped.is_set():
            raise
        return "stopped"


def _settings(arguments: argparse.Namespace) -> AgentSettings:
    from fedlearn.clients.agent.options import AgentSettings
    from fedlearn.clients.agent.pipe import AppRules

    return AgentSettings(
        coordinator=arguments.coordinator,
        client=_client(arguments),
        state=arguments.state,
        data=arguments.data,
        insecure=arguments.insecure,
        epochs=arguments.epochs,
        steps=arguments.steps,
        allow=tuple(arguments.allow),
        app_rules=AppRules(
            tuple(arguments.apps), arguments.node_config, arguments.app_s
        ),
        end_with_input=arguments.end_with_input,
        # A megabyte is 2**20 bytes here.
        most_bytes=arguments.megabytes << 20,
        rules=arguments.rules,
        releases=_releases(arguments),
        diagnose=arguments.diagnose,
        file=arguments.settings,
    )


def _releases(arguments: argparse.Namespace) -> ReleaseSettings | None:
    """Return what the owner decides of releases; raises UserError for a key that is none."""
    from fedlearn.clients.agent.release_settings import ReleaseSettings

    values = arguments.releases
    if values is None:
        return None
    from fedlearn.package import keys

    defaults = ReleaseSettings(Path(), (), ())
    probe = values.get("probe")
    if probe is not None and not probe.is_file():
        raise UserError(f"[releases] probe: there is no file '{probe}'")
    return ReleaseSettings(
        folder=(arguments.state / "releases").absolute(),
        names=values["accept"],
        keys=tuple(keys.read(path).decode() for path in values["keys"]),
        device=values.get("device", defaults.device),
        most_bytes=values.get("megabytes", defaults.most_bytes >> 20) << 20,
        most_megabytes=values.get("memory_mb", defaults.most_megabytes),
        watch_s=values.get("watch_s", defaults.watch_s),
        ready_s=values.get("ready_s", defaults.ready_s),
        starts=values.get("starts", defaults.starts),
        serve=values.get("serve"),
        shadow=values.get("shadow", defaults.shadow),
        disagreement=values.get("disagreement", defaults.disagreement),
        probe=probe,
        least_accuracy=values.get("probe_accuracy", defaults.least_accuracy),
        functions=values.get("functions", defaults.functions),
    )


def _client(arguments: argparse.Namespace) -> int:
    """Return who this is; raises UserError where nothing says it, or two things do."""
    from fedlearn.clients.agent.identity import read_identity

    client: int | None = arguments.client
    # With TLS the certificate says who this is; a number that is given is only
    # compared.
    if not arguments.insecure:
        identity = read_identity(arguments.state)
        if identity is not None and client not in (None, identity.client):
            raise UserError(
                f"--client {client}: the certificate in '{arguments.state}' is client "
                f"{identity.client}'s"
            )
        # Without a certificate the agent itself says what is missing.
        client = identity.client if identity else client or 0
    if client is None or client < 0:
        raise UserError(
            "--insecure needs --client ID, a number from 0: there is no certificate that "
            "says who this is"
        )
    return client


if __name__ == "__main__":
    sys.exit(main())
