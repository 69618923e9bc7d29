"""Federated learning on Flower's strategies: compressed updates, and one result per config.

Commands: ``python -m fedlearn.simulate``, ``fedlearn report`` and others (``fedlearn
--help``). From Python::

    import fedlearn as fl

    run = fl.run("default", {"train.lr": 0.05}, out="runs/a")
    run.summary["accuracy"]
    run.predict(images)

The names of `__all__` are imported when they are first used, so that an agent on a small
board loads none of them.
"""

from __future__ import annotations

from fedlearn.system.own_path import begin

# Before anything else is imported: a file beside the user's config may have its name.
begin()

from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

if TYPE_CHECKING:
    from fedlearn.codec import Codec
    from fedlearn.config import Experiment
    from fedlearn.data.samples import Dataset, Population
    from fedlearn.errors import (
        ConfigError,
        DataError,
        FedlearnError,
        ModelError,
        RecordError,
        RunError,
        UserError,
    )
    from fedlearn.plan import Plan
    from fedlearn.runs.api import compare, dataset, load, run, serve
    from fedlearn.runs.callbacks import Callback
    from fedlearn.runs.result import Comparison, Run

__version__ = "0.1.0"

# Public name → the module that has it.
_HOMES = {
    "Callback": "fedlearn.runs.callbacks",
    "Codec": "fedlearn.codec",
    "Comparison": "fedlearn.runs.result",
    "ConfigError": "fedlearn.errors",
    "DataError": "fedlearn.errors",
    "Dataset": "fedlearn.data.samples",
    "Experiment": "fedlearn.config",
    "FedlearnError": "fedlearn.errors",
    "ModelError": "fedlearn.errors",
    "Plan": "fedlearn.plan",
    "Population": "fedlearn.data.samples",
    "RecordError": "fedlearn.errors",
    "Run": "fedlearn.runs.result",
    "RunError": "fedlearn.errors",
    "UserError": "fedlearn.errors",
    "compare": "fedlearn.runs.api",
    "dataset": "fedlearn.runs.api",
    "load": "fedlearn.runs.api",
    "run": "fedlearn.runs.api",
    "serve": "fedlearn.runs.api",
}

__all__ = [
    "Callback",
    "Codec",
    "Comparison",
    "ConfigError",
    "DataError",
    "Dataset",
    "Experiment",
    "FedlearnError",
    "ModelError",
    "Plan",
    "Population",
    "RecordError",
    "Run",
    "RunError",
    "UserError",
    "__version__",
    "compare",
    "dataset",
    "load",
    "run",
    "serve",
]

# clients, server, strategies and experiments are links to the folders beside this one;
# where links were lost (a zip, Windows), look there.
if not Path(__file__).with_name("server").is_dir():
    __path__.append(str(Path(__file__).parents[1]))


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fedlearn' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
