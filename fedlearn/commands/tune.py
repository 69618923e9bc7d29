"""The command ``fedlearn tune``: look for good values of a config's keys, by many short runs."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import ConfigError, RunError, UserError
from fedlearn.runs.names import check_names
from fedlearn.runs.start import new_folder, require_extra

if TYPE_CHECKING:
    from fedlearn.config import Experiment
    from fedlearn.tuning.record import SearchSettings
    from fedlearn.tuning.search import Search
    from fedlearn.tuning.space import Space

TRIALS = 30
"""Trials where --trials is not given: ten at random, which TPE begins with, and twenty that learn from them."""

_KEPT = (
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
"""Arguments that a search has from its start."""

EPILOG = """A RANGE is log:LOW:HIGH (all magnitudes alike), lin:LOW:HIGH[:STEP], int:LOW:HIGH[:STEP] or choice:A,B,…; ranges may also
stand in the config, under [tune.search]. exit codes: 0 done, 2 wrong input, 3 no trial succeeded or the disk failed, 130 interrupted"""


def parser() -> Parser:
    """Return the command's arguments."""
    made = Parser(
        prog="fedlearn tune",
        description="Look for good values of a config's keys, by many short runs.",
        epilog=EPILOG,
    )
    made.add_argument(
        "config",
        nargs="?",
        help="a TOML file or the name of a shipped experiment (default: the embedded default)",
    )
    made.add_argument(
        "--set",
        action="append",
        metavar="SECTION.KEY=VALUE",
        help="change one key for all trials",
    )
    made.add_argument(
        "--search",
        action="append",
        metavar="SECTION.KEY=RANGE",
        help="search a key, e.g. --search train.lr=log:0.01:1 (default: train.lr, a tenth to ten times the config's)",
    )
    made.add_argument(
        "--objective",
        metavar="NAMES",
        help="of accuracy, rounds, bytes, time, with commas (default: accuracy; with --target: rounds)",
    )
    made.add_argument(
        "--target",
        type=float,
        metavar="SHARE",
        help="accuracy until which rounds, bytes and time count, e.g. 0.97",
    )
    made.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help=f"number of trials (default: {TRIALS}; of --grid, all its points)",
    )
    made.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="rounds of a trial (default: the config's)",
    )
    made.add_argument(
        "--sampler",
        choices=("random", "tpe", "nsga2"),
        help="what chooses the values (default: tpe; nsga2 for several objectives)",
    )
    made.add_argument(
        "--grid",
        action="store_true",
        help="try every point in place of a sampler; log ranges in steps of 10^(1/3)",
    )
    made.add_argument(
        "--prune",
        choices=("median", "halving", "none"),
        help="gives up trials that are behind (default: median, where it is sound)",
    )
    made.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of the sampler (default: the config's seed, which every trial has)",
    )
    made.add_argument(
        "--jobs", type=int, metavar="N", help="trials at a time (default: 1)"
    )
    made.add_argument(
        "--out",
        metavar="DIR",
        help="the folder of the search (default: runs/tune-NAME-TIME)",
    )
    made.add_argument(
        "--resume",
        action="store_true",
        help="go on with the search in --out, or the newest in runs/; --trials may grow",
    )
    made.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; a user's mistake is one line on standard error."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _tune(arguments))


def _tune(given: argparse.Namespace) -> None:
    require_extra()
    for name, least in (("trials", 1), ("rounds", 1), ("jobs", 1), ("seed", 0)):
        if getattr(given, name) is not None and getattr(given, name) < least:
            raise ConfigError(f"--{name} {getattr(given, name)}: at least {least}")
    from fedlearn.tuning import space as spaces

    path, fresh = _place(given)
    if fresh:
        from fedlearn import config

        base = config.read(given.config, given.set or ())
        space = spaces.parse_space(base, given.search or ())
        settings = _settings(given, base, space)
        path = path or new_folder(f"tune-{base.experiment.name}")
    else:
        assert path is not None  # _place gives one that holds a search
        base, space, settings = _before(path, given)
    for axis in space:
        for value in axis.ends():
            check_names(
                spaces.with_values(base, {axis.key: value}, f"{axis.key} = {axis.text}")
            )
    if settings.sampler != "grid":
        from fedlearn.tuning.sampling import require_optuna

        require_optuna(settings.sampler)
    _search(path, base, space, settings, fresh, given.quiet)


def _place(given: argparse.Namespace) -> tuple[Path | None, bool]:
    """Return the folder, None: one that is named after the config; and whether a search begins there."""
    from fedlearn.tuning.record import BEGUN, SETTINGS

    if given.out == "":
        raise ConfigError(
            "--out is empty; name a folder, or leave it out for runs/tune-NAME-TIME"
        )
    path = Path(given.out) if given.out else None
    if given.resume and path is None:
        found = sorted(
            Path("runs").glob(f"*/{SETTINGS}"), key=lambda file: file.stat().st_mtime
        )
        if not found:
            raise ConfigError(
                "--resume: there is no search in runs/; name its folder with --out"
            )
        path = found[-1].parent
    if path is None:
        return None, True
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--out {path} is a file; a search needs a folder")
    if (path / SETTINGS).exists():
        if not given.resume:
            raise ConfigError(
                f"--out {path} already holds a search; add --resume to go on with it, or choose another folder"
            )
        return path, False
    # A search killed while it starts leaves no more than this; with its CONFIG given, resuming it is starting it.
    empty = not path.exists() or all(file.name in BEGUN for file in path.iterdir())
    if given.resume and not (given.config and path.exists() and empty):
        raise ConfigError(f"--resume: {path} holds no search (it has no {SETTINGS})")
    if not empty:
        raise ConfigError(
            f"--out {path} is not empty and holds no search; choose another folder"
        )
    return path, True


