"""Four workloads that stand for what people simulate, and what each costs in floating-point
operations.

W1  a small CNN on 8x8 digits: 20 of 100 clients, 18 samples each, batches of 10. So little work
    that calls cost more than arithmetic
W2  McMahan's CNN: 10 of 100 clients, 60 samples each, batches of 10. Convolutions and one large
    dense layer
W3  two LSTM layers over characters: 10 of 100 clients, 32 lines of 80 characters each, batches
    of 8
W4  one LSTM layer over a sensor's series: 20 of 100 clients, 100 windows of 128 steps and 6
    channels each, batches of 16

W1 has real digits, the others noise of the right shape, for time does not depend on values. One
epoch, plain SGD, float32.

Legend: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlearn import config
from fedlearn.data.images import digits
from fedlearn.data.samples import Population, Samples
from fedlearn.devices.flops import count
from fedlearn.models import build

CLIENTS = 100
HELD_OUT = 100
HERE = "fedlearn.experiments.benchmarks.workloads"


@dataclass(frozen=True)
class Workload:
    """What a round has to do: so many of 100 clients train the model for one epoch."""

    name: str
    model: str
    cohort: int
    batch_size: int
    population: Callable[[], Population]

    def experiment(self, rounds: int, **changes: Any) -> config.Experiment:
        """Return the workload as an experiment. changes: tables of the config, merged into it."""
        table: dict[str, Any] = {
            "experiment": {
                "name": self.name.lower(),
                "rounds": rounds,
                "evaluate_every": rounds,
            },
            "data": {"name": f"{HERE}:{self.population.__name__}"},
            "model": {"name": self.model},
            "train": {"batch_size": self.batch_size, "lr": 0.05},
            "strategy": {"clients_per_round": self.cohort, "server_momentum": 0.0},
        }
        for section, keys in changes.items():
            table[section] = table.get(section, {}) | keys
        return config.validate(table, self.name)

    def flops(self) -> float:
        """Return the operations of a round's local training."""
        data = self.population()
        module = build(
            self.model,
            {},
            input_shape=data.input_shape,
            classes=data.classes,
            seed=0,
            modality=data.modality,
        )
        each = count(module, data.input_shape, data.modality == "text").training
        return each * self.cohort * len(data.clients[0])


class Shares:
    """Samples in equal shares; the first clients have one more where they do not divide."""

    def __init__(self, samples: Samples) -> None:
        """Cut the samples."""
        self.parts = np.array_split(np.arange(len(samples)), CLIENTS)
        self.samples = samples

    def __len__(self) -> int:
        """Return the number of clients."""
        return CLIENTS

    def size(self, client: int) -> int:
        """Return a client's number of samples."""
        return len(self.parts[client])

    def __getitem__(self, client: int) -> Samples:
        """Return a client's samples."""
        return self.samples.take(self.parts[client])


def small_digits() -> Population:
    """Return the digits of W1, (1, 8, 8)."""
    found = digits()
    parts = [
        np.concatenate([getattr(found.train, name), getattr(found.test, name)])
        for name in "xy"
    ]
    every = Samples(*parts)
    return Population(
        "digits", "image", 10, (1, 8, 8), Shares(every), every.take(np.arange(HELD_OUT))
    )


def pictures() -> Population:
    """Return the noise of W2, (1, 28, 28)."""
    random = np.random.default_rng(0)
    count = 60 * CLIENTS
    x, y = (
        random.integers(0, 256, (count, 1, 28, 28), np.uint8),
        random.integers(0, 10, count),
    )
    return _population("pictures", "image", 10, (1, 28, 28), x, y)


def lines() -> Population:
    """Return the noise of W3: 80 characters of an alphabet of 90."""
    random = np.random.default_rng(0)
    x, y = (random.integers(0, 90, (32 * CLIENTS, 80)) for _ in range(2))
    return _population(
        "lines", "text", 90, (80,), x.astype(np.uint8), y.astype(np.int16)
    )


def series() -> Population:
    """Return the noise of W4, (128, 6)."""
    random = np.random.default_rng(0)
    count = 100 * CLIENTS
    x, y = (
        random.standard_normal((count, 128, 6), np.float32),
        random.integers(0, 6, count),
    )
    return _population("series", "series", 6, (128, 6), x, y)


def _population(
    name: str, modality: Any, classes: int, shape: tuple[int, ...], x: Any, y: Any
) -> Population:
    samples = Samples(x, y)
    return Population(
        name,
        modality,
        classes,
        shape,
        Shares(samples),
        samples.take(np.arange(HELD_OUT)),
    )


WORKLOADS = {
    each.name: each
    for each in (
        Workload("W1", "cnn-small", 20, 10, small_digits),
        Workload("W2", "cnn", 10, 10, pictures),
        Workload("W3", "lstm-char", 10, 8, lines),
        Workload("W4", "lstm-sensor", 20, 16, series),
    )
}
