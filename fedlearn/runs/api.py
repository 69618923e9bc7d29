"""The Python API: what ``import fedlearn`` offers.

`fedlearn.run` is `run` here, and so on; the names are listed in `fedlearn.__all__`. It
stands on `run_in_folder`, as the commands do, which add the reading of their arguments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedlearn.config import ConfigSource
from fedlearn.data.own import dataset as _dataset
from fedlearn.data.samples import Dataset
from fedlearn.errors import ConfigError, UserError
from fedlearn.names import handed_over, is_handed
from fedlearn.runs.arguments import (
    HIGHEST_PORT,
    MOST_LOCAL_AGENTS,
    MOST_MEGABYTES,
    changes_of,
    folder_path,
    own_callbacks,
    whole_number,
)
from fedlearn.runs.callbacks import Callback
from fedlearn.runs.result import Comparison, Run
from fedlearn.runs.start import require_extra, run_in_folder
from fedlearn.runs.whole_apps import app_folder
from fedlearn.runs.whole_apps import run as run_app

# The accuracy that a comparison counts rounds and bytes to, as `fedlearn report` does.
_TARGET = 0.8


def run(
    config: ConfigSource = None,
    changes: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
    data: Any = None,
    model: Any = None,
    strategy: Any = None,
    up: Any = None,
    down: Any = None,
    nodes: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
) -> Run:
    """Run an experiment over simulated clients on this machine, and return the run.

    config: a shipped experiment's name, a TOML file's path, a dict of tables, or an
    `Experiment`; None: the default, or with ``resume`` the folder's own. changes: single
    keys, such as {"train.lr": 0.05}; None takes a key away. out: the run folder; None: a
    new one below ``runs``, or with ``resume`` the newest there. resume: go on with that
    run. callbacks: see `Callback`. quiet: show no progress.

    data, model, strategy, up, down: a name, or the Python object itself in the place of
    ``[data]``, ``[model]`` and ``[strategy]`` ``name`` and of ``[codec]`` ``up`` and
    ``down``. A class or a function is called as a config's would be; an instance is used
    as it is, and copied where it can change. It has its arguments, so those that the
    config has for the thing of its name are left out.

    A folder of a Flower app in the place of ``config`` runs that app, whole and unchanged,
    and gives an `AppRun`: its ``folder`` and ``summary``. changes: of the app's own run
    config. nodes, seed, workers: for an app alone, as ``fedlearn run`` has them; up, down:
    names of codecs.

    Runs of one process take turns: a run in another thread waits for this one.

    Raises UserError for wrong input, RunError when the run fails, and what a callback
    raises. KeyboardInterrupt leaves a run that ``resume=True`` continues.
    """
    require_extra()
    for_apps = {"nodes": nodes, "seed": seed, "workers": workers}
    if app_folder(config, out, resume):
        options = {
            "data": data,
            "model": model,
            "strategy": strategy,
            "callbacks": tuple(callbacks),
            "up": up,
            "down": down,
            **for_apps,
        }
        # Of a kind of its own: an app's run has a folder and a summary.
        return run_app(  # type: ignore[return-value]
            config,  # type: ignore[arg-type]  # the path of a folder, or None
            changes,
            out=out,
            resume=resume,
            quiet=quiet,
            options=options,
        )
    _refuse_app_options(for_apps)
    # Here and not at the top: `import fedlearn` must not load torch.
    from fedlearn.config import read
    from fedlearn.runs.handed import instances, named, without_options
    from fedlearn.runs.simulation import simulate

    watchers = own_callbacks(callbacks)
    objects = {
        "data": data,
        "model": model,
        "strategy": strategy,
        "up": up,
        "down": down,
    }
    # Names win over the config's: what is handed over is meant.
    names, at_hand = named(objects)
    left_out: Mapping[str, Any] = {}
    tables = instances(objects)
    # A resumed run's own config has none of those options.
    if tables and (config is not None or not resume):
        left_out = without_options(tables, read(config))
    with handed_over(at_hand), _own_threads():
        result = run_in_folder(
            partial(simulate, callbacks=watchers),
            config=config,
            changes={**left_out, **changes_of(changes), **names},
            out=out,
            resume=resume,
            quiet=quiet,
            # A program reads the result itself, so an [expect] that fails is no
            # exception there.
            resume_command="fedlearn.run(out='{out}', resume=True)",
            check_expected=False,
        )
        # Inside, so that the objects handed over can be found when the run is read.
        return Run(result.path, at_hand)


def _refuse_app_options(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for what the run of an app alone takes."""
    for name, value in options.items():
        if value is not None:
            raise ConfigError(
                f"fedlearn.run({name}=…) is for the folder of a Flower app; an experiment "
                "has it in its config"
            )


