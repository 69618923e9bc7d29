"""The command ``fedlearn simulate``: run an experiment on this machine.

``python -m fedlearn.simulate`` is the same command.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.run_arguments import run_parser
from fedlearn.errors import UserError
from fedlearn.runs.start import require_extra, run_in_folder

if TYPE_CHECKING:
    from fedlearn.config import Experiment
    from fedlearn.records.writing import RunFolder
    from fedlearn.reporting.progress import Progress
    from fedlearn.runs.start import Execute

RESUME_COMMAND = "python -m fedlearn.simulate --resume --out {out}"


def parser() -> Parser:
    """Return the command's arguments."""
    parser = run_parser(
        "simulate",
        "Train one model over many simulated clients, and leave a run folder with its "
        "report.",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="show where the rounds' time goes, and the share of the machine's peak",
    )
    parser.add_argument(
        "--trace",
        action="store_true",
        help="as --profile, and write one client's operators to trace.json, for Perfetto",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check and build everything, print the whole config, and run nothing",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="show datasets, partitions, models, strategies, codecs, engines and "
        "experiments",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code; a user's mistake is one line on stderr."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if arguments.list:
        from fedlearn.runs.names import listing

        print(listing())
    elif arguments.dry_run:
        _print_dry_run(arguments)
    elif arguments.profile or arguments.trace:
        _run_profiled(arguments)
    else:
        _run_in_folder(arguments, _simulate, RESUME_COMMAND)


def _print_dry_run(arguments: argparse.Namespace) -> None:
    if arguments.resume:
        raise UserError(
            "--dry-run is of a new run; `fedlearn status RUN` tells of one that goes on"
        )
    require_extra()
    from fedlearn.runs.dry_run import dry_run

    print(dry_run(arguments.config, arguments.set), end="")


def _run_in_folder(
    arguments: argparse.Namespace, execute: Execute, resume_command: str
) -> None:
    run_in_folder(
        execute,
        config=arguments.config,
        changes=arguments.set,
        out=arguments.out,
        resume=arguments.resume,
        quiet=arguments.quiet,
        resume_command=resume_command,
    )


def _run_profiled(arguments: argparse.Namespace) -> None:
    """Run with a profile, and print it once the run's own figures are shown."""
    # A list for `execute` to fill: only the run knows its folder, and it may raise
    # after.
    finished: list[Path] = []

    def execute(
        experiment: Experiment, folder: RunFolder, display: Progress, resume: bool
    ) -> dict[str, Any]:
        from fedlearn.runs.profiling import profiled

        summary = profiled(experiment, folder, display, resume, arguments.trace)
        finished.append(folder.path)
        return summary

    # The run that goes on should be measured as this one is.
    option = "--trace" if arguments.trace else "--profile"
    try:
        _run_in_folder(arguments, execute, f"{RESUME_COMMAND} {option}")
    finally:
        # A run that does not reach what [expect] asks has a profile, too.
        if finished and not arguments.quiet:
            _print_profile(finished[0])


def _print_profile(path: Path) -> None:
    from fedlearn.records.reading import read
    from fedlearn.reporting.profile_text import of_run

    print(f"\n{of_run(read(path))}", end="")


def _simulate(
    experiment: Experiment, folder: RunFolder, display: Progress, resume: bool
) -> dict[str, Any]:
    # Imported once the config is known to be sound, as in `serve`.
    from fedlearn.runs.simulation import simulate

    return simulate(experiment, folder, display, resume)


if __name__ == "__main__":
    sys.exit(main())
