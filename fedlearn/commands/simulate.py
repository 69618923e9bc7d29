"""The command ``python -m fedlearn.simulate``: run an experiment on this machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import ConfigError
from fedlearn.records.names import BEFORE_CONFIG, CONFIG_FILE

if TYPE_CHECKING:
    from fedlearn.config import Experiment

_MAY_CHANGE = {
    ("engine", "kind"),
    ("engine", "workers"),
    ("engine", "address"),
    ("fleet",),
    ("devices", "target"),
    ("devices", "cloud"),
    ("expect",),
    ("tune",),
    ("experiment", "rounds"),
    ("experiment", "stop_at"),
    ("experiment", "about"),
    ("experiment", "checkpoint_every"),
}
"""What a resumed run may have different from its start: none of it changes what a round computes."""


def parser() -> Parser:
    """Return the command's arguments."""
    made = run_parser(
        "simulate",
        "Train one model over many simulated clients, and leave a run folder with its report.",
    )
    made.add_argument(
        "--profile",
        action="store_true",
        help="show where the rounds' time goes, and the share of the machine's peak",
    )
    made.add_argument(
        "--trace",
        action="store_true",
        help="as --profile, and write one client's operators to trace.json, for Perfetto",
    )
    made.add_argument(
        "--list",
        action="store_true",
        help="show datasets, partitions, models, strategies, codecs, engines and experiments",
    )
    return made


def run_parser(command: str, about: str) -> Parser:
    """Return the arguments that every command has that runs an experiment."""
    made = Parser(
        prog=f"fedlearn {command}",
        description=about,
        epilog="exit codes: 0 done, 2 wrong input, 3 the run failed, 4 an [expect] line does not hold, 130 interrupted",
    )
    made.add_argument(
        "config",
        nargs="?",
        help="a TOML file or the name of a shipped experiment (default: the embedded default)",
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one key, e.g. --set train.lr=0.05",
    )
    made.add_argument(
        "--out", metavar="DIR", help="the run folder (default: runs/NAME-TIME)"
    )
    made.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out, or with the newest in runs/",
    )
    made.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code; a user's mistake is one line on standard error."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        print(listing())
        return 0
    again = "python -m fedlearn.simulate --resume --out {out}"
    if not (arguments.profile or arguments.trace):
        return run_in_folder(arguments, again, _simulate)
    return _profiled(
        arguments, f"{again} --{'trace' if arguments.trace else 'profile'}"
    )


def _profiled(arguments: argparse.Namespace, again: str) -> int:
    """Run with a profile, and print it once the run's own figures are shown."""
    done: list[Path] = []

    def go(
        experiment: Experiment, folder: Any, display: Any, resume: bool
    ) -> dict[str, Any]:
        from fedlearn.runs.profiling import profiled

        summary = profiled(experiment, folder, display, resume, arguments.trace)
        done.append(folder.path)
        return summary

    try:
        return run_in_folder(arguments, again, go)
    finally:  # of a run that does not keep what [expect] asks, too
        if done and not arguments.quiet:
            from fedlearn.records.reading import read
            from fedlearn.reporting.profile_text import of_run

            print(f"\n{of_run(read(done[0]))}", end="")


def _simulate(
    experiment: Experiment, folder: Any, display: Any, resume: bool
) -> dict[str, Any]:
    from fedlearn.runs.simulation import simulate

    return simulate(experiment, folder, display, resume)