def _settings(
    given: argparse.Namespace, base: Experiment, space: Space
) -> SearchSettings:
    """Return what the arguments ask for. Raises ConfigError for what does not go together."""
    from fedlearn.tuning.objectives import parse_objectives
    from fedlearn.tuning.record import SearchSettings
    from fedlearn.tuning.space import grid

    asked = parse_objectives(given.objective, given.target)
    if given.grid and (given.sampler or given.trials):
        raise ConfigError(
            "--grid tries every point: leave out --sampler and --trials, or --grid"
        )
    if given.prune in ("median", "halving") and not asked.comparable:
        raise ConfigError(
            f"--prune {given.prune} compares trials by their accuracy at a round, which does not decide {' and '.join(asked.names)}; "
            "leave it out, or ask for accuracy or rounds alone"
        )
    return SearchSettings(
        search={axis.key: axis.text for axis in space},
        sampler="grid"
        if given.grid
        else given.sampler or ("nsga2" if len(asked.names) > 1 else "tpe"),
        objectives=asked.names,
        target=asked.target,
        prune=given.prune
        or ("median" if asked.comparable and not given.grid else "none"),
        rounds=given.rounds,
        trials=len(grid(space)) if given.grid else given.trials or TRIALS,
        jobs=given.jobs or 1,
        seed=base.experiment.seed if given.seed is None else given.seed,
    )


def _before(
    path: Path, given: argparse.Namespace
) -> tuple[Experiment, Space, SearchSettings]:
    """Return what a search was begun with. Raises ConfigError for arguments that would change it."""
    from fedlearn import config
    from fedlearn.tuning.record import BASE, read_settings
    from fedlearn.tuning.space import parse

    for name in _KEPT:
        if (
            value := getattr(given, name)
        ) is not None and value is not False:  # a seed may be 0
            word = "CONFIG" if name == "config" else f"--{name}"
            raise ConfigError(
                f"--resume goes on with the search in {path} as it was begun: leave out {word}, or choose another folder"
            )
    settings = read_settings(path)
    if given.trials and settings.sampler == "grid":
        raise ConfigError(
            "--trials: the search is a grid, which has its number of points"
        )
    base = config.read(str(path / BASE))
    space = tuple(
        parse(key, text, f"{path}: {key} = {text}")
        for key, text in settings.search.items()
    )
    return (
        base,
        space,
        replace(
            settings,
            trials=max(given.trials or 0, settings.trials),
            jobs=given.jobs or settings.jobs,
        ),
    )


def _search(
    path: Path,
    base: Experiment,
    space: Space,
    settings: SearchSettings,
    fresh: bool,
    quiet: bool,
) -> None:
    from fedlearn.config import to_toml
    from fedlearn.records.writing import RunFolder
    from fedlearn.tuning import results
    from fedlearn.tuning.record import read_trials, write_settings
    from fedlearn.tuning.search import Search

    def say(text: str) -> None:
        if not quiet:
            print(text, flush=True)

    made = [p for p in (path, *path.parents) if not p.exists()]
    folder = RunFolder(path)
    try:
        search = Search(
            folder,
            settings,
            base,
            space,
            read_trials(path),
            lambda trial: say(results.line(trial, settings.trials)),
        )
        say(f"fedlearn tune: {base.experiment.name}, {_about(settings)}")
        write_settings(folder, settings, to_toml(base))
        try:
            search.go()
        except UserError:
            if fresh:
                _clear(path, made)
            raise
        except BaseException:
            results.write(
                folder,
                [trial for trial in search.trials if trial.state != "running"],
                settings,
                base,
            )
            say(f"to go on: fedlearn tune --resume --out {shlex.quote(str(path))}")
            raise
        _finish(search, say)
    finally:
        folder.close()


def _about(settings: SearchSettings) -> str:
    search = ", ".join(f"{key} = {text}" for key, text in settings.search.items())
    how = (
        "a grid"
        if settings.sampler == "grid"
        else f"{settings.sampler}, seed {settings.seed}"
    )
    return f"{search}; {', '.join(settings.objectives)}{settings.criteria.until}; {how}, {settings.trials} trials, pruned by {settings.prune}"


def _finish(search: Search, say: Callable[[str], None]) -> None:
    from fedlearn.tuning import plots, results

    trials, settings, path = search.trials, search.settings, search.folder.path
    results.write(search.folder, trials, settings, search.base)
    if not results.ranked(trials, settings):
        raise RunError(
            f"no trial of {len(trials)} succeeded; the last: {trials[-1].reason}"
        )
    os.environ["MPLBACKEND"] = (
        "agg"  # no window is opened, so a backend that is not installed must not matter
    )
    plots.draw(path, trials, settings, search.space)
    say(f"\n{results.table(trials, settings)}")
    best = results.best_front(trials, settings)[0]
    say(
        f"trial {best.number} as a config: fedlearn simulate {shlex.quote(str(path / results.BEST))}"
    )


def _clear(path: Path, made: list[Path]) -> None:
    """Remove what a search leaves that never had a trial: a wrong config leaves no trace."""
    with contextlib.suppress(OSError):
        for found in path.iterdir():
            shutil.rmtree(found) if found.is_dir() else found.unlink()
        for folder in made:
            folder.rmdir()


if __name__ == "__main__":
    sys.exit(main())
