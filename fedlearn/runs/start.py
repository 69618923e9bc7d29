"""Start an experiment in its run folder, or resume it there.

Everything that can be wrong with the input is checked before torch or flwr are
imported and before a folder is made. `run_in_folder` is the one way in: commands and
the Flower app give it what their users gave them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.errors import ConfigError, RecordError, UnwrittenError
from fedlearn.records.names import CONFIG_FILE, MANIFEST_FILE, is_before_config
from fedlearn.records.places import RUNS, new_folder
from fedlearn.runs.arguments import folder_path
from fedlearn.runs.names import check_names
from fedlearn.system.own_path import look_in

if TYPE_CHECKING:
    from fedlearn.config import ConfigSource, Experiment, Overrides
    from fedlearn.records.writing import RunFolder
    from fedlearn.reporting.progress import Progress

    Execute = Callable[[Experiment, RunFolder, Progress, bool], dict[str, Any]]
    """(experiment, folder, display, resume) → the run's summary; resume: whether the
    folder already holds rounds of it."""


# The packages of the extra ``sim`` without which a run ends late, in the middle of it.
_PACKAGES = ("torch", "flwr", "pydantic", "matplotlib", "safetensors")

# Keys and tables that a resumed run may have different from its start, because none of
# them changes what a round computes.
_MAY_CHANGE = {
    ("engine", "kind"),
    ("engine", "workers"),
    ("engine", "address"),
    # A run that waits for a client that sleeps is ended, and goes on with a limit.
    ("engine", "client_timeout_s"),
    ("fleet",),
    ("devices", "target"),
    ("devices", "cloud"),
    ("expect",),
    ("tune",),
    ("experiment", "rounds"),
    ("experiment", "stop_at"),
    ("experiment", "patience"),
    ("experiment", "min_delta"),
    ("experiment", "about"),
    ("experiment", "checkpoint_every"),
}

# Engines that sum in an order of their own: the last bits of a result are theirs, so a
# run cannot change to or from them on its way.
_OWN_BITS = {"stacked", "auto"}


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves: its folder, and the summary that is written there."""

    path: Path
    summary: Mapping[str, Any]


def run_in_folder(
    execute: Execute,
    *,
    config: ConfigSource = None,
    changes: Overrides = (),
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    resume_command: str = "python -m fedlearn.simulate --resume --out {out}",
    check_expected: bool = True,
    again: str = "--resume",
) -> RunResult:
    """Run an experiment in its run folder, and draw its plots and its page there.

    execute: what runs it. config: see `fedlearn.config.Experiment.read`; None: the
    embedded default, or with ``resume`` the folder's own config. changes: of single keys.
    out: the run folder; None: a new one below ``runs``, or with ``resume`` the newest
    there. quiet: show nothing. resume_command: what the display names when a run stops
    early; ``{out}`` stands for the folder. check_expected: whether a line of ``[expect]``
    that does not hold is an error. again: what goes on after a failed write, in few words.

    Raises ConfigError for wrong input, ExpectationError when the run ended but a line of
    ``[expect]`` does not hold, RecordError for a folder that cannot be written, and what
    ``execute`` raises. A run that never started leaves no folder behind.
    """
    require_extra()
    chosen_path = _chosen_folder(out, resume)
    experiment = _experiment(config, changes, chosen_path, resume)
    check_names(experiment)
    path = chosen_path or new_folder(experiment.experiment.name)
    _check_folder(path, experiment, resume, config is not None)

    from fedlearn.config import unjudged
    from fedlearn.runs.expectations import check_expectations

    command = resume_command.replace("{out}", shlex.quote(str(path)))
    remark = "" if resume else unjudged(config, experiment)
    summary = _execute_and_report(
        execute, experiment, path, resume, quiet, command, again, remark
    )
    # After the report, so that a run that disappoints can be looked at.
    if check_expected:
        check_expectations(summary)
    return RunResult(path, summary)


def _execute_and_report(
    execute: Execute,
    experiment: Experiment,
    path: Path,
    resume: bool,
    quiet: bool,
    resume_command: str,
    again: str,
    remark: str,
) -> dict[str, Any]:
    from fedlearn.records.writing import RunFolder
    from fedlearn.reporting.page import write_page
    from fedlearn.reporting.plots import draw
    from fedlearn.reporting.progress import Progress

    # Listed before RunFolder makes them.
    new_folders = [p for p in (path, *path.parents) if not p.exists()]
    with (
        contextlib.closing(RunFolder(path, again)) as folder,
        Progress(quiet) as display,
    ):
        try:
            summary = execute(experiment, folder, display, resume and folder.used)
        except BaseException as error:
            # Nothing was written: the input was wrong, and leaves no trace.
            if not folder.used:
                _remove(path, new_folders)
            elif isinstance(error, KeyboardInterrupt):
                display.interrupted(path, resume_command)
            # 3: the run failed, not its input; going on can help.
            elif getattr(error, "exit_code", 3) == 3:
                display.note(f"to go on: {resume_command}")
            if isinstance(error, UnwrittenError):
                # A first round has no checkpoint yet.
                raise RecordError(
                    f"{error}; {again} goes on from the last checkpoint, or begins anew "
                    "without one"
                ) from error
            raise
        with _without_window():
            draw(path)
            write_page(path)
        if remark:
            display.note(remark)
        display.finish(summary, path)
    return summary


