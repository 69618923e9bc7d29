"""The command ``fedlearn reproduce``: run experiments, and compare them with claims."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.commands.arguments import INTERRUPTED, Parser, ended, interrupt
from fedlearn.errors import ConfigError, DataError, ExpectationError
from fedlearn.runs.names import check_names
from fedlearn.runs.start import require_extra

if TYPE_CHECKING:
    from fedlearn.claims.reading import Reproduction
    from fedlearn.claims.runs import RunPlan
    from fedlearn.claims.verdicts import Judgement

EPILOG = (
    "Every run is an ordinary run folder below --runs. A command that was stopped goes on "
    "when it is given again; a run that is finished is not made again while its config "
    "and what computes are the same. exit codes: 0 every claim holds, 2 wrong input, 3 a "
    "file cannot be written, 4 a claim does not hold, 130 interrupted"
)


@dataclass(frozen=True)
class Chosen:
    """What is run: a reproduction, the tier that it is run as, and its seeds there."""

    reproduction: Reproduction
    tier: str
    seeds: tuple[int, ...]


@dataclass
class Table:
    """What is printed of all reproductions: rows, notes below, and what does not hold."""

    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn reproduce",
        description="Run experiments and compare them with what is claimed of them.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="shipped claims, or a TOML file of your own (default: all of the tier)",
    )
    parser.add_argument(
        "--tier",
        choices=("ci", "nightly", "release"),
        help="with the seeds of this tier (default: ci, or the shortest that NAME has)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs side by side, which share the processors (default: 1)",
    )
    _add_folders(parser)
    _add_which_runs(parser)
    parser.add_argument(
        "--list", action="store_true", help="show the claims that come with fedlearn"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing but the table and errors"
    )
    return parser


def _add_folders(parser: Parser) -> None:
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/reproduce"),
        metavar="DIR",
        help="where the runs are (default: %(default)s)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="where RESULTS.md goes (default: experiments/ in a checkout, else "
        "runs/reproduce)",
    )


def _add_which_runs(parser: Parser) -> None:
    """Add which finished runs count, and what every run needs or changes."""
    parser.add_argument("--fresh", action="store_true", help="make every run anew")
    parser.add_argument(
        "--stale",
        action="store_true",
        help="take finished runs of other versions of the source, too",
    )
    parser.add_argument(
        "--fetch", action="store_true", help="fetch the data sets that are missing"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one key of every run; no results are written",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.jobs < 1:
        raise ConfigError(f"--jobs {arguments.jobs}: at least 1")
    if arguments.fresh and arguments.stale:
        raise ConfigError(
            "--fresh makes every run anew, --stale takes old ones; give one of them"
        )
    require_extra()
    from fedlearn.claims.runs import planned

    if arguments.list:
        _list()
        return 0
    chosen = _chosen(arguments)
    pairs = [(choice.reproduction, choice.seeds) for choice in chosen]
    plan = planned(pairs, arguments.runs, arguments.stale)
    # Before the first run, and before --fresh removes any.
    _check_data(plan, arguments.fetch)
    if arguments.fresh:
        _remove_runs(plan)
    # The runs that go on are interrupted too, and resumed another time.
    signal.signal(signal.SIGTERM, interrupt)
    try:
        failed = _make(plan, arguments)
    except KeyboardInterrupt:
        # Standard error may be closed by now; the exit code tells all the same.
        with contextlib.suppress(OSError):
            _note(f"fedlearn: interrupted; to go on: {_again(arguments)}")
        return INTERRUPTED
    _report(chosen, plan, failed, arguments)
    return 0


def _note(text: str) -> None:
    # Not on standard output, which holds the table alone.
    print(text, file=sys.stderr, flush=True)


def _again(arguments: argparse.Namespace) -> str:
    """Return the command that goes on; not anew, and with the data there."""
    words = ["fedlearn", "reproduce", *arguments.names]
    # Defaults come from the parser, so that only what was changed is repeated.
    options = parser()
    # Not --fresh, which would drop what is done, nor --fetch, which is done.
    for name in ("tier", "jobs", "runs", "results"):
        value = getattr(arguments, name)
        if value != options.get_default(name):
            words += [f"--{name}", str(value)]
    for change in arguments.set:
        words += ["--set", change]
    words += [f"--{name}" for name in ("stale", "quiet") if getattr(arguments, name)]
    return shlex.join(words)


def _chosen(arguments: argparse.Namespace) -> list[Chosen]:
    """Return what to run.

    Raises ConfigError for what the tier does not have, and for names that no registry
    has.
    """
    from fedlearn.claims.reading import read, shipped

    chosen: dict[str, Chosen] = {}
    # A name that is given twice is run once.
    for name in dict.fromkeys(arguments.names or shipped()):
        reproduction = read(name, arguments.set)
        if reproduction.name in chosen:
            raise ConfigError(
                f"{name}: two of the files are called {reproduction.name}, by which "
                "their results are kept; rename one"
            )
        choice = _choice(name, reproduction, arguments)
        if choice.seeds:
            chosen[reproduction.name] = choice
    if not chosen:
        raise ConfigError(f"no claims are shipped in tier {arguments.tier or 'ci'}")
    # All of them before the first run: a wrong name must not end the command hours
    # later.
    for choice in chosen.values():
        for variant in choice.reproduction.variants.values():
            check_names(variant.experiment)
    return list(chosen.values())


def _choice(
    name: str, reproduction: Reproduction, arguments: argparse.Namespace
) -> Chosen:
    """Return how a reproduction is run; without seeds where its tier is not asked for."""
    # Whoever names claims wants to see them run, even where their shortest tier is a
    # long one.
    shortest = reproduction.tier
    tier = arguments.tier or (shortest if arguments.names else "ci")
    seeds = reproduction.seeds_in(tier)
    if arguments.names and not seeds:
        raise ConfigError(
            f"{name}: tier {tier} has no seeds of it; its shortest tier is {shortest}: "
            f"--tier {shortest}"
        )
    return Chosen(reproduction, tier, seeds)


def _check_data(plan: RunPlan, fetch_missing: bool) -> None:
    """Raise DataError for sets that are not on this machine, or fetch them."""
    missing = _missing_data(plan)
    if not missing:
        return
    if not fetch_missing:
        raise DataError(
            f"not on this machine: {', '.join(missing)}; run 'fedlearn data fetch "
            f"{' '.join(missing)}', or add --fetch"
        )
    from fedlearn.data.fetch import fetch

    for name in missing:
        fetch(name, say=_note)


def _missing_data(plan: RunPlan) -> list[str]:
    from fedlearn.data.recipes import RECIPES
    from fedlearn.data.stored import cache_folder

    missing: dict[str, None] = {}
    for run in plan.values():
        data = run.experiment.data
        # A synthetic twin of a set is drawn, and needs no file.
        if data.name not in RECIPES or data.options.get("synthetic"):
            continue
        if not (cache_folder() / f"{data.name}.npz").exists():
            missing[data.name] = None
    return list(missing)


def _remove_runs(plan: RunPlan) -> None:
    """Remove the folders of all runs; raises ConfigError for one that is written to."""
    from fedlearn.records.writing import owned

    for run in plan.values():
        # Its process would go on writing into a folder that is gone.
        if owned(run.folder):
            raise ConfigError(
                f"--fresh: another process is writing to {run.folder}; end it, or leave "
                "--fresh out to wait for it"
            )
        shutil.rmtree(run.folder, ignore_errors=True)


def _make(plan: RunPlan, arguments: argparse.Namespace) -> dict[Path, str]:
    """Make the runs that are not finished; return folder → why a run gave no result."""
    from fedlearn.claims.jobs import run_all
    from fedlearn.claims.results import default_folder, longest_first
    from fedlearn.claims.watching import Watching

    # Longest first: otherwise the last one would run alone while the other jobs are
    # idle.
    runs = longest_first(plan, arguments.results or default_folder())
    jobs = arguments.jobs
    if not arguments.quiet:
        finished = sum(run.finished for run in runs)
        side = f", {jobs} side by side" if jobs > 1 else ""
        _note(
            f"{len(runs)} runs, {finished} of them made before{side}; "
            f"folders in {arguments.runs}"
        )
    numbers = {run.label: number for number, run in enumerate(runs, 1)}
    return run_all(runs, jobs, Watching(numbers, len(runs), arguments.quiet))


def _report(
    chosen: list[Chosen],
    plan: RunPlan,
    failed: Mapping[Path, str],
    arguments: argparse.Namespace,
) -> None:
    """Print the table and write what is kept.

    Raises ExpectationError for a claim that does not hold.
    """
    from fedlearn.claims.results import HEADINGS, default_folder, write_results
    from fedlearn.reporting.table import plain

    results = arguments.results or default_folder()
    table = Table()
    for choice in chosen:
        _add(choice, plan, failed, arguments, results, table)
    print(plain([["experiment", *HEADINGS], *table.rows], left=7), end="")
    print("".join(f"{note}\n" for note in table.notes), end="")
    # Runs that --set changed are not those that the claims are about.
    if not arguments.set:
        path = write_results(results)
        if not arguments.quiet:
            _note(f"results: {path}; page: fedlearn report --experiments")
    if table.missed:
        count = len(table.missed)
        more = f", and {count - 1} more" if count > 1 else ""
        raise ExpectationError(f"{table.missed[0]}{more}")


def _add(
    choice: Chosen,
    plan: RunPlan,
    failed: Mapping[Path, str],
    arguments: argparse.Namespace,
    results: Path,
    table: Table,
) -> None:
    """Judge a reproduction's claims, keep the result, and add it to the table."""
    from fedlearn.claims.results import of_other_source, rows, store
    from fedlearn.claims.verdicts import MISSED

    name = choice.reproduction.name
    judged, result = _judged(choice, plan, failed)
    table.rows += [[name, *cells] for cells in rows(result)]
    for verdict in judged:
        if verdict.why:
            table.notes.append(f"{name}: {verdict.claim}: {verdict.why}")
        if verdict.verdict == MISSED:
            table.missed.append(
                f"{name}: {verdict.claim}: wanted {verdict.wanted}, got {verdict.ours}"
            )
    if arguments.stale and of_other_source(result):
        table.notes.append(f"{name}: made by other source than this")
    # A short tier's figures say less, so they never replace a longer one's.
    if not arguments.set and not store(results, result):
        table.notes.append(f"{name}: RESULTS.md keeps its figures of a longer tier")