@contextlib.contextmanager
def _own_threads() -> Iterator[None]:
    """Give the program its torch threads back: a run keeps torch on one."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def serve(
    config: ConfigSource = None,
    changes: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
    local_agents: int = 0,
    host: str = "127.0.0.1",
    port: int = 0,
    enroll_port: int = 0,
    pki: str | Path | None = None,
    insecure: bool = False,
    metrics_port: int | None = None,
    journal_megabytes: int | None = None,
) -> Run:
    """Run an experiment over real agents, as ``fedlearn serve`` does; return the run.

    config, changes, out, resume, callbacks, quiet: as in `run`. local_agents: agents that
    are started here, for a try. host, port, enroll_port: where agents attend and enroll;
    port 0: any that is free. pki: the authority's folder, made by ``fedlearn pki``; None:
    with local agents alone, one of the run's own. insecure: without TLS. metrics_port: of
    Prometheus' figures; None: without. journal_megabytes: most that the journal of answers
    may have on disk; None: nine tenths of what is free.

    Raises what `run` raises.
    """
    from fedlearn.runs.serving import ServeOptions

    # Without any of these no agent could ever attend.
    if not (pki or insecure or local_agents):
        raise UserError(
            "agents are known by certificates: give pki, the folder of an authority made "
            "with 'fedlearn pki init', or local_agents for a try"
        )
    if not isinstance(host, str) or not host:
        raise ConfigError(f"host = {host!r:.40}: the text of an address")
    watchers = own_callbacks(callbacks)
    metrics = None
    if metrics_port is not None:
        metrics = whole_number("metrics_port", metrics_port, HIGHEST_PORT)
    quota = None
    if journal_megabytes is not None:
        quota = whole_number("journal_megabytes", journal_megabytes, MOST_MEGABYTES, 1)
    options = ServeOptions(
        host=host,
        port=whole_number("port", port, HIGHEST_PORT),
        enroll_port=whole_number("enroll_port", enroll_port, HIGHEST_PORT),
        pki=folder_path("pki", pki) if pki else None,
        insecure=insecure,
        local_agents=whole_number("local_agents", local_agents, MOST_LOCAL_AGENTS),
        metrics_port=metrics,
        journal_megabytes=quota,
        shown="nothing" if quiet else "notes",
    )
    with handed_over({}), _own_threads():
        result = run_in_folder(
            partial(options.execute, callbacks=watchers),
            config=config,
            changes=changes_of(changes),
            out=out,
            resume=resume,
            quiet=quiet,
            resume_command="fedlearn.serve(out='{out}', resume=True)",
            check_expected=False,
        )
    return Run(result.path)


def load(folder: str | Path, *, model: Any = None) -> Run:
    """Return a run from its folder, finished or not.

    model: the class or function that the run was given as a Python object; needed for
    `Run.model` and `Run.predict` alone. Raises UserError for a folder that holds no run.
    """
    run = Run(folder)
    if model is None:
        return run
    require_extra()
    from fedlearn.runs.handed import importable_name, maker

    name = run.config.model.name
    if is_handed(name):
        # Whatever it is called now, it is handed over as this run's model.
        return Run(folder, {name: maker("model", model)})
    if model != name and importable_name(model) != name:
        raise ConfigError(f"{folder}: its model is '{name}', which needs no model=")
    return run


def compare(runs: Iterable[Run | str | Path], target: float = _TARGET) -> Comparison:
    """Return runs side by side: figures, curves, and a page that can be written.

    runs: runs or their folders, two at least. target: accuracy (0 to 1) to count rounds
    and bytes to. Raises UserError.
    """
    if isinstance(runs, str) or not isinstance(runs, Iterable):
        raise UserError(
            f"compare takes a list of runs; this is a {type(runs).__name__}"
        )
    loaded = [run if isinstance(run, Run) else Run(run) for run in runs]
    # Two at least: the page is about differences.
    if len(loaded) < 2:
        raise UserError(f"compare takes two runs or more; {len(loaded)} given")
    if not isinstance(target, int | float) or not 0 < target <= 1:
        raise UserError(f"target = {target!r:.40}: a share of 1, such as 0.8 for 80 %")
    return Comparison(loaded, target)


def dataset(
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    clients: Any = None,
    name: str = "own",
    classes: int | None = None,
) -> Dataset:
    """Return a data set of plain arrays, for ``run(data=…)``.

    x: (N, C, H, W) or (N, H, W) uint8, or floats in [0, 1], images; such floats without
    channels have H = W · (N, T, F) floats, series · (N, F) floats, features · (N, T)
    uint8 with y (N, T), text. y: (N,) whole numbers from 0. clients: (N,) numbers or
    names of the owners of the training samples; None: ``[data.partition]`` divides them.
    classes: how many there are; None: up to the largest label. Raises DataError.
    """
    return _dataset(name, x, y, x_test, y_test, clients, classes=classes)