def run_in_folder(
    arguments: argparse.Namespace,
    again: str,
    go: Callable[[Experiment, Any, Any, bool], dict[str, Any]],
) -> int:
    """Run an experiment in its run folder and return the exit code.

    arguments: config, set, out, resume, quiet. again: the command that goes on with a run, {out} for its folder. go:
    (experiment, folder, display, resume) → the summary. Raises what it raises.
    """
    require_extra()
    from fedlearn import config

    given = _folder(arguments)
    if (
        given
        and arguments.resume
        and arguments.config is None
        and (given / CONFIG_FILE).exists()
    ):
        experiment = config.read(str(given / CONFIG_FILE), arguments.set)
    else:
        experiment = config.read(arguments.config, arguments.set)
    check_names(experiment)
    path = given or new_folder(experiment.experiment.name)
    _check_folder(path, experiment, arguments.resume, arguments.config is not None)

    from fedlearn.records.writing import RunFolder
    from fedlearn.reporting.page import write_page
    from fedlearn.reporting.plots import draw
    from fedlearn.reporting.progress import Progress
    from fedlearn.runs.loop import check_expectations

    again = again.replace("{out}", shlex.quote(str(path)))
    made = [p for p in (path, *path.parents) if not p.exists()]
    with _open(RunFolder, path) as folder, Progress(arguments.quiet) as display:
        try:
            summary = go(experiment, folder, display, arguments.resume and folder.used)
        except BaseException as error:
            if not folder.used:
                _remove(path, made)
            elif isinstance(error, KeyboardInterrupt):
                display.interrupted(path, again)
            elif getattr(error, "exit_code", 3) == 3:
                display.note(f"to go on: {again}")
            raise
        os.environ["MPLBACKEND"] = (
            "agg"  # no window is opened, so a backend that is not installed must not matter
        )
        draw(path)
        write_page(path)
        display.finish(summary, path)
    check_expectations(summary)
    return 0


def check_names(experiment: Experiment) -> None:
    """Raise ConfigError for a name that no registry has, before anything heavy is imported."""
    from fedlearn.data import DATASETS
    from fedlearn.data.partition import KINDS
    from fedlearn.models import MODELS
    from fedlearn.names import nearest
    from fedlearn.strategies import STRATEGIES

    kind = experiment.data.partition.kind
    for where, name, known in (
        ("data.name", experiment.data.name, DATASETS),
        ("data.partition.kind", kind or next(iter(KINDS)), KINDS),
        ("model.name", experiment.model.name, MODELS),
        ("strategy.name", experiment.strategy.name, STRATEGIES),
    ):
        if name not in known and ":" not in name:
            raise ConfigError(
                f"{where}: unknown name '{name}'.{nearest(name, known)} Known: {', '.join(known)}"
            )
    _check_codecs(experiment.codec.up, experiment.codec.down)


def _check_codecs(up: str, down: str) -> None:
    from fedlearn.codec import AUTO, feedback
    from fedlearn.codec.chain import parse

    if feedback(down)[0]:
        raise ConfigError(
            f'codec.down: "{down}": only updates (codec.up) have error feedback; a copy that differs is its own'
        )
    for where, text in (("codec.up", up), ("codec.down", down)):
        try:
            if text != AUTO:
                parse(text)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None


def listing() -> str:
    """Return every name that a config can use, one line each."""
    from fedlearn.codec.chain import STAGES
    from fedlearn.config import read, shipped
    from fedlearn.data import DATASETS
    from fedlearn.data.partition import KINDS
    from fedlearn.engine import ENGINES
    from fedlearn.models import MODELS
    from fedlearn.strategies import STRATEGIES

    tables: dict[str, Mapping[str, Any]] = {
        "datasets": DATASETS, "partitions": KINDS, "models": MODELS, "strategies": STRATEGIES, "codec stages": STAGES, "engines": ENGINES,
    }  # fmt: skip
    lines = []
    for title, table in tables.items():
        lines += [
            f"{title}:",
            *(f"  {name:<22}{named.about}" for name, named in table.items()),
            "",
        ]
    lines += [
        "experiments:",
        *(f"  {name:<22}{read(name).experiment.about}" for name in shipped()),
    ]
    return "\n".join(
        [
            *lines,
            "",
            "your own: 'my_package.my_module:name' for datasets, models and strategies (any Flower strategy)",
        ]
    )


