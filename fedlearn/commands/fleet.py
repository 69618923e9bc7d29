"""The command ``fedlearn fleet``: a coordinator that outlives runs, and does runs and rollouts."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from fedlearn.commands.arguments import Parser, add_config, ended, interrupt
from fedlearn.errors import ConfigError

HIGHEST_PORT = 65535
# What a table of sessions is made for.
MOST_DEVICES = 1_000_000

EPILOG = (
    "fedlearn fleet run CONFIG --fleet DIR has it do a run (see: fedlearn fleet run --help), and "
    "fedlearn fleet stop NUMBER --fleet DIR ends one. "
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
        "--metrics-port",
        type=int,
        metavar="PORT",
        help="tell Prometheus' figures and the fleet's page there, to this machine alone; "
        "0: any that is free (default: none)",
    )
    _add_limits(parser)
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="without TLS: anybody on the way can say what is wanted",
    )
    return parser


def _add_limits(parser: Parser) -> None:
    group = parser.add_argument_group(
        "from where on something is an event of DIR/fleet.log"
    )
    group.add_argument(
        "--drift",
        type=float,
        default=0.25,
        metavar="PSI",
        help="of a device's inputs or outputs (default: 0.25)",
    )
    group.add_argument(
        "--errors",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="of a device's requests that fail (default: 0.05)",
    )
    group.add_argument(
        "--silent-s",
        type=float,
        default=900.0,
        metavar="S",
        help="for which a device does not attend (default: 900)",
    )


def run_parser() -> Parser:
    """Return the arguments of ``fedlearn fleet run``."""
    parser = Parser(
        prog="fedlearn fleet run",
        description="Have a fleet's coordinator do a run over the agents that attend it. The "
        "command notes the wish and ends; fedlearn status tells how the run goes.",
        epilog="exit codes: 0 noted, 2 wrong input, 3 the disk failed",
    )
    add_config(parser)
    parser.add_argument(
        "--fleet", type=Path, required=True, metavar="DIR", help="the fleet's folder"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one key of the config; may be repeated",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="RUN",
        help="the run's folder; one that holds an unfinished run goes on (default: a new "
        "one in DIR/runs)",
    )
    return parser


def stop_parser() -> Parser:
    """Return the arguments of ``fedlearn fleet stop``."""
    parser = Parser(
        prog="fedlearn fleet stop",
        description="End one run of a fleet; its agents stay. What is done of it is kept, and "
        "fedlearn fleet run with --out and its folder goes on with it.",
        epilog="exit codes: 0 noted, 2 wrong input, 3 the disk failed",
    )
    parser.add_argument("number", type=int, help="of the run, as fedlearn status says")
    parser.add_argument(
        "--fleet", type=Path, required=True, metavar="DIR", help="the fleet's folder"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # A folder of that name is written with its path: ./run
    if words[:1] == ["run"]:
        wishes = run_parser().parse_args(words[1:])
        return ended(lambda: _wish(wishes))
    if words[:1] == ["stop"]:
        stops = stop_parser().parse_args(words[1:])
        return ended(lambda: _stop(stops))
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Workers of a run's engine would be forked beside the exchange's threads.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    arguments = parser().parse_args(words)
    return ended(lambda: _run(arguments))


def _wish(arguments: argparse.Namespace) -> None:
    from fedlearn.release.fleet_runs import wish

    number, folder = wish(
        arguments.fleet, arguments.config, arguments.set, arguments.out
    )
    print(f"run {number} is noted; see fedlearn status {folder}")


def _stop(arguments: argparse.Namespace) -> None:
    from fedlearn.release.fleet_status import is_served
    from fedlearn.release.run_stopping import want_stop

    run = want_stop(arguments.fleet, arguments.number)
    print(f"run {run.number} is to stop: {run.folder}")
    if not is_served(arguments.fleet):
        print(f"nobody serves the fleet; it is stopped when '{arguments.fleet}' is")


def _run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    from fedlearn.exchange.releases import WatchLimits
    from fedlearn.release.fleet import FleetOptions, serve
    from fedlearn.server.fleet_board import LEAST_REQUESTS, FleetLimits
    from fedlearn.server.listening import Address

    pki = None if arguments.insecure else arguments.pki
    address = Address(arguments.host, arguments.port, arguments.enroll_port, pki)
    figures = WatchLimits(LEAST_REQUESTS, arguments.errors, drift=arguments.drift)
    options = FleetOptions(
        address,
        arguments.devices,
        arguments.log or "notes",
        FleetLimits(figures, arguments.silent_s),
        arguments.metrics_port,
    )
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
    for name in ("drift", "errors", "silent_s"):
        value = getattr(arguments, name)
        # NaN is above nothing.
        if not value > 0:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} {value:g}: a number above 0")
    for name in ("port", "enroll_port", "metrics_port"):
        port = getattr(arguments, name)
        if port is not None and not 0 <= port <= HIGHEST_PORT:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} {port}: from 0 to {HIGHEST_PORT}")
