"""The command ``fedlearn serve``: run an experiment over real agents, which attend over gRPC."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.run_arguments import run_parser
from fedlearn.errors import ConfigError
from fedlearn.records.names import LOG_FILE
from fedlearn.runs.start import run_in_folder


def parser() -> Parser:
    """Return the command's arguments."""
    made = run_parser(
        "serve",
        "Run an experiment over real agents, and leave the run folder that a simulation would leave.",
    )
    made.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 for all (default: 127.0.0.1, this machine alone)",
    )
    made.add_argument(
        "--port",
        type=int,
        default=0,
        help="port of the exchange (default: any that is free)",
    )
    made.add_argument(
        "--enrol-port",
        type=int,
        default=0,
        help="port of the enrolment (default: any that is free)",
    )
    made.add_argument(
        "--pki",
        type=Path,
        metavar="DIR",
        help="the authority made by 'fedlearn pki init' (default with local agents: its own)",
    )
    made.add_argument(
        "--local-agents",
        type=int,
        default=0,
        metavar="N",
        help="start agents 0 to N-1 as processes of this machine",
    )
    made.add_argument(
        "--log",
        choices=("json", "text"),
        help="print every event on standard error, one line each (default: what a person needs to know); RUN/fleet.log has them anyway",
    )
    made.add_argument(
        "--metrics-port",
        type=int,
        metavar="PORT",
        help="port of this machine, 127.0.0.1, for Prometheus' /metrics and for /healthz; 0: any that is free (default: none)",
    )
    made.add_argument(
        "--insecure",
        action="store_true",
        help="without TLS: whoever reaches the port can take part and read everything",
    )
    return made


def _run(given: argparse.Namespace) -> None:
    if given.insecure and given.pki:
        raise ConfigError("--insecure and --pki exclude each other")
    if not (given.insecure or given.pki or given.local_agents):
        raise ConfigError(
            "agents are known by certificates: make an authority with 'fedlearn pki init' and give its folder with --pki"
        )
    if not 0 <= given.local_agents <= 1000:
        raise ConfigError(f"--local-agents {given.local_agents}: from 0 to 1000")
    if given.pki and not (given.pki / "ca.pem").exists():
        raise ConfigError(
            f"--pki: there is no authority in '{given.pki}'; make one: fedlearn pki init --pki {shlex.quote(str(given.pki))}"
        )
    for name in ("port", "enrol_port", "metrics_port"):
        if not 0 <= (getattr(given, name) or 0) <= 65535:
            raise ConfigError(
                f"--{name.replace('_', '-')} {getattr(given, name)}: from 0 to 65535"
            )
    signal.signal(
        signal.SIGTERM, _interrupt
    )  # as Ctrl-C: the agents are told, and the run can go on
    run_in_folder(
        lambda *parts: _serve(given, *parts),
        config=given.config,
        changes=given.set,
        out=given.out,
        resume=given.resume,
        quiet=given.quiet,
        resume_command=f"python -m fedlearn.{_again(given)} --resume --out {{out}}",
    )


def _again(given: argparse.Namespace) -> str:
    """Return the command as it is to be given again to go on with a run; ports it finds in the run's folder."""
    words = ["serve"]
    for name, usual in (
        ("host", "127.0.0.1"),
        ("pki", None),
        ("local_agents", 0),
        ("log", None),
        ("metrics_port", None),
    ):
        if getattr(given, name) != usual:
            words += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
    return shlex.join([*words, "--insecure"] if given.insecure else words)


def _serve(
    given: argparse.Namespace, experiment: Any, folder: Any, display: Any, resume: bool
) -> dict[str, Any]:
    from fedlearn.runs.serving import default_pki, serve
    from fedlearn.server.listening import Address
    from fedlearn.server.observe import Log

    pki = None if given.insecure else given.pki or default_pki(folder.path)
    address = Address(given.host, given.port, given.enrol_port, pki)
    log = Log(
        folder.path / LOG_FILE, given.log or ("nothing" if given.quiet else "notes")
    )
    return serve(
        experiment,
        folder,
        display,
        resume,
        address,
        log,
        given.local_agents,
        given.metrics_port,
    )


def _interrupt(number: int, frame: object) -> None:
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # a second one must not break off what the first began
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; a user's mistake is one line on standard error."""
    os.environ.setdefault(
        "GRPC_ENABLE_FORK_SUPPORT", "0"
    )  # its workers are forked before it listens
    os.environ.setdefault(
        "GRPC_VERBOSITY", "NONE"
    )  # what goes wrong is told in one line, and by RUN/fleet.log
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