def _judged(
    choice: Chosen, plan: RunPlan, failed: Mapping[Path, str]
) -> tuple[list[Judgement], Any]:
    """Return the verdicts of a reproduction's claims, and the result to keep."""
    from fedlearn.claims.results import result_of
    from fedlearn.claims.verdicts import judge
    from fedlearn.records.reading import read

    reproduction = choice.reproduction
    reasons = {}
    runs = {}
    for variant in reproduction.variants:
        for seed in choice.seeds:
            run = plan[reproduction.name, variant, seed]
            if run.folder in failed:
                # A run that failed costs its own claims only; the others are judged.
                reasons[variant, seed] = failed[run.folder]
            else:
                runs[variant, seed] = (run, read(run.folder))
    records = {key: record for key, (_, record) in runs.items()}
    judged = [
        judge(claim, records, choice.seeds, reasons) for claim in reproduction.claims
    ]
    return judged, result_of(reproduction, choice.tier, choice.seeds, judged, runs)


def _list() -> None:
    from fedlearn.claims.reading import read, shipped
    from fedlearn.claims.words import claim_text, limits_text

    for name in shipped():
        reproduction = read(name)
        tiers = [
            f"{tier} {list(seeds)}"
            for tier, seeds in reproduction.seeds.items()
            if seeds
        ]
        about = reproduction.about
        print(f"{name}  ({', '.join(tiers)})")
        print(f"  {about.about}. {about.paper}".rstrip())
        for claim in reproduction.claims:
            print(f"    {claim_text(claim)} {limits_text(claim)}")


if __name__ == "__main__":
    sys.exit(main())
