"""The command ``fedlearn report``: runs side by side, their plots and their page."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import UserError
from fedlearn.records.names import APP_FILE
from fedlearn.records.reading import RunRecord, read
from fedlearn.reporting.results import labels
from fedlearn.reporting.table import csv_text, print_table, rows

# What the default experiment is expected to reach.
TARGET = 0.8

COMPARISON = Path("comparison.html")
CLAIMS = Path("experiments.html")

EPILOG = (
    "With one run, its plots and its report.html are drawn again (with --out: that page "
    "only, and the run folder stays as it is). With several, one page compares them: "
    "comparison.html here, or --out. Unfinished runs are welcome. With --experiments, "
    "experiments.html shows what is claimed and what came of it."
)

Row = dict[str, float | str | None]


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn report",
        description="Compare runs: a table, overlaid curves, config differences.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="a run folder, finished or not",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html", help="where to write the page"
    )
    parser.add_argument(
        "--target",
        type=float,
        default=TARGET,
        help="accuracy to count rounds and bytes to (%(default)s)",
    )
    parser.add_argument(
        "--csv",
        action="store_true",
        help="print CSV with full precision; no page unless --out is given",
    )
    parser.add_argument(
        "--profile", action="store_true", help="show where the rounds' time went, too"
    )
    _add_experiments(parser)
    parser.add_argument(
        "--tensorboard",
        type=Path,
        metavar="DIR",
        help="also write TensorBoard events there",
    )
    return parser


def _add_experiments(parser: Parser) -> None:
    parser.add_argument(
        "--experiments",
        action="store_true",
        help="in place of RUN: one page of what 'fedlearn reproduce' came to",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="with --experiments: the folder that 'fedlearn reproduce' wrote to",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: report(arguments))


def report(arguments: argparse.Namespace) -> None:
    """Print the table and write what the arguments ask for.

    Raises UserError for a folder that is no run, a target outside 0 to 1 or a missing
    extra; RecordError when a file cannot be written.
    """
    _check(arguments)
    if arguments.experiments:
        _report_claims(arguments.results, arguments.out or CLAIMS)
        return
    if _are_apps(arguments):
        _report_apps(arguments)
        return
    runs = [read(folder) for folder in arguments.runs]
    for run in runs:
        # A run that is damaged or goes on is shown as far as it can be read.
        for problem in run.problems:
            print(f"warning: {run.folder}: {problem}", file=sys.stderr)
    table = rows(runs, arguments.target)
    if arguments.csv:
        sys.stdout.write(csv_text(table))
    else:
        print_table(table, sys.stdout)
    if arguments.profile:
        _print_profiles(runs)
    if arguments.tensorboard:
        _write_events(runs, arguments.tensorboard)
    # With --csv the reader is a program, which asked for no page.
    if arguments.out or not arguments.csv:
        _note(f"page: {_page(runs, table, arguments)}")


def _report_claims(results: Path | None, page: Path) -> None:
    _require_matplotlib()
    from fedlearn.claims.page import write_page
    from fedlearn.claims.results import default_folder

    _note(f"page: {write_page(results or default_folder(), page)}")


def _are_apps(arguments: argparse.Namespace) -> bool:
    """Return whether the runs are those of Flower apps.

    Raises UserError for runs of both kinds, and for what apps have not.
    """
    apps = [folder for folder in arguments.runs if (folder / APP_FILE).is_file()]
    if not apps:
        return False
    others = [folder for folder in arguments.runs if folder not in apps]
    if others:
        raise UserError(
            f"'{apps[0]}' is the run of a Flower app, and '{others[0]}' is none: they have "
            "no figures in common; give runs of one kind"
        )
    asked = {
        "--target": arguments.target != TARGET,
        "--profile": arguments.profile,
        "--tensorboard": arguments.tensorboard,
    }
    for option, is_set in asked.items():
        if is_set:
            raise UserError(
                f"{option} is for experiments; the run of a Flower app has its own metrics"
            )
    return True


def _report_apps(arguments: argparse.Namespace) -> None:
    """Print the table of runs of apps, and write their page."""
    from fedlearn.apps.record import read as read_app

    records = [read_app(folder) for folder in arguments.runs]
    from fedlearn.apps import comparison
    from fedlearn.apps.page import write_page
    from fedlearn.reporting.table import plain

    if arguments.csv:
        sys.stdout.write(comparison.csv_text(records))
    else:
        sys.stdout.write(plain(comparison.cells(records)))
    if arguments.csv and not arguments.out:
        return
    _require_matplotlib()
    if len(records) > 1:
        page = comparison.write_comparison(records, arguments.out or COMPARISON)
    elif arguments.out is None:
        page = write_page(records[0])
    else:
        # With --out the run folder stays as it is, so the plots are drawn elsewhere.
        with tempfile.TemporaryDirectory() as plots:
            page = write_page(records[0], arguments.out, Path(plots))
    _note(f"page: {page}")


def _check(arguments: argparse.Namespace) -> None:
    """Raise UserError for arguments that do not go together."""
    if not (math.isfinite(arguments.target) and 0 < arguments.target <= 1):
        raise UserError(
            f"--target {arguments.target:g}: give a share of 1, such as 0.8 for 80 %"
        )
    if arguments.profile and arguments.csv:
        raise UserError(
            "--csv prints one table, which --profile would break; give one of them"
        )
    if arguments.out:
        _check_out(arguments.out)
    if arguments.experiments:
        _check_alone(arguments)
    elif arguments.results:
        raise UserError("--results is for --experiments")
    elif not arguments.runs:
        raise UserError("name the folder of a run, or give --experiments")
    # Two spellings of one folder are one run.
    folders = [folder.resolve() for folder in arguments.runs]
    for position, folder in enumerate(arguments.runs):
        if folders[position] in folders[:position]:
            raise UserError(f"the run '{folder}' is given twice")


def _check_out(path: Path) -> None:
    if path.is_dir():
        raise UserError(
            f"--out '{path}' is a folder; give a file, such as {path / 'page.html'}"
        )
    # Writing replaces the file: as root, even /dev/null.
    if path.exists() and not path.is_file():
        raise UserError(
            f"--out '{path}' is a device or a pipe; give a file, such as page.html"
        )


def _check_alone(arguments: argparse.Namespace) -> None:
    """Raise UserError for what --experiments, a page of its own, has no use for."""
    for name in ("runs", "csv", "profile", "tensorboard"):
        if getattr(arguments, name):
            word = "RUN" if name == "runs" else f"--{name}"
            raise UserError(f"--experiments makes a page of its own; leave out {word}")


def _print_profiles(runs: list[RunRecord]) -> None:
    from fedlearn.reporting.profile_text import of_run

    for run, label in zip(runs, labels(runs), strict=True):
        # One run needs no name.
        title = f"{label}. " if len(runs) > 1 else ""
        print(f"\n{title}{of_run(run)}", end="")


def _write_events(runs: list[RunRecord], folder: Path) -> None:
    from fedlearn.reporting.events import write_events

    for run, label in zip(runs, labels(runs), strict=True):
        _note(f"events: {write_events(run, label, folder)}")


def _note(text: str) -> None:
    # Not on standard output, which holds the table alone.
    print(text, file=sys.stderr)


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(
            "the page needs matplotlib: pip install 'fedlearn[sim]' (or use --csv)"
        ) from error


def _page(
    runs: list[RunRecord], table: list[Row], arguments: argparse.Namespace
) -> Path:
    """Write the page of a run, or of a comparison, and return its path."""
    _require_matplotlib()
    if len(runs) > 1:
        from fedlearn.reporting.comparison import write_comparison

        page = arguments.out or COMPARISON
        return write_comparison(runs, table, arguments.target, page)
    from fedlearn.reporting.page import write_page
    from fedlearn.reporting.plots import draw

    folder = runs[0].folder
    if arguments.out is None:
        draw(folder)
        return write_page(folder)
    # With --out the run folder stays as it is, so the plots are drawn elsewhere.
    with tempfile.TemporaryDirectory() as plots:
        draw(folder, Path(plots))
        return write_page(folder, arguments.out, Path(plots))


if __name__ == "__main__":
    sys.exit(main())
