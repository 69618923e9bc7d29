"""The command ``fedlearn tune``: look for good values of a config's keys, by short runs."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.commands.arguments import Parser, add_config, add_quiet, ended
from fedlearn.errors import ConfigError, RunError, UserError
from fedlearn.records.places import new_folder
from fedlearn.runs.names import check_names
from fedlearn.runs.start import require_extra

if TYPE_CHECKING:
    from fedlearn.config import Experiment
    from fedlearn.records.writing import RunFolder
    from fedlearn.tuning.record import SearchSettings
    from fedlearn.tuning.search import Search
    from fedlearn.tuning.space import Space

# Trials where --trials is not given: ten at random, which TPE begins with, and twenty
# that learn from them.
TRIALS = 30

# Arguments that a search has from its start, so --resume takes none of them.
_FIXED = (
    "config",
    "set",
    "search",
    "objective",
    "target",
    "rounds",
    "sampler",
    "grid",
    "prune",
    "seed",
)

# Arguments that are numbers, and the least that each may be.
_MINIMUM = {"trials": 1, "rounds": 1, "jobs": 1, "seed": 0}

EPILOG = (
    "A RANGE is log:LOW:HIGH (all magnitudes alike), lin:LOW:HIGH[:STEP], "
    "int:LOW:HIGH[:STEP] or choice:A,B,…; ranges may also stand in the config, under "
    "[tune.search]. exit codes: 0 done, 2 wrong input, 3 no trial succeeded or the disk "
    "failed, 130 interrupted"
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tuning:
    """A search as the arguments ask for it.

    fresh: it begins, and does not go on. base: the config that the trials change.
    """

    path: Path
    fresh: bool
    base: Experiment
    space: Space
    settings: SearchSettings


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn tune",
        description="Look for good values of a config's keys, by many short runs.",
        epilog=EPILOG,
    )
    _add_subject(parser)
    _add_method(parser)
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="trials at a time (default: 1)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="the folder of the search (default: runs/tune-NAME-TIME)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the search in --out, or the newest in runs/; --trials may grow",
    )
    add_quiet(parser)
    return parser


def _add_subject(parser: Parser) -> None:
    """Add what is searched, and for what."""
    add_config(parser)
    parser.add_argument(
        # Neither this nor --search has a default, for --resume has to know what was
        # given.
        "--set",
        action="append",
        metavar="SECTION.KEY=VALUE",
        help="change one key for all trials",
    )
    parser.add_argument(
        "--search",
        action="append",
        metavar="SECTION.KEY=RANGE",
        help="search a key, e.g. --search train.lr=log:0.01:1 (default: train.lr, a tenth "
        "to ten times the config's)",
    )
    parser.add_argument(
        "--objective",
        metavar="NAMES",
        help="of accuracy, rounds, bytes, time, with commas (default: accuracy; with "
        "--target: rounds)",
    )
    parser.add_argument(
        "--target",
        type=float,
        metavar="SHARE",
        help="accuracy until which rounds, bytes and time count, e.g. 0.97",
    )


def _add_method(parser: Parser) -> None:
    """Add how the values are chosen, and how long each is tried."""
    parser.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help=f"number of trials (default: {TRIALS}; of --grid, all its points)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="rounds of a trial (default: the config's)",
    )
    parser.add_argument(
        "--sampler",
        choices=("random", "tpe", "nsga2"),
        help="what chooses the values (default: tpe; nsga2 for several objectives)",
    )
    parser.add_argument(
        "--grid",
        action="store_true",
        help="try every point in place of a sampler; log ranges in steps of 10^(1/3)",
    )
    parser.add_argument(
        "--prune",
        choices=("median", "halving", "none"),
        help="gives up trials that are behind (default: median, where it is sound)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of the sampler (default: the config's seed, which every trial has)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; a user's mistake is one line on stderr."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    require_extra()
    for name, minimum in _MINIMUM.items():
        value = getattr(arguments, name)
        if value is not None and value < minimum:
            raise ConfigError(f"--{name} {value}: at least {minimum}")
    tuning = _tuning(arguments)
    # Before the folder is made: a wrong name or a missing package leaves no trace.
    _check_ends(tuning)
    if tuning.settings.sampler != "grid":
        from fedlearn.tuning.sampling import require_optuna

        require_optuna(tuning.settings.sampler)

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, flush=True)

    _search(tuning, say)


def _tuning(arguments: argparse.Namespace) -> Tuning:
    """Return the search that begins, or the one to go on with."""
    from fedlearn import config
    from fedlearn.tuning.record import SETTINGS
    from fedlearn.tuning.space import parse_space as space_of

    path = _folder(arguments)
    if path is not None and (path / SETTINGS).exists():
        return _resumed(path, arguments)
    base = config.read(arguments.config, arguments.set or ())
    space = space_of(base, arguments.search or ())
    settings = _settings(arguments, base, space)
    path = path or new_folder(f"tune-{base.experiment.name}")
    return Tuning(path, True, base, space, settings)


def _check_ends(tuning: Tuning) -> None:
    """Raise ConfigError for a name at an end of a range that no registry has."""
    from fedlearn.tuning.space import with_values

    for axis in tuning.space:
        # A sampler may come to the end of a range late in the search.
        for value in axis.ends():
            place = f"{axis.key} = {axis.text}"
            check_names(with_values(tuning.base, {axis.key: value}, place))


def _folder(arguments: argparse.Namespace) -> Path | None:
    """Return the folder of the search; None: a new one, named after the config.

    Raises ConfigError for a folder in which it can neither begin nor go on.
    """
    from fedlearn.tuning.record import SETTINGS

    if arguments.out == "":
        raise ConfigError(
            "--out is empty; name a folder, or leave it out for runs/tune-NAME-TIME"
        )
    if arguments.out:
        path = Path(arguments.out)
    elif arguments.resume:
        path = _newest_search()
    else:
        return None
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--out {path} is a file; a search needs a folder")
    if not (path / SETTINGS).exists():
        _check_unstarted(path, arguments)
    elif not arguments.resume:
        raise ConfigError(
            f"--out {path} already holds a search; add --resume to go on with it, or "
            "choose another folder"
        )
    return path


def _newest_search() -> Path:
    from fedlearn.tuning.record import SETTINGS

    files = list(Path("runs").glob(f"*/{SETTINGS}"))
    if not files:
        raise ConfigError(
            "--resume: there is no search in runs/; name its folder with --out"
        )
    # The settings are written when a search begins or goes on.
    return max(files, key=lambda file: file.stat().st_mtime).parent


def _check_unstarted(path: Path, arguments: argparse.Namespace) -> None:
    """Raise ConfigError for a folder without settings that no search can begin in."""
    from fedlearn.tuning.record import BEGUN, SETTINGS

    # A search killed while it starts leaves no more than this; with its CONFIG given,
    # resuming it is starting it.
    empty = not path.exists() or all(file.name in BEGUN for file in path.iterdir())
    restart = arguments.config and path.exists() and empty
    if arguments.resume and not restart:
        raise ConfigError(f"--resume: {path} holds no search (it has no {SETTINGS})")
    if not empty:
        raise ConfigError(
            f"--out {path} is not empty and holds no search; choose another folder"
        )


def _settings(
    arguments: argparse.Namespace, base: Experiment, space: Space
) -> SearchSettings:
    """Return the search that the arguments ask for.

    Raises ConfigError for arguments that do not go together.
    """
    from fedlearn.tuning.objectives import parse_objectives
    from fedlearn.tuning.record import SearchSettings
    from fedlearn.tuning.space import grid

    goal = parse_objectives(arguments.objective, arguments.target)
    if arguments.grid and (arguments.sampler or arguments.trials):
        raise ConfigError(
            "--grid tries every point: leave out --sampler and --trials, or --grid"
        )
    if arguments.prune in ("median", "halving") and not goal.comparable:
        raise ConfigError(
            f"--prune {arguments.prune} compares trials by their accuracy at a round, "
            f"which does not decide {' and '.join(goal.names)}; leave it out, or ask for "
            "accuracy or rounds alone"
        )
    if arguments.grid:
        sampler = "grid"
        trials = len(grid(space))
    else:
        # TPE has one objective; NSGA-II keeps a front of several.
        sampler = arguments.sampler or ("nsga2" if len(goal.names) > 1 else "tpe")
        trials = arguments.trials or TRIALS
    # A grid asks for every point, so none is given up unless that is asked for.
    prunable = goal.comparable and not arguments.grid
    seed = arguments.seed
    return SearchSettings(
        search={axis.key: axis.text for axis in space},
        sampler=sampler,
        objectives=goal.names,
        target=goal.target,
        prune=arguments.prune or ("median" if prunable else "none"),
        rounds=arguments.rounds,
        trials=trials,
        jobs=arguments.jobs or 1,
        # 0 is a seed, so `or` would be wrong.
        seed=base.experiment.seed if seed is None else seed,
    )


def _resumed(path: Path, arguments: argparse.Namespace) -> Tuning:
    """Return the search in a folder.

    Raises ConfigError for arguments that would change it.
    """
    from fedlearn import config
    from fedlearn.tuning.record import BASE, read_settings
    from fedlearn.tuning.space import parse

    _check_unchanged(path, arguments)
    settings = read_settings(path)
    if arguments.trials and settings.sampler == "grid":
        raise ConfigError(
            "--trials: the search is a grid, which has its number of points"
        )
    # Not the CONFIG that the search began with, which may have changed since.
    base = config.read_recorded(path / BASE)
    space = tuple(
        parse(key, text, f"{path}: {key} = {text}")
        for key, text in settings.search.items()
    )
    settings = replace(
        settings,
        # The number can only grow: what was tried stays tried.
        trials=max(arguments.trials or 0, settings.trials),
        jobs=arguments.jobs or settings.jobs,
    )
    return Tuning(path, False, base, space, settings)


def _check_unchanged(path: Path, arguments: argparse.Namespace) -> None:
    for name in _FIXED:
        # Not given is None, or False of --grid; a seed may be 0.
        value = getattr(arguments, name)
        if value is None or value is False:
            continue
        word = "CONFIG" if name == "config" else f"--{name}"
        raise ConfigError(
            f"--resume goes on with the search in {path} as it was begun: leave out "
            f"{word}, or choose another folder"
        )


def _search(tuning: Tuning, say: Say) -> None:
    """Run the trials and write what came of them, of a search that is broken off too."""
    from fedlearn.records.writing import RunFolder

    path = tuning.path
    # Noted before they are made, so that `_clear` removes these and no other.
    new_folders = [p for p in (path, *path.parents) if not p.exists()]
    with contextlib.closing(RunFolder(path)) as folder:
        search = _begun(tuning, folder, say)
        try:
            search.go()
        # The first trial tells what the config's check cannot, such as a model that
        # does not fit.
        except UserError:
            if tuning.fresh:
                _clear(path, new_folders)
            raise
        # Ctrl-C, too: the trials that have ended are worth their results.
        except BaseException:
            _write_ended(search)
            say(f"to go on: fedlearn tune --resume --out {shlex.quote(str(path))}")
            raise
        _finish(search, say)


def _begun(tuning: Tuning, folder: RunFolder, say: Say) -> Search:
    """Return the search with the trials that its folder has, its settings written."""
    from fedlearn.config import to_toml
    from fedlearn.tuning import results
    from fedlearn.tuning.record import read_trials, write_settings
    from fedlearn.tuning.search import Search

    settings = tuning.settings
    search = Search(
        folder,
        settings,
        tuning.base,
        tuning.space,
        read_trials(tuning.path),
        lambda trial: say(results.line(trial, settings.trials)),
    )
    say(f"fedlearn tune: {tuning.base.experiment.name}, {_about(settings)}")
    write_settings(folder, settings, to_toml(tuning.base))
    return search


def _write_ended(search: Search) -> None:
    """Write the results of the trials that have ended."""
    from fedlearn.tuning import results

    ended_trials = [trial for trial in search.trials if trial.state != "running"]
    results.write(search.folder, ended_trials, search.settings, search.base)


def _about(settings: SearchSettings) -> str:
    search = ", ".join(f"{key} = {text}" for key, text in settings.search.items())
    objectives = f"{', '.join(settings.objectives)}{settings.criteria.until}"
    method = f"{settings.sampler}, seed {settings.seed}"
    if settings.sampler == "grid":
        method = "a grid"
    return (
        f"{search}; {objectives}; {method}, {settings.trials} trials, "
        f"pruned by {settings.prune}"
    )


def _finish(search: Search, say: Say) -> None:
    """Write results and plots, and show the table; raises RunError without a success."""
    from fedlearn.tuning import plots, results

    trials = search.trials
    settings = search.settings
    path = search.folder.path
    results.write(search.folder, trials, settings, search.base)
    if not results.ranked(trials, settings):
        raise RunError(
            f"no trial of {len(trials)} succeeded; the last: {trials[-1].reason}"
        )
    # No window is opened, so a backend that is not installed must not matter.
    os.environ["MPLBACKEND"] = "agg"
    plots.draw(path, trials, settings, search.space)
    say(f"\n{results.table(trials, settings)}")
    best = results.best_front(trials, settings)[0]
    config = shlex.quote(str(path / results.BEST))
    say(f"trial {best.number} as a config: fedlearn simulate {config}")


def _clear(path: Path, new_folders: list[Path]) -> None:
    """Remove what a search leaves that never had a trial: a wrong config leaves no trace.

    new_folders: those that were made for it, innermost first.
    """
    with contextlib.suppress(OSError):
        for entry in path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        for folder in new_folders:
            folder.rmdir()


if __name__ == "__main__":
    sys.exit(main())
