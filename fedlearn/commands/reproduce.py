"""The command ``fedlearn reproduce``: run experiments, and compare what comes of them with what is claimed."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.commands.arguments import INTERRUPTED, Parser, ended
from fedlearn.errors import ConfigError, DataError, ExpectationError
from fedlearn.runs.names import check_names
from fedlearn.runs.start import require_extra

if TYPE_CHECKING:
    from fedlearn.claims.reading import Reproduction
    from fedlearn.claims.runs import RunPlan
    from fedlearn.claims.verdicts import Judgement

Chosen = list[tuple["Reproduction", str, tuple[int, ...]]]
"""What is run: a reproduction, the tier that it is run as, its seeds."""

EPILOG = """Every run is an ordinary run folder below --runs. A command that was stopped goes on when it is given again; a run
that is finished is not made again while its config and what computes are the same. exit codes: 0 every claim holds, 2 wrong
input, 3 a file cannot be written, 4 a claim does not hold, 130 interrupted"""


def parser() -> Parser:
    """Return the command's arguments."""
    made = Parser(
        prog="fedlearn reproduce",
        description="Run experiments and compare them with what is claimed of them.",
        epilog=EPILOG,
    )
    made.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="shipped claims, or a TOML file of your own (default: all of the tier)",
    )
    made.add_argument(
        "--tier",
        choices=("ci", "nightly", "release"),
        help="with the seeds of this tier (default: ci, or the shortest that NAME has)",
    )
    made.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs side by side, which share the processors (default: 1)",
    )
    made.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/reproduce"),
        metavar="DIR",
        help="where the runs are (default: %(default)s)",
    )
    made.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="where RESULTS.md goes (default: experiments/ in a checkout, else runs/reproduce)",
    )
    made.add_argument("--fresh", action="store_true", help="make every run anew")
    made.add_argument(
        "--stale",
        action="store_true",
        help="take finished runs of other versions of the source, too",
    )
    made.add_argument(
        "--fetch", action="store_true", help="fetch the data sets that are missing"
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one key of every run; no results are written",
    )
    made.add_argument(
        "--list", action="store_true", help="show the claims that come with fedlearn"
    )
    made.add_argument(
        "--quiet", action="store_true", help="print nothing but the table and errors"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    if given.jobs < 1:
        raise ConfigError(f"--jobs {given.jobs}: at least 1")
    if given.fresh and given.stale:
        raise ConfigError(
            "--fresh makes every run anew, --stale takes old ones; give one of them"
        )
    require_extra()
    from fedlearn.claims.runs import planned
    from fedlearn.records.writing import owned

    if given.list:
        _list()
        return 0
    chosen = _chosen(given)
    plan = planned([(one, seeds) for one, _, seeds in chosen], given.runs, given.stale)
    _check_data(plan, given.fetch)
    if given.fresh:
        for run in plan.values():
            if owned(run.folder):
                raise ConfigError(
                    f"--fresh: another process is writing to {run.folder}; end it, or leave --fresh out to wait for it"
                )
            shutil.rmtree(run.folder, ignore_errors=True)
    before = signal.signal(
        signal.SIGTERM, _interrupt
    )  # as Ctrl-C: the runs are told, and go on another time
    try:
        failed = _make(plan, given)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print(
                f"fedlearn: interrupted; to go on: {_again(given)}",
                file=sys.stderr,
                flush=True,
            )
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    return _tell(chosen, plan, failed, given)


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _again(given: argparse.Namespace) -> str:
    """Return the command that goes on; not anew, and with the data there."""
    words = ["fedlearn", "reproduce", *given.names]
    for name in ("tier", "jobs", "runs", "results"):
        value = getattr(given, name)
        if value != parser().get_default(name):
            words += [f"--{name}", str(value)]
    words += [word for text in given.set for word in ("--set", text)]
    return shlex.join(
        [*words, *(f"--{name}" for name in ("stale", "quiet") if getattr(given, name))]
    )


def _chosen(given: argparse.Namespace) -> Chosen:
    """Return what to run; raises ConfigError for what the tier does not have, and for names that no registry has."""
    from fedlearn.claims.reading import read, shipped

    found: Chosen = []
    for name in dict.fromkeys(given.names or shipped()):
        one = read(name, given.set)
        if any(one.name == other.name for other, _, _ in found):
            raise ConfigError(
                f"{name}: two of the files are called {one.name}, by which their results are kept; rename one"
            )
        tier = given.tier or (one.tier if given.names else "ci")
        seeds = one.seeds_in(tier)
        if given.names and not seeds:
            raise ConfigError(
                f"{name}: tier {tier} has no seeds of it; its shortest tier is {one.tier}: --tier {one.tier}"
            )
        if seeds:
            found.append((one, tier, seeds))
    if not found:
        raise ConfigError(f"no claims are shipped in tier {given.tier or 'ci'}")
    for one, _, _ in found:
        for variant in one.variants.values():
            check_names(variant.experiment)
    return found


def _check_data(plan: RunPlan, fetch_missing: bool) -> None:
    """Raise DataError for sets that are not on this machine, or fetch them."""
    from fedlearn.data.recipes import RECIPES
    from fedlearn.data.stored import cache_folder

    names = dict.fromkeys(
        run.experiment.data.name
        for run in plan.values()
        if not run.experiment.data.options.get("synthetic")
    )
    missing = [
        name
        for name in names
        if name in RECIPES and not (cache_folder() / f"{name}.npz").exists()
    ]
    if missing and not fetch_missing:
        raise DataError(
            f"not on this machine: {', '.join(missing)}; run 'fedlearn data fetch {' '.join(missing)}', or add --fetch"
        )
    if missing:
        from fedlearn.data.fetch import fetch

        for name in missing:
            fetch(name, say=lambda line: print(line, file=sys.stderr, flush=True))


def _make(plan: RunPlan, given: argparse.Namespace) -> dict[Path, str]:
    from fedlearn.claims.jobs import run_all
    from fedlearn.claims.results import default_folder, longest_first
    from fedlearn.claims.watching import Watching

    runs = longest_first(plan, given.results or default_folder())
    done = sum(run.finished for run in runs)
    if not given.quiet:
        side = f", {given.jobs} side by side" if given.jobs > 1 else ""
        print(
            f"{len(runs)} runs, {done} of them made before{side}; folders in {given.runs}",
            file=sys.stderr,
            flush=True,
        )
    numbers = {run.label: number for number, run in enumerate(runs, 1)}
    return run_all(runs, given.jobs, Watching(numbers, len(runs), given.quiet))


def _tell(
    chosen: Chosen, plan: RunPlan, failed: dict[Path, str], given: argparse.Namespace
) -> int:
    """Print the table, write what is kept, and return 0; raises ExpectationError for a claim that does not hold."""
    from fedlearn.claims.results import (
        HEADINGS,
        default_folder,
        of_other_source,
        result_of,
        rows,
        store,
        write_results,
    )
    from fedlearn.claims.verdicts import MISSED, judge
    from fedlearn.records.reading import read
    from fedlearn.reporting.table import plain

    where = given.results or default_folder()
    lines: list[list[str]] = []
    notes: list[str] = []
    missed: list[str] = []
    written = False
    for one, tier, seeds in chosen:
        wanted = {
            (name, seed): plan[one.name, name, seed]
            for name in one.variants
            for seed in seeds
        }
        reasons = {
            key: failed[run.folder]
            for key, run in wanted.items()
            if run.folder in failed
        }
        runs = {
            key: (run, read(run.folder))
            for key, run in wanted.items()
            if key not in reasons
        }
        judged: list[Judgement] = [
            judge(claim, {key: run for key, (_, run) in runs.items()}, seeds, reasons)
            for claim in one.claims
        ]
        found: Any = result_of(one, tier, seeds, judged, runs)
        lines += [[one.name, *cells] for cells in rows(found)]
        notes += [
            f"{one.name}: {made.claim}: {made.why}" for made in judged if made.why
        ]
        missed += [
            f"{one.name}: {made.claim}: wanted {made.wanted}, got {made.ours}"
            for made in judged
            if made.verdict == MISSED
        ]
        if given.stale and of_other_source(found):
            notes.append(f"{one.name}: made by other source than this")
        if not given.set and not store(where, found):
            notes.append(f"{one.name}: RESULTS.md keeps its figures of a longer tier")
        written = written or not given.set
    print(
        plain([["experiment", *HEADINGS], *lines], left=7)
        + "".join(f"{note}\n" for note in notes),
        end="",
    )
    if written:
        path = write_results(where)
        if not given.quiet:
            print(
                f"results: {path}; page: fedlearn report --experiments", file=sys.stderr
            )
    if missed:
        more = f", and {len(missed) - 1} more" if len(missed) > 1 else ""
        raise ExpectationError(f"{missed[0]}{more}")
    return 0


def _list() -> None:
    from fedlearn.claims.reading import read, shipped
    from fedlearn.claims.words import claim_text, limits_text

    for name in shipped():
        one = read(name)
        tiers = ", ".join(
            f"{tier} {list(seeds)}" for tier, seeds in one.seeds.items() if seeds
        )
        print(f"{name}  ({tiers})\n  {one.about.about}. {one.about.paper}".rstrip())
        print(
            "\n".join(
                f"    {claim_text(claim)} {limits_text(claim)}" for claim in one.claims
            )
        )


if __name__ == "__main__":
    sys.exit(main())
