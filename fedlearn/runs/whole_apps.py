"""A whole Flower app by `fedlearn.run`: its folder in the place of a config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.errors import ConfigError
from fedlearn.records.names import APP_FILE
from fedlearn.records.places import new_folder
from fedlearn.runs.arguments import folder_path

if TYPE_CHECKING:
    from fedlearn.apps.api import AppRun
    from fedlearn.apps.project import UserConfig
    from fedlearn.apps.start import Started


def app_folder(config: object, out: str | Path | None, resume: bool) -> Path | None:
    """Return the folder of the Flower app that a config names; None: it names none.

    With ``resume`` and no config the app is the one whose run ``out`` holds.
    """
    if config is None and resume and out:
        holds_app = (Path(out) / APP_FILE).is_file()
        return Path(out) if holds_app else None
    # A name of an experiment is no folder as a rule.
    if not isinstance(config, str | Path) or not Path(config).is_dir():
        return None
    from fedlearn.apps.project import is_project

    return Path(config) if is_project(Path(config)) else None


def run(
    config: str | Path | None,
    changes: Mapping[str, Any] | None,
    *,
    out: str | Path | None,
    resume: bool,
    quiet: bool,
    options: Mapping[str, Any],
) -> AppRun:
    """Run an app's folder, or go on with the run in ``out``.

    changes: of the app's own run config. options: ``nodes``, ``seed``, ``workers``, ``up``
    and ``down`` as far as they are set, and what an app cannot have. Raises UserError for
    wrong input, RunError when the run fails.
    """
    from fedlearn.apps import start
    from fedlearn.apps.api import run_app

    started = _started(config, changes, out, options)
    if out is None:
        path = new_folder(start.folder_name(started.project))
    else:
        path = folder_path("out", out)
    return run_app(started, path, resume=resume, quiet=quiet)


def _started(
    config: str | Path | None,
    changes: Mapping[str, Any] | None,
    out: str | Path | None,
    options: Mapping[str, Any],
) -> Started:
    from fedlearn.apps import start
    from fedlearn.apps.options import read

    # What was left out has the defaults of `fedlearn run`.
    chosen = {name: value for name, value in options.items() if value not in (None, ())}
    for name in ("data", "model", "strategy", "callbacks"):
        if name in chosen:
            raise ConfigError(
                f"fedlearn.run({name}=…) is for experiments; a Flower app brings its own"
            )
    workers = int(chosen.get("workers", 0))
    if config is None:
        assert out is not None
        return start.of_folder(Path(out), workers)
    codecs = [f"codec.{way}={chosen[way]}" for way in ("up", "down") if way in chosen]
    return start.of_options(
        Path(config),
        changes=_own_config(changes),
        nodes=chosen.get("nodes"),
        seed=int(chosen.get("seed", 0)),
        workers=workers,
        options=read(codecs),
    )


def _own_config(changes: Mapping[str, Any] | None) -> UserConfig:
    from fedlearn.apps.project import flat

    return flat(dict(changes or {}), "fedlearn.run's changes")