@contextlib.contextmanager
def _without_window() -> Iterator[None]:
    """Draw without a window, so that a backend that is not installed does not matter."""
    before = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        yield
    finally:
        # The program that called us may have pictures of its own to show.
        if before is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = before


def require_extra() -> None:
    """Check that this Python can run an experiment.

    Raises ConfigError with the install line when packages of the extra ``sim`` are
    missing, and for a Python older than 3.11, which flwr needs.
    """
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if sys.version_info < (3, 11):
        raise ConfigError(
            f"simulation needs Python 3.11 or newer; this is {sys.version.split()[0]}"
        )
    if missing:
        raise ConfigError(
            f"simulation needs {', '.join(missing)}: pip install 'fedlearn[sim]'"
        )


def _experiment(
    config: ConfigSource, changes: Overrides, path: Path | None, resume: bool
) -> Experiment:
    """Return the experiment to run; a resumed folder's own where no config is named."""
    from fedlearn.config import read, read_recorded

    if path and resume and config is None and (path / CONFIG_FILE).exists():
        _look_where_before(path)
        return read_recorded(path / CONFIG_FILE, changes)
    return read(config, changes)


def _look_where_before(path: Path) -> None:
    """Have Python look for a resumed run's modules where they were when it began."""
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_text())
    # Torn by a kill: then the run is resumed where it began, or its CONFIG is given.
    except (OSError, ValueError, RecursionError):
        return
    folders = manifest.get("modules_from") if isinstance(manifest, dict) else None
    for folder in folders if isinstance(folders, list) else []:
        if isinstance(folder, str) and os.path.isdir(folder):
            look_in(folder)


def _chosen_folder(out: str | Path | None, resume: bool) -> Path | None:
    """Return the folder of ``out``, the newest run's to resume, or None: a new one."""
    if out is not None:
        # An empty text is mostly a shell variable that is not set.
        if out == "":
            raise ConfigError(
                "--out is empty; name a folder, or leave it out for runs/NAME-TIME"
            )
        return folder_path("out", out)
    return _newest_run() if resume else None


def _newest_run() -> Path:
    configs = list(RUNS.glob(f"*/{CONFIG_FILE}"))
    if not configs:
        raise ConfigError(
            "--resume: there is no run in runs/; name its folder with --out"
        )
    return max(configs, key=lambda config: config.stat().st_mtime).parent


def _check_folder(
    path: Path, experiment: Experiment, resume: bool, config_given: bool
) -> None:
    """Raise ConfigError for a folder that holds something else than this run."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--out {path} is a file; a run needs a folder")
    if not (path / CONFIG_FILE).exists():
        _check_unstarted(path, resume, config_given)
        return
    if not resume:
        raise ConfigError(
            f"--out {path} already holds a run; add --resume to go on with it, "
            "or choose another folder"
        )
    _check_resumable(path, experiment)


def _check_unstarted(path: Path, resume: bool, config_given: bool) -> None:
    """Raise ConfigError for a folder without a config that no run can start in."""
    # The folder of a run killed while it started: with its CONFIG given, resuming is
    # starting.
    killed = path.exists() and all(is_before_config(p.name) for p in path.iterdir())
    if resume and not (killed and config_given):
        raise ConfigError(f"--resume: {path} holds no run (it has no config.toml)")
    if path.exists() and not killed:
        raise ConfigError(
            f"--out {path} is not empty and holds no run; choose another folder"
        )


def _check_resumable(path: Path, experiment: Experiment) -> None:
    """Raise ConfigError when the experiment is not the one that a folder holds."""
    from fedlearn.config import read_recorded

    try:
        before = read_recorded(path / CONFIG_FILE)
    except ConfigError as error:
        raise ConfigError(
            f"--resume: which experiment {path} holds cannot be read ({error}); "
            "mend that file, or start anew"
        ) from None
    changed = _differences(before.model_dump(), experiment.model_dump())
    if changed:
        verb = "differ" if len(changed) > 1 else "differs"
        raise ConfigError(
            f"--out {path} holds another experiment: {', '.join(changed[:4])} {verb}; "
            "resume with the same config, or choose another folder"
        )
    # Cosine falls to 0 at the last round, so another number changes every rate.
    longer = before.experiment.rounds != experiment.experiment.rounds
    if longer and experiment.train.schedule == "cosine":
        raise ConfigError(
            "--resume with another number of rounds would change the cosine schedule "
            "of the rounds done; start anew"
        )


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], table: tuple[str, ...] = ()
) -> list[str]:
    """Return the dotted keys that differ, without those that a resumed run may change."""
    differences = []
    for name in sorted(set(before) | set(after)):
        key = (*table, name)
        old = before.get(name)
        new = after.get(name)
        if key in _MAY_CHANGE and not _changes_bits(key, old, new):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            differences += _differences(old, new, key)
        elif old != new:
            differences.append(".".join(key))
    return differences


def _changes_bits(key: tuple[str, ...], old: object, new: object) -> bool:
    return key == ("engine", "kind") and old != new and bool(_OWN_BITS & {old, new})


def _remove(path: Path, new_folders: list[Path]) -> None:
    """Remove the folders made for a run that never started: a wrong config leaves no trace.

    new_folders: innermost first. One that holds anything else stays, and its parents too.
    """
    with contextlib.suppress(OSError):
        # Made by `RunFolder` at once; it is the only file of a run that never started.
        (path / ".lock").unlink()
        for folder in new_folders:
            # Fails for a folder that holds anything, which therefore stays.
            folder.rmdir()
