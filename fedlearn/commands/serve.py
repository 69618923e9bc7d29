"""The command ``fedlearn serve``: run an experiment, or a Flower app, over real agents."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.commands.app_arguments import add_app_options, app_started, run_to_end
from fedlearn.commands.arguments import Parser, add_old_spelling, ended, interrupt
from fedlearn.commands.run_arguments import run_parser
from fedlearn.errors import ConfigError
from fedlearn.records.names import APP_FILE
from fedlearn.runs.arguments import HIGHEST_PORT, MOST_LOCAL_AGENTS, MOST_MEGABYTES
from fedlearn.runs.start import run_in_folder

if TYPE_CHECKING:
    from fedlearn.config import Experiment
    from fedlearn.records.writing import RunFolder
    from fedlearn.reporting.progress import Progress
    from fedlearn.runs.app_serving import AppServeOptions
    from fedlearn.runs.serving import ServeOptions

# Options that the command which goes on with a run has to repeat: name → default. The
# ports are in the run's folder.
REPEATED = {
    "host": "127.0.0.1",
    "pki": None,
    "local_agents": 0,
    "log": None,
    "metrics_port": None,
    "journal_megabytes": None,
    "answer_megabytes": None,
    "deadline_s": None,
}

# Options that an app's run which goes on takes from its folder, and those of apps alone.
_FIXED = ("run_config", "nodes", "federation_config", "seed", "set")
_APP_OPTIONS = (*_FIXED[:-1], "answer_megabytes", "deadline_s")


def parser() -> Parser:
    """Return the command's arguments."""
    parser = run_parser(
        "serve",
        "Run an experiment, or the Flower app of a folder, over real agents, and leave the "
        "run folder that a simulation would leave.",
    )
    _add_addresses(parser)
    _add_app(parser)
    parser.add_argument(
        "--pki",
        type=Path,
        metavar="DIR",
        help="the authority made by 'fedlearn pki init' (default with local agents: its "
        "own)",
    )
    parser.add_argument(
        "--local-agents",
        type=int,
        default=0,
        metavar="N",
        help="start agents 0 to N-1 as processes of this machine",
    )
    parser.add_argument(
        "--log",
        choices=("json", "text"),
        help="print every event on standard error, one line each (default: what a person "
        "needs to know); RUN/fleet.log has them anyway",
    )
    parser.add_argument(
        "--metrics-port",
        type=int,
        metavar="PORT",
        help="port of this machine, 127.0.0.1, for Prometheus' /metrics and for "
        "/healthz; 0: any that is free (default: none)",
    )
    parser.add_argument(
        "--journal-megabytes",
        type=int,
        metavar="N",
        help="most that the journal of answers may have on disk; the run stops there, and "
        "goes on with a larger one (default: nine tenths of what is free)",
    )
    parser.add_argument(
        "--without",
        type=_piece,
        action="append",
        default=[],
        metavar="CLIENT/ROUND",
        help="with --resume: leave out what a client answered in a round, and do not ask "
        "it again there; may be repeated",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="without TLS: whoever reaches the port can take part and read everything",
    )
    return parser


def _add_app(parser: Parser) -> None:
    add_app_options(parser)
    parser.add_argument(
        "--answer-megabytes",
        type=int,
        metavar="N",
        help="of an app: most that one reply may have (default: 512)",
    )
    parser.add_argument(
        "--deadline-s",
        type=float,
        metavar="N",
        help="of an app: seconds in which a message has to be answered, else it has an "
        "error for a reply (default: the message's own time to live)",
    )


def _piece(text: str) -> tuple[int, int]:
    """Return the client and the round of ``CLIENT/ROUND``."""
    client, slash, round = text.partition("/")
    numbers = client.isdecimal() and round.isdecimal() and text.isascii()
    if not slash or not numbers or int(round) < 1:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no CLIENT/ROUND; client 3 in round 17 is 3/17"
        )
    return int(client), int(round)


def _add_addresses(parser: Parser) -> None:
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 for all (default: 127.0.0.1, this machine "
        "alone)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=0,
        help="port of the exchange (default: any that is free)",
    )
    parser.add_argument(
        "--enroll-port",
        type=int,
        default=0,
        help="port of the enrollment (default: any that is free)",
    )
    add_old_spelling(parser, "--enrol-port", "enroll_port", int)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; a user's mistake is one line on stderr."""
    # Workers are forked before the service listens, so no fork meets gRPC's threads.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # What goes wrong is one line of ours, and in RUN/fleet.log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    # The agents learn that the coordinator ends, and the run can go on.
    signal.signal(signal.SIGTERM, interrupt)
    if _is_app(arguments):
        _run_app(arguments)
        return
    _check_no_app(arguments)

    # gRPC and the authority are imported only once the config is known to be sound.
    def execute(
        experiment: Experiment, folder: RunFolder, display: Progress, resume: bool
    ) -> dict[str, Any]:
        options = _options(arguments)
        return options.execute(experiment, folder, display, resume)

    run_in_folder(
        execute,
        config=arguments.config,
        changes=arguments.set,
        out=arguments.out,
        resume=arguments.resume,
        quiet=arguments.quiet,
        resume_command=f"python -m fedlearn {_again(arguments)} --resume --out {{out}}",
    )


