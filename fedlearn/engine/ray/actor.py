"""The process on one of Ray's CPUs: it has its own model and data, and works on tasks.

Legend: P floats of the model's layout.
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
from fedlearn.clients.local import Local
from fedlearn.data.samples import Population
from fedlearn.engine.runner import Runner
from fedlearn.engine.serial import Serial
from fedlearn.engine.task import Outcome, Task
from fedlearn.errors import ConfigError, reason_of
from fedlearn.memory.vectors import ClientVectors
from fedlearn.system.malloc import keep_pages
from fedlearn.wire import digest

Vector = NDArray[np.float32]

# How to make `versions` equal, where installing another version does not.
_REMEDIES = {
    "CPU capability": "set ATEN_CPU_CAPABILITY to the lesser of the two everywhere"
}


@dataclass(frozen=True)
class ActorSetup:
    """What an actor needs to build the model and data that the coordinator has."""

    brief: Brief
    # Import paths of ``[client]``; "" and () for our own training.
    app: str
    mods: tuple[str, ...]
    # What the app is told; see `apps.AppConfig`.
    run_config: Mapping[str, Any]
    node_config: Mapping[str, Any]
    # Names of the vectors that clients keep: these travel with tasks.
    vectors: tuple[str, ...]
    # See `divided`.
    partition: str
    # The digest of the first model.
    initial: bytes
    # See `versions`.
    versions: Mapping[str, str]
    # Where the coordinator imports from: the user's modules may lie there.
    path: tuple[str, ...]
    # Where it was started: paths in a config may be relative.
    folder: str


@dataclass(frozen=True)
class ActorPlace:
    """Where an actor runs."""

    # Ray's id of the machine.
    node: str
    host: str
    pid: int


@dataclass(frozen=True)
class Parcel:
    """A task, with the vectors (P,) that its client keeps on the coordinator's disk."""

    task: Task
    vectors: Mapping[str, Vector] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An outcome, with the vectors (P,) that its client keeps from now on."""

    outcome: Outcome
    vectors: Mapping[str, Vector] = field(default_factory=dict)


class CarriedVectors(ClientVectors):
    """Vectors of a few clients in memory, in the place of the coordinator's file."""

    def __init__(self) -> None:
        """Begin with none."""
        # By client: as they came with the tasks.
        self.before: dict[int, Vector] = {}
        # By client: as they go back with the replies.
        self.after: dict[int, Vector] = {}

    def read(self, client: int, slot: int) -> Vector:
        """Return a copy of a client's vector (P,)."""
        # Ray's own memory cannot be written to.
        return np.array(self.before[client], np.float32)

    def write(self, client: int, slot: int, vector: Vector) -> None:
        """Keep a vector (P,) for the way back."""
        self.after[client] = vector


class Actor:
    """One process on one CPU; Ray calls its methods.

    `build` returns as text what the user can mend. An error of another method is not the
    fault of a client: those are outcomes.
    """

    def build(self, setup: ActorSetup) -> ActorPlace | str:
        """Build model and data, and return where this is, or one line on why it cannot."""
        worker = f"Ray worker {platform.node()}"
        try:
            _check_versions(setup.versions)
            _follow(setup)
            self._build(setup)
        except (Exception, SystemExit) as error:
            # The user's code, on a machine that may lack what it needs.
            return f"{worker}: {reason_of(error)}"
        ray: Any = import_module("ray")
        node = ray.get_runtime_context().get_node_id()
        return ActorPlace(node, platform.node(), os.getpid())

    def take(self, model: Any) -> None:
        """Take the model of the tasks that follow: a payload, or the State to score."""
        self.model: Any = model
        if isinstance(model, State):
            # Copies: Ray's own memory cannot be written to.
            self.model = State(np.array(model.floats), np.array(model.integers))

    def run(self, parcels: Sequence[Parcel]) -> list[Reply]:
        """Return the replies of tasks of different clients, in their order."""
        for name, carried in self.vectors.items():
            carried.after = {}
            carried.before = {
                parcel.task.client: parcel.vectors[name]
                for parcel in parcels
                if name in parcel.vectors
            }
        # Outcomes come in any order.
        tasks = [parcel.task for parcel in parcels]
        outcomes = {
            outcome.client: outcome for outcome in self.engine.run(tasks, self.model)
        }
        replies = []
        for task in tasks:
            vectors = self._written(task.client)
            replies.append(Reply(outcomes[task.client], vectors))
        return replies

    def score(self, parts: Sequence[int]) -> list[Score]:
        """Return the scores of the model on parts of the held-out samples."""
        return [self.engine.runner.score(part, self.model) for part in parts]

    def _written(self, client: int) -> dict[str, Vector]:
        """Return the vectors that a client wrote, by name."""
        return {
            name: carried.after[client]
            for name, carried in self.vectors.items()
            if client in carried.after
        }

    def _build(self, setup: ActorSetup) -> None:
        keep_pages()
        local = local_of(setup.brief, 0, "auto")
        _check_same(local, setup)
        app = None
        if setup.app or setup.mods:
            # It imports Flower, which nothing else here needs.
            from fedlearn.engine import apps

            config = apps.AppConfig(setup.run_config, setup.node_config)
            app = apps.load(setup.app, setup.mods, config)
        self.vectors = {name: CarriedVectors() for name in setup.vectors}
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
    if partition is None:
        return f"{len(data.clients)} clients"
    return str(partition.sha256())


def versions() -> dict[str, str]:
    """Return what has to be the same everywhere for the same bits."""
    return {
        # Patch releases do not change what a run computes.
        "python": ".".join(platform.python_version_tuple()[:2]),
        "fedlearn": fedlearn.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
    }


def _check_versions(coordinator: Mapping[str, str]) -> None:
    """Raise ConfigError where versions are not the coordinator's."""
    installed = versions()
    for name, version in coordinator.items():
        if installed[name] != version:
            remedy = _REMEDIES.get(name, "install that one")
            raise ConfigError(
                f"{name} is {installed[name]}, and {version} at the coordinator; "
                f"{remedy}"
            )


def _check_same(local: Local, setup: ActorSetup) -> None:
    """Raise ConfigError where data or first model are not the coordinator's."""
    if divided(local.population) != setup.partition:
        raise ConfigError(
            "the data is divided among its clients in another way than at the "
            "coordinator: it is not the same data"
        )
    if digest(local.initial) != setup.initial:
        raise ConfigError(
            "the first model has other values than at the coordinator: "
            "the same code draws other numbers here"
        )


def _follow(setup: ActorSetup) -> None:
    """Find modules and files where the coordinator does, as far as this machine has them."""
    if os.path.isdir(setup.folder):
        os.chdir(setup.folder)
    # Behind this machine's own paths, which have its fedlearn.
    sys.path += [
        path for path in setup.path if path not in sys.path and os.path.exists(path)
    ]
