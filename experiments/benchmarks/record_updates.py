"""Record real updates and model differences for the codec benchmark.

python -m fedlearn.experiments.benchmarks.record_updates OUT [--only NAME …]

Each workload is a shipped experiment, run with plain FedAvg and no compression. At three rounds
it leaves a recording OUT/NAME-early.npz, -middle.npz and -late.npz with, for P float values of
the model:

w0      (P,) float32  the first model, which every client can make from the seed
model   (P,) float32  the model of this round
start   (P,) float32  the model that the client trained from (equal to ``model``: nothing is
                      compressed)
update  (P,) float32  what one client of the round learned: the one whose number of samples is
                      nearest the median
copy    (P,) float32  the model that such a client holds, which took part ``gap`` rounds ago
shapes  text          JSON list of [name, shape], the float tensors in order
round   int           counted from 1
gap     int           1 / fraction_train, but of the rounds before this one the second at the
                      earliest: the first has w0, and a client that holds w0 knows of no
                      movement. A recording of round 2 has no other (lstm-char-early).

So the gaps, early, middle and late, are 1, 10, 10 for the 2NNs, 1, 8, 10 for both CNNs, 1, 4, 8
for lstm-char and 1, 2, 2 for lstm-watch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Layout, State
from fedlearn.clients.batches import tensors
from fedlearn.clients.train import train
from fedlearn.commands.arguments import Parser, ended
from fedlearn.config import Experiment, read
from fedlearn.data.registry import population
from fedlearn.engine.runner import single_thread
from fedlearn.errors import ConfigError, DataError
from fedlearn.models import build, layout, read_state
from fedlearn.names import nearest
from fedlearn.strategies.aggregate import ExactSum
from fedlearn.strategies.cohorts import cohort_size, uniform
from fedlearn.strategies.plans import plan

STAGES = ("early", "middle", "late")


@dataclass(frozen=True)
class Workload:
    """A shipped experiment, what is set differently, and the rounds to record."""

    experiment: str
    rounds: tuple[int, int, int]
    overrides: tuple[str, ...] = ()


WORKLOADS = {
    "2nn-iid": Workload("mnist-2nn-iid", (3, 20, 60)),
    "2nn-shards": Workload("mnist-2nn-shards", (3, 20, 60)),
    # The experiment's cosine schedule ends in round 60 with steps of length 0.
    "lstm-watch": Workload("watch-lstm", (3, 20, 60), ("train.schedule='constant'",)),
    "cnn-small": Workload("default", (3, 10, 25)),
    "cnn": Workload("mnist-2nn-iid", (3, 10, 25), ("model.name='cnn'",)),
    # 10 of 1,281 roles, or a round would take many minutes.
    "lstm-char": Workload(
        "shakespeare-lstm", (2, 6, 10), ("strategy.clients_per_round=10",)
    ),
}


@dataclass(frozen=True)
class Round:
    """One round before the server steps: its model, and what its client of ordinary size
    learned, (P,) float32.
    """

    number: int
    model: State
    update: NDArray[np.float32]
    seconds: float


def rounds(experiment: Experiment, momentum: float) -> Iterator[tuple[Layout, Round]]:
    """Yield the rounds of FedAvg without end; ``momentum``: the server's. Raises ClientError
    when training diverges.
    """
    seed, options = experiment.experiment.seed, experiment.strategy.options
    people = population(
        experiment.data.name,
        experiment.data.options,
        experiment.data.partition.model_dump(exclude_none=True),
        seed,
    )
    module = build(
        experiment.model.name,
        experiment.model.options,
        input_shape=people.input_shape,
        classes=people.classes,
        seed=seed,
        modality=people.modality,
    )
    order = layout(module)
    model, velocity = read_state(module, order), np.zeros(order.floats)
    size = cohort_size(
        len(people.clients),
        options.get("fraction_train", 0.1),
        options.get("clients_per_round", 0),
    )
    for number in itertools.count(1):
        begun = time.perf_counter()
        asked = plan(experiment, number, {})
        cohort = uniform(range(len(people.clients)), size, seed, number, 0)
        ordinary = _ordinary([people.clients.size(client) for client in cohort])
        total = ExactSum(order.floats, order.integers, size)
        for place, client in enumerate(cohort):
            learned = train(
                module,
                order,
                asked,
                model,
                tensors(people.clients[client], people.modality),
                client,
            )
            total.add(learned.difference, learned.examples)
            if place == ordinary:
                update = learned.difference.floats
        yield order, Round(number, model, update, time.perf_counter() - begun)
        mean, integers = total.mean()
        velocity = momentum * velocity + mean
        model = State(
            (model.floats + velocity).astype(np.float32), model.integers + integers
        )


def _ordinary(sizes: list[int]) -> int:
    """Return the place of the size nearest the median; the first of several."""
    return int(np.argmin(np.abs(np.array(sizes) - np.median(sizes))))


def record(
    name: str, workload: Workload, out: Path, momentum: float = 0.0
) -> Iterator[str]:
    """Write the recordings of one workload; yields a line of text per round."""
    experiment = read(workload.experiment, workload.overrides)
    gap = round(1 / experiment.strategy.options.get("fraction_train", 0.1))
    history: dict[int, NDArray[np.float32]] = {}
    for order, done in rounds(experiment, momentum):
        history[done.number] = done.model.floats
        text = f"{name}: round {done.number} of {workload.rounds[-1]}, {done.seconds:.1f} s"
        if done.number in workload.rounds:
            last = copied(done.number, gap)
            path = out / f"{name}-{STAGES[workload.rounds.index(done.number)]}.npz"
            write(path, order, history[1], done, history[last], done.number - last)
            text += f" -> {path}, the copy {done.number - last} rounds old"
        yield text
        if done.number == workload.rounds[-1]:
            return
        history = {k: v for k, v in history.items() if k <= 2 or k > done.number - gap}


def copied(number: int, gap: int) -> int:
    """Return the round whose model is the copy of a recording of round ``number``: see the
    module's text.
    """
    return max(1, min(max(2, number - gap), number - 1))


def write(
    path: Path,
    order: Layout,
    w0: NDArray[np.float32],
    done: Round,
    copy: NDArray[np.float32],
    gap: int,
) -> None:
    """Write one recording; the file appears under its name only when it is whole."""
    part = path.with_suffix(".part")
    shapes = json.dumps([[e.name, e.shape] for e in order.entries if e.is_float])
    model = done.model.floats
    with part.open("wb") as file:
        np.savez(
            file,
            w0=w0,
            start=model,
            update=done.update,
            copy=copy,
            model=model,
            shapes=shapes,
            round=done.number,
            gap=gap,
        )
    part.replace(path)


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    p = Parser(
        prog="python -m fedlearn.experiments.benchmarks.record_updates",
        description=(
            "Train shipped workloads without compression, and record updates "
            "and model differences for the codec benchmark."
        ),
    )
    p.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="folder for the recordings, NAME-{early,middle,late}.npz",
    )
    p.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help=f"a workload; may be repeated ({', '.join(WORKLOADS)})",
    )
    p.add_argument(
        "--momentum",
        type=float,
        default=0.0,
        metavar="M",
        help="server momentum, 0 or more and below 1 (default: 0)",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.momentum < 1:
        raise ConfigError(
            f"--momentum {arguments.momentum:g}: it is 0 or more and below 1"
        )
    names = arguments.only or list(WORKLOADS)
    for name in names:
        if name not in WORKLOADS:
            raise ConfigError(
                f"--only {name}: no such workload.{nearest(name, WORKLOADS)} Known: "
                f"{', '.join(WORKLOADS)}"
            )
    if arguments.out.exists() and not arguments.out.is_dir():
        raise ConfigError(f"{arguments.out} is a file; name a folder")
    arguments.out.mkdir(parents=True, exist_ok=True)
    single_thread()
    for name in names:
        try:
            for line in record(
                name, WORKLOADS[name], arguments.out, arguments.momentum
            ):
                print(line, flush=True)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
