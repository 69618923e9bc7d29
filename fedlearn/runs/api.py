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
from fedlearn.errors import UserError
from fedlearn.names import handed_over
from fedlearn.runs.callbacks import Callback
from fedlearn.runs.handed import named
from fedlearn.runs.result import Comparison, Run
from fedlearn.runs.start import run_in_folder

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
) -> Run:
    """Run an experiment over simulated clients on this machine, and return the run.

    config: a shipped experiment's name, a TOML file's path, a dict of tables, or an
    `Experiment`; None: the default, or with ``resume`` the folder's own. changes: single
    keys, such as {"train.lr": 0.05}. out: the run folder; None: a new one below ``runs``,
    or with ``resume`` the newest there. resume: go on with that run. callbacks: see
    `Callback`. quiet: show no progress.

    data, model, strategy, up, down: a name, or the Python object itself in the place of
    ``[data]``, ``[model]`` and ``[strategy]`` ``name`` and of ``[codec]`` ``up`` and
    ``down``. A class or a function is called as a config's would be; an instance is used
    as it is, and copied where it can change.

    Raises UserError for wrong input, RunError when the run fails, and what a callback
    raises. KeyboardInterrupt leaves a run that ``resume=True`` continues.
    """
    # Here and not at the top: `import fedlearn` must not load torch.
    from fedlearn.runs.simulation import simulate

    objects = {
        "data": data,
        "model": model,
        "strategy": strategy,
        "up": up,
        "down": down,
    }
    # Names win over the config's: what is handed over is meant.
    names, at_hand = named(objects)
    with handed_over(at_hand), _own_threads():
        result = run_in_folder(
            partial(simulate, callbacks=tuple(callbacks)),
            config=config,
            changes={**(changes or {}), **names},
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
) -> Run:
    """Run an experiment over real agents, as ``fedlearn serve`` does; return the run.

    config, changes, out, resume, callbacks, quiet: as in `run`. local_agents: agents that
    are started here, for a try. host, port, enroll_port: where agents attend and enroll;
    port 0: any that is free. pki: the authority's folder, made by ``fedlearn pki``; None:
    with local agents alone, one of the run's own. insecure: without TLS. metrics_port: of
    Prometheus' figures; None: without.

    Raises what `run` raises.
    """
    from fedlearn.runs.serving import ServeOptions

    # Without any of these no agent could ever attend.
    if not (pki or insecure or local_agents):
        raise UserError(
            "agents are known by certificates: give pki, the folder of an authority made "
            "with 'fedlearn pki init', or local_agents for a try"
        )
    options = ServeOptions(
        host=host,
        port=port,
        enroll_port=enroll_port,
        pki=Path(pki) if pki else None,
        insecure=insecure,
        local_agents=local_agents,
        metrics_port=metrics_port,
        shown="nothing" if quiet else "notes",
    )
    with _own_threads():
        result = run_in_folder(
            partial(options.execute, callbacks=tuple(callbacks)),
            config=config,
            changes=changes or {},
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
    # The run's own config has the name that leads to it.
    _, at_hand = named({"model": model})
    return Run(folder, at_hand)


def compare(runs: Iterable[Run | str | Path], target: float = _TARGET) -> Comparison:
    """Return runs side by side: figures, curves, and a page that can be written.

    runs: runs or their folders, two at least. target: accuracy (0 to 1) to count rounds
    and bytes to. Raises UserError.
    """
    loaded = [run if isinstance(run, Run) else Run(run) for run in runs]
    # Two at least: the page is about differences.
    if len(loaded) < 2:
        raise UserError(f"compare takes two runs or more; {len(loaded)} given")
    if not 0 < target <= 1:
        raise UserError(f"target = {target:g}: give a share of 1, such as 0.8 for 80 %")
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