def require_extra() -> None:
    """Raise ConfigError where a simulation lacks a package, or the Python that it needs."""
    missing = []
    for module in ("torch", "flwr", "pydantic", "matplotlib", "safetensors"):
        from importlib.util import find_spec

        if find_spec(module) is None:
            missing.append(module)
    if sys.version_info < (3, 11):
        raise ConfigError(
            f"simulation needs Python 3.11 or newer; this is {sys.version.split()[0]}"
        )
    if missing:
        raise ConfigError(
            f"simulation needs {', '.join(missing)}: pip install 'fedlearn[sim]'"
        )


def _folder(arguments: argparse.Namespace) -> Path | None:
    if arguments.out is not None:
        if not arguments.out:
            raise ConfigError(
                "--out is empty; name a folder, or leave it out for runs/NAME-TIME"
            )
        return Path(arguments.out)
    if not arguments.resume:
        return None
    runs = sorted(
        (p.parent for p in Path("runs").glob(f"*/{CONFIG_FILE}")),
        key=lambda p: (p / CONFIG_FILE).stat().st_mtime,
    )
    if not runs:
        raise ConfigError(
            "--resume: there is no run in runs/; name its folder with --out"
        )
    return runs[-1]


def new_folder(name: str) -> Path:
    """Return the path of a folder for a run of this name; nothing is made."""
    stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = stem, 2
    while path.exists():
        path, number = stem.with_name(f"{stem.name}-{number}"), number + 1
    return path


def _check_folder(
    path: Path, experiment: Experiment, resume: bool, config_given: bool
) -> None:
    """Refuse a folder that holds something else than this run."""
    from fedlearn import config

    if path.exists() and not path.is_dir():
        raise ConfigError(f"--out {path} is a file; a run needs a folder")
    if not (path / CONFIG_FILE).exists():
        # A run killed while it starts leaves no more than this; with its CONFIG given, resuming it is starting it.
        killed = path.exists() and all(p.name in BEFORE_CONFIG for p in path.iterdir())
        if resume and not (killed and config_given):
            raise ConfigError(f"--resume: {path} holds no run (it has no config.toml)")
        if path.exists() and not killed:
            raise ConfigError(
                f"--out {path} is not empty and holds no run; choose another folder"
            )
        return
    if not resume:
        raise ConfigError(
            f"--out {path} already holds a run; add --resume to go on with it, or choose another folder"
        )
    try:
        before = config.read(str(path / CONFIG_FILE))
    except ConfigError as error:
        raise ConfigError(
            f"--resume: which experiment {path} holds cannot be read ({error}); mend that file, or start anew"
        ) from None
    changed = _differences(before.model_dump(), experiment.model_dump())
    if changed:
        raise ConfigError(
            f"--out {path} holds another experiment: {', '.join(changed[:4])} {'differ' if len(changed) > 1 else 'differs'}; "
            "resume with the same config, or choose another folder"
        )
    if (
        before.experiment.rounds != experiment.experiment.rounds
        and experiment.train.schedule == "cosine"
    ):
        raise ConfigError(
            "--resume with another number of rounds would change the cosine schedule of the rounds done; start anew"
        )


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], path: tuple[str, ...] = ()
) -> list[str]:
    found = []
    for key in sorted(set(before) | set(after)):
        here = (*path, key)
        old, new = before.get(key), after.get(key)
        if here in _MAY_CHANGE and not (
            here == ("engine", "kind")
            and old != new
            and {"stacked", "auto"} & {old, new}
        ):  # bits of its own
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, here)
        elif old != new:
            found.append(".".join(here))
    return found


@contextlib.contextmanager
def _open(kind: Any, path: Path) -> Iterator[Any]:
    folder = kind(path)
    try:
        yield folder
    finally:
        folder.close()


def _remove(path: Path, made: list[Path]) -> None:
    """Remove the folders that were made for a run that never started: a wrong config leaves no trace."""
    with contextlib.suppress(OSError):
        (path / ".lock").unlink()
        for folder in made:
            folder.rmdir()


if __name__ == "__main__":
    sys.exit(main())