def _is_app(arguments: argparse.Namespace) -> bool:
    """Return whether what is to be run, or to go on, is a Flower app."""
    # An experiment is a name or a file.
    if arguments.config is not None:
        return Path(arguments.config).is_dir()
    return bool(arguments.out) and (Path(arguments.out) / APP_FILE).exists()


def _run_app(arguments: argparse.Namespace) -> None:
    from fedlearn.runs.start import require_extra

    require_extra()
    if arguments.without:
        raise ConfigError(
            "--without is of experiments; an app's own strategy says what it does with a "
            "node's reply"
        )
    # Everything that can be wrong is found before flwr is imported.
    started = app_started(arguments, arguments.config, _FIXED, 1)
    # Of a run that goes on, the folder says whose it is.
    if arguments.config is not None:
        started = replace(started, agents=True)
    options = _app_options(arguments)
    run_to_end(
        lambda path: options.run(started, path, arguments.resume, arguments.quiet),
        started,
        arguments.out,
        arguments.quiet,
        f"fedlearn {_again(arguments)}",
    )


def _check_no_app(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for options that an experiment has no use for."""
    for name in _APP_OPTIONS:
        if getattr(arguments, name) is not None:
            raise ConfigError(
                f"{_option(name)} is of a Flower app, fedlearn serve APP; "
                "an experiment has --set SECTION.KEY=VALUE"
            )


def _check(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not go together, or are out of range."""
    if arguments.without and not arguments.resume:
        raise ConfigError(
            "--without leaves out answers of a run that goes on; add --resume"
        )
    if arguments.insecure and arguments.pki:
        raise ConfigError("--insecure and --pki exclude each other")
    # Local agents get an authority of the run's own, if none is given.
    if not (arguments.insecure or arguments.pki or arguments.local_agents):
        raise ConfigError(
            "agents are known by certificates: make an authority with 'fedlearn pki "
            "init' and give its folder with --pki"
        )
    if not 0 <= arguments.local_agents <= MOST_LOCAL_AGENTS:
        raise ConfigError(
            f"--local-agents {arguments.local_agents}: from 0 to {MOST_LOCAL_AGENTS}"
        )
    megabytes = arguments.journal_megabytes
    if megabytes is not None and megabytes < 1:
        raise ConfigError(f"--journal-megabytes {megabytes}: a number from 1")
    megabytes = arguments.answer_megabytes
    if megabytes is not None and not 1 <= megabytes <= MOST_MEGABYTES:
        raise ConfigError(f"--answer-megabytes {megabytes}: a number from 1")
    seconds = arguments.deadline_s
    if seconds is not None and not seconds > 0:
        raise ConfigError(f"--deadline-s {seconds:g}: a number of seconds above 0")
    # Found out here, where the command that makes one can be named.
    if arguments.pki and not (arguments.pki / "ca.pem").exists():
        raise ConfigError(
            f"--pki: there is no authority in '{arguments.pki}'; make one: "
            f"fedlearn pki init --pki {shlex.quote(str(arguments.pki))}"
        )
    for name in ("port", "enroll_port", "metrics_port"):
        port = getattr(arguments, name)
        if port is not None and not 0 <= port <= HIGHEST_PORT:
            raise ConfigError(f"{_option(name)} {port}: from 0 to {HIGHEST_PORT}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _again(arguments: argparse.Namespace) -> str:
    """Return the command with the options that it needs to go on with a run."""
    words = ["serve"]
    for name, default in REPEATED.items():
        value = getattr(arguments, name)
        if value != default:
            words += [_option(name), str(value)]
    # Apart from the others, because it has no value to repeat.
    if arguments.insecure:
        words.append("--insecure")
    return shlex.join(words)


def _options(arguments: argparse.Namespace) -> ServeOptions:
    from fedlearn.runs.serving import ServeOptions

    return ServeOptions(**_host_options(arguments), without=tuple(arguments.without))


def _app_options(arguments: argparse.Namespace) -> AppServeOptions:
    from fedlearn.runs.app_serving import AppServeOptions

    options = _host_options(arguments)
    for name in ("answer_megabytes", "deadline_s"):
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    return AppServeOptions(**options)


def _host_options(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("host", "port", "enroll_port", "pki", "insecure", "local_agents")
    options = {name: getattr(arguments, name) for name in names}
    return {
        **options,
        "metrics_port": arguments.metrics_port,
        "journal_megabytes": arguments.journal_megabytes,
        # --log is the stronger wish: it asks for lines, --quiet for none by default.
        "shown": arguments.log or ("nothing" if arguments.quiet else "notes"),
    }


if __name__ == "__main__":
    sys.exit(main())
