"""What runs on Ray's machines: one process with its own model and data, which works on the tasks that it is dealt.

Legend: P floats, Q integers of the model's layout.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import fedlearn
from fedlearn.arrays import State
from fedlearn.brief import Brief
from fedlearn.clients.build import local_of
from fedlearn.clients.evaluate import Score
from fedlearn.data.samples import Population
from fedlearn.engine.runner import Runner
from fedlearn.engine.serial import Serial
from fedlearn.engine.task import Outcome, Task
from fedlearn.errors import ConfigError, UserError, one_line
from fedlearn.memory.vectors import ClientVectors
from fedlearn.system.malloc import keep_pages
from fedlearn.wire import digest

Vector = NDArray[np.float32]

_MEND = {
    "CPU capability": "set ATEN_CPU_CAPABILITY to the lesser of the two everywhere"
}


@dataclass(frozen=True)
class Job:
    """What an actor has to know of a run to build what the coordinator has."""

    brief: Brief
    app: str
    mods: tuple[str, ...]
    vectors: tuple[
        str, ...
    ]  # names of what clients keep, which travels with their tasks
    partition: str  # see `divided`
    initial: bytes  # digest of the first model
    versions: Mapping[str, str]
    path: tuple[str, ...]  # where the coordinator imports from
    folder: str  # where it was started: paths in a config may be relative


@dataclass(frozen=True)
class Place:
    """Where an actor runs."""

    node: str  # Ray's id of the machine
    host: str
    pid: int


@dataclass(frozen=True)
class Parcel:
    """A task, and the vectors (P,) that its client kept, which lie on the coordinator's disk."""

    task: Task
    vectors: Mapping[str, Vector] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What came of a task, and the vectors (P,) that its client keeps from now on."""

    outcome: Outcome
    vectors: Mapping[str, Vector] = field(default_factory=dict)


class Carried(ClientVectors):
    """The vectors of a few clients in memory, in the place of the file: as they came, and as they go back."""

    def __init__(self) -> None:
        """Begin with none."""
        self.came: dict[int, Vector] = {}
        self.gone: dict[int, Vector] = {}

    def read(self, client: int, slot: int) -> Vector:
        """Return a copy of a client's vector (P,): Ray's own memory cannot be written to."""
        return np.array(self.came[client], np.float32)

    def write(self, client: int, slot: int, vector: Vector) -> None:
        """Keep a vector (P,) for the way back."""
        self.gone[client] = vector


class Actor:
    """One process on one CPU. What its methods raise is not the client's fault: `build` says what is wrong as text."""

    def build(self, job: Job) -> Place | str:
        """Build model and data, and return where this is, or one line that says why it cannot be done here."""
        where = f"Ray worker {platform.node()}"
        try:
            found = versions()
            for name, version in job.versions.items():
                if found[name] != version:
                    raise ConfigError(
                        f"{name} is {found[name]}, and {version} at the coordinator; {_MEND.get(name, 'install that one')}"
                    )
            _follow(job)
            self._build(job)
        except UserError as error:
            return f"{where}: {one_line(error)}"
        except (
            Exception,
            SystemExit,
        ) as error:  # the user's code, on a machine that may lack what it needs
            return f"{where}: {type(error).__name__}: {one_line(error)}"
        ray: Any = import_module("ray")
        return Place(
            ray.get_runtime_context().get_node_id(), platform.node(), os.getpid()
        )

    def take(self, model: Any) -> None:
        """Take the model of the tasks that follow: a payload, or the State to score."""
        self.model: Any = (
            State(np.array(model.floats), np.array(model.integers))
            if isinstance(model, State)
            else model
        )

    def run(self, parcels: Sequence[Parcel]) -> list[Reply]:
        """Return what came of tasks of different clients, in their order."""
        tasks = [parcel.task for parcel in parcels]
        for name, carried in self.vectors.items():
            carried.came = {
                parcel.task.client: parcel.vectors[name]
                for parcel in parcels
                if name in parcel.vectors
            }
            carried.gone = {}
        outcomes = {
            outcome.client: outcome for outcome in self.engine.run(tasks, self.model)
        }
        return [Reply(outcomes[t.client], self._gone(t.client)) for t in tasks]

    def score(self, parts: Sequence[int]) -> list[Score]:
        """Return the scores of the model on parts of the held-out samples."""
        return [self.engine.runner.score(part, self.model) for part in parts]

    def _gone(self, client: int) -> dict[str, Vector]:
        """Return the vectors that a client left, by name."""
        return {
            name: carried.gone[client]
            for name, carried in self.vectors.items()
            if client in carried.gone
        }

    def _build(self, job: Job) -> None:
        keep_pages()
        local = local_of(job.brief, 0, "auto")
        if divided(local.population) != job.partition:
            raise ConfigError(
                "the data is divided among its clients in another way than at the coordinator: it is not the same data"
            )
        if digest(local.initial) != job.initial:
            raise ConfigError(
                "the first model has other values than at the coordinator: the same code draws other numbers here"
            )
        app = None
        if job.app or job.mods:
            from fedlearn.engine import (
                apps,  # it imports Flower, which is needed for nothing else here
            )

            app = apps.load(job.app, job.mods)
        self.vectors = {name: Carried() for name in job.vectors}
        self.engine = Serial(
            Runner(
                local.module,
                local.layout,
                local.population,
                local.seed,
                local.holdout,
                app=app,
                vectors=self.vectors,
            )
        )


def divided(data: Population) -> str:
    """Return what tells one division of data among clients from another."""
    partition = getattr(data.clients, "partition", None)
    return (
        partition.sha256() if partition is not None else f"{len(data.clients)} clients"
    )


def versions() -> dict[str, str]:
    """Return what has to be the same everywhere for the same bits."""
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "fedlearn": fedlearn.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
    }


def _follow(job: Job) -> None:
    """Find modules and files where the coordinator finds them, as far as this machine has them."""
    if os.path.isdir(job.folder):
        os.chdir(job.folder)
    sys.path += [
        path for path in job.path if path not in sys.path and os.path.exists(path)
    ]
