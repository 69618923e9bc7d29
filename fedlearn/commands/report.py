"""``fedlearn report RUN [RUN …]``: the figures of runs side by side, their plots and their page."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import UserError
from fedlearn.records.reading import RunRecord, read
from fedlearn.reporting.results import labels
from fedlearn.reporting.table import csv_text, print_table, rows

TARGET = 0.8  # what the default experiment is expected to reach
COMPARISON = Path("comparison.html")
CLAIMS = Path("experiments.html")

EPILOG = """With one run, its plots and its report.html are drawn again (with --out: that page only, and the run folder
stays as it is). With several, one page compares them: comparison.html here, or --out. Unfinished runs are welcome.
With --experiments, experiments.html shows what is claimed and what came of it."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    made = Parser(
        prog="fedlearn report",
        description="Compare runs: a table, overlaid curves, config differences.",
        epilog=EPILOG,
    )
    made.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="a run folder, finished or not",
    )
    made.add_argument(
        "--out", type=Path, metavar="FILE.html", help="where to write the page"
    )
    made.add_argument(
        "--target",
        type=float,
        default=TARGET,
        help="accuracy to count rounds and bytes to (%(default)s)",
    )
    made.add_argument(
        "--csv",
        action="store_true",
        help="print CSV with full precision; no page unless --out is given",
    )
    made.add_argument(
        "--profile", action="store_true", help="show where the rounds' time went, too"
    )
    made.add_argument(
        "--experiments",
        action="store_true",
        help="in place of RUN: one page of what 'fedlearn reproduce' came to",
    )
    made.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="with --experiments: the folder that 'fedlearn reproduce' wrote to",
    )
    made.add_argument(
        "--tensorboard",
        type=Path,
        metavar="DIR",
        help="also write TensorBoard events there",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 2 wrong input, 3 a page or a plot could not be written."""
    arguments = parser().parse_args(argv)
    return ended(lambda: report(arguments))


def report(arguments: argparse.Namespace) -> None:
    """Print the table and write what the arguments ask for.

    Raises UserError for a folder that is no run, a target outside 0 to 1 or a missing extra; RecordError when a
    file cannot be written.
    """
    _check(arguments)
    if arguments.experiments:
        _require_matplotlib()
        from fedlearn.claims.page import write_page as write_claims
        from fedlearn.claims.results import default_folder

        _tell(
            f"page: {write_claims(arguments.results or default_folder(), arguments.out or CLAIMS)}"
        )
        return
    runs = [read(folder) for folder in arguments.runs]
    for run in runs:
        for problem in run.problems:
            print(f"warning: {run.folder}: {problem}", file=sys.stderr)
    found = rows(runs, arguments.target)
    if arguments.csv:
        sys.stdout.write(csv_text(found))
    else:
        print_table(found, sys.stdout)
    if arguments.profile:
        _profiles(runs)
    if arguments.tensorboard:
        from fedlearn.reporting.events import write_events

        for run, label in zip(runs, labels(runs), strict=True):
            _tell(f"events: {write_events(run, label, arguments.tensorboard)}")
    if arguments.out or not arguments.csv:
        _tell(f"page: {_page(runs, found, arguments)}")


def _check(arguments: argparse.Namespace) -> None:
    if not (math.isfinite(arguments.target) and 0 < arguments.target <= 1):
        raise UserError(
            f"--target {arguments.target:g}: give a share of 1, such as 0.8 for 80 %"
        )
    if arguments.profile and arguments.csv:
        raise UserError(
            "--csv prints one table, which --profile would break; give one of them"
        )
    if arguments.out and arguments.out.is_dir():
        raise UserError(
            f"--out '{arguments.out}' is a folder; give a file, such as {arguments.out / 'page.html'}"
        )
    if (
        arguments.out and arguments.out.exists() and not arguments.out.is_file()
    ):  # as root, /dev/null would be replaced
        raise UserError(
            f"--out '{arguments.out}' is a device or a pipe; give a file, such as page.html"
        )
    others = [
        name
        for name in ("runs", "csv", "profile", "tensorboard")
        if getattr(arguments, name)
    ]
    if arguments.experiments and others:
        raise UserError(
            f"--experiments makes a page of its own; leave out {'RUN' if others[0] == 'runs' else f'--{others[0]}'}"
        )
    if not arguments.experiments and (arguments.results or not arguments.runs):
        raise UserError(
            "--results is for --experiments"
            if arguments.results
            else "name the folder of a run, or give --experiments"
        )
    seen: set[Path] = set()
    for folder in arguments.runs:
        if folder.resolve() in seen:
            raise UserError(f"the run '{folder}' is given twice")
        seen.add(folder.resolve())


def _profiles(runs: list[RunRecord]) -> None:
    from fedlearn.reporting.profile_text import of_run

    for run, label in zip(runs, labels(runs), strict=True):
        print(
            f"\n{label}. {of_run(run)}" if len(runs) > 1 else f"\n{of_run(run)}", end=""
        )


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(
            "the page needs matplotlib: pip install 'fedlearn[sim]' (or use --csv)"
        ) from error


def _page(
    runs: list[RunRecord],
    found: list[dict[str, float | str | None]],
    arguments: argparse.Namespace,
) -> Path:
    _require_matplotlib()
    if len(runs) > 1:
        from fedlearn.reporting.comparison import write_comparison

        return write_comparison(
            runs, found, arguments.target, arguments.out or COMPARISON
        )
    from fedlearn.reporting.page import write_page
    from fedlearn.reporting.plots import draw

    if arguments.out is None:
        draw(runs[0].folder)
        return write_page(runs[0].folder)
    with tempfile.TemporaryDirectory() as drawn:
        draw(runs[0].folder, Path(drawn))
        return write_page(runs[0].folder, arguments.out, Path(drawn))


if __name__ == "__main__":
    sys.exit(main())
