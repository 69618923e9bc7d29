"""Well-formed answers that lie, through whole runs: ``python -m tests.wire.answers --count N``.

Three of ten clients change what they answer: header, metrics, values, buffers, counters and
evaluations, each at its extremes, encoded as the run's codec asks and sealed. Each answer goes
the way of a real one: the check before it is stored, the receiver, the strategy, the
evaluation, the record and the checkpoint. No run may end by one.

A run depends on the seed and its number alone: ``--seed S --first I --count 1`` repeats it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedlearn import config
from fedlearn.arrays import Layout, State
from fedlearn.engine.protocol import Engine, Layer
from fedlearn.engine.questions import Question, parse_metrics
from fedlearn.engine.task import Held, Outcome, Task
from fedlearn.errors import FedlearnError, PayloadError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.layers import Site, Stack
from fedlearn.runs.simulation import simulate
from fedlearn.wire import GRADIENT, UPDATE, decode, encode, payload_pb2
from tests.wire.mutate import WORDS, sealed

ROUNDS = 40
CLIENTS = 10
LIARS = 3
ANSWERS = ROUNDS * LIARS
"""Mutated trainings of a run; evaluations come besides."""

FLOWER = "flwr.serverapp.strategy:"
STRATEGIES = (
    'name = "fedavg"',
    'name = "fedavg"\nweighted = false\nserver_momentum = 0.9',
    'name = "fedprox"\nproximal_mu = 0.1',
    'name = "minibatch-sgd"',
    'name = "minibatch-sgd"\ngroups = 4',
    f'name = "{FLOWER}FedAvg"',
    f'name = "{FLOWER}FedMedian"',
    f'name = "{FLOWER}FedTrimmedAvg"\nbeta = 0.2',
    f'name = "{FLOWER}Krum"\nnum_malicious_nodes = 3',
    f'name = "{FLOWER}MultiKrum"\nnum_malicious_nodes = 3\nnum_nodes_to_select = 4',
    f'name = "{FLOWER}Bulyan"\nnum_malicious_nodes = 1',
    f'name = "{FLOWER}QFedAvg"\nclient_learning_rate = 0.2\ntrain_loss_key = "train_loss"',
    f'name = "{FLOWER}FedAvgM"\nserver_momentum = 0.5',
    f'name = "{FLOWER}FedAdam"\neta = 0.01',
    f'name = "{FLOWER}FedYogi"\neta = 0.01',
    f'name = "{FLOWER}FedAdagrad"\neta = 0.01',
)
# These move a model's buffers as they move its weights, so theirs has none.
WITHOUT_BUFFERS = ("FedAvgM", "FedAdam", "FedYogi", "FedAdagrad", "QFedAvg")
CODECS = (
    *("raw32", "q8", "q4", "sign", "q4c", "f16"),
    *("topk(0.1)+q8", "ef+topk(0.05)+tern", "randk(0.2)+q8", "eden1", "ef+eden1"),
)
CONFIG = f"""\
[experiment]
name = "answers"
rounds = {ROUNDS}
evaluate_every = 8
[data]
name = "digits"
[data.partition]
kind = "dirichlet"
alpha = 1.0
clients = {CLIENTS}
[model]
name = "MODEL"
[train]
lr = 0.2
batch_size = 20
steps = 1
[strategy]
fraction_train = 1.0
STRATEGY
[codec]
up = "CODEC"
[engine]
kind = "serial"
[evaluate]
clients = EVALUATE
"""

SCALES = (0.0, -0.0, -1.0, -3.0, -100.0, 1e-30, 1e3, 1e6, 1e9, 1e20, 3e37)
FLOATS = (0.0, -1.0, -1e-3, 1e3, -1e6, 1e12, -3e38, 3e38, 1e-45)
NUMBERS = (
    *(0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 10**99, -(10**100), 10**300),
    *(0.5, -0.0, 1e-308, 1e99, -1e100, 1.7e308, math.nan, math.inf, -math.inf),
)
NAMES = (
    *("", "a", "num-examples", "train_loss", "loss", "accuracy", "failed", "clients"),
    *("\x1b[2J", "line\nbreak", "ü中", "__class__", "x" * 200, "x" * 201, "a/b", "{}"),
)


class Normed(nn.Module):
    """A model with everything that a buffer can be."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(math.prod(input_shape), 8)
        self.norm = nn.BatchNorm1d(8, momentum=None)
        self.last = nn.Linear(8, classes)
        self.register_buffer("flag", torch.tensor([True]))
        self.register_buffer("level", torch.tensor([200], dtype=torch.uint8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.last(
            torch.relu(self.norm(self.first(x.flatten(1))))
        )
        return scores


Draw = random.Random
Mutation = Callable[[Draw, payload_pb2.Payload], None]


def examples(draw: Draw, message: payload_pb2.Payload) -> None:
    message.examples = draw.choice((*WORDS, 2**32, 2**32 + 1, 10**6, 60))


def loss(draw: Draw, message: payload_pb2.Payload) -> None:
    bits = struct.pack("<f", draw.choice((*FLOATS, math.nan, math.inf)))
    message.train_loss = struct.unpack("<f", bits)[0]


def metrics(draw: Draw, message: payload_pb2.Payload) -> None:
    for _ in range(draw.choice((1, 1, 2, 3, 40))):
        count = draw.choice((0, 1, 1, 1, 2, 5))
        message.metrics.add(
            name=draw.choice(NAMES),
            values=[float(draw.choice(NUMBERS)) for _ in range(count)],
            whole=draw.random() < 0.3,
            list=draw.random() < 0.3,
        )


def header(draw: Draw, message: payload_pb2.Payload) -> None:
    name = draw.choice(("seed", "residual", "kind", "version", "base_digest"))
    values = {"residual": (0, 1, 2), "kind": (2, 3), "version": (0, 1, 2**32 - 1)}
    setattr(message, name, draw.choice(values.get(name, WORDS)))


def buffers(draw: Draw, message: payload_pb2.Payload) -> None:
    values = np.frombuffer(message.buffers, "<f4").copy()
    if values.size:
        places = slice(draw.randrange(values.size), None)
        values[places] = np.float32(draw.choice(FLOATS))
        message.buffers = values.tobytes()


def integers(draw: Draw, message: payload_pb2.Payload) -> None:
    values = np.frombuffer(message.integers, "<i8").copy()
    if values.size:
        places = draw.randrange(values.size)
        extremes = (-(2**63), 2**63 - 1, -1, 1, 55, 56, -201, 2**32, 2**40, -(2**32))
        values[places] = draw.choice(extremes)
        message.integers = values.tobytes()


IN_MESSAGE: tuple[Mutation, ...] = (
    *(examples, loss, metrics, header, buffers, integers),
)


def values(draw: Draw, update: State) -> State:
    """Return an update with other values."""
    floats = update.floats.astype(np.float64)
    way = draw.randrange(4)
    if way == 0:
        floats *= draw.choice(SCALES)
    elif way == 1:
        floats[:] = draw.choice(FLOATS)
    elif way == 2:
        floats[draw.randrange(floats.size)] = draw.choice(FLOATS)
    else:
        noise = np.random.default_rng(draw.randrange(2**32))
        floats = noise.normal(0, abs(draw.choice(SCALES)), floats.size)
    with np.errstate(over="ignore"):
        return State(floats.astype(np.float32), update.integers)


def mutated(draw: Draw, layout: Layout, payload: bytes) -> bytes:
    """Return another sound answer in the place of one."""
    if draw.random() < 0.5:
        try:
            header, change = decode(layout, payload, (UPDATE, GRADIENT))
            payload = encode(layout, header, values(draw, change.dense()))
        # The codec cannot carry such values, or needs what only the run knows.
        except PayloadError:
            pass
    message = payload_pb2.Payload.FromString(payload)
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        draw.choice(IN_MESSAGE)(draw, message)
    message.ClearField("checksum")
    return sealed(message.SerializeToString(deterministic=True))


def evaluation(draw: Draw, honest: dict[str, Any]) -> bytes:
    """Return another evaluation in the place of one, as JSON."""
    for _ in range(draw.choice((1, 2, 3))):
        name = draw.choice((*NAMES, "loss", "accuracy", "num-examples"))
        honest[name] = draw.choice((*NUMBERS, 10**400, [1], None, True, "1"))
    return json.dumps(honest).encode()


class Lying(Layer):
    """An engine some of whose clients answer something else, checked as a fleet's answers."""

    def __init__(self, inner: Engine, layout: Layout, draw: Draw) -> None:
        """Take the engine and the source of lies."""
        super().__init__(inner)
        self.layout = layout
        self.draw = draw
        self.lies = 0
        self.stored = 0

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task."""
        liars = self.draw.sample(range(CLIENTS), LIARS)
        by_client = {task.client: task for task in tasks}
        for outcome in self.inner.run(tasks, payload):
            if outcome.client in liars and outcome.error is None:
                yield self._lie(by_client[outcome.client], outcome)
            else:
                yield outcome

    def _lie(self, task: Task, outcome: Outcome) -> Outcome:
        self.lies += 1
        if task.kind == "train":
            data = mutated(self.draw, self.layout, bytes(outcome.payload or b""))
        else:
            data = evaluation(self.draw, dict(outcome.metrics))
        assert outcome.base is not None
        none = State(np.empty(0, np.float32), np.empty(0, np.int64))
        held = Held(outcome.base, none, 0)
        key = (task.plan.round, task.kind, 0)
        fault = Question(task, key, held, pb.Task(), ()).fault(data)
        if fault is not None:
            return replace(outcome, payload=None, metrics={}, error=fault)
        self.stored += 1
        if task.kind == "train":
            return replace(outcome, payload=data)
        return replace(outcome, metrics=parse_metrics(data) or {})


@dataclass(frozen=True)
class Told:
    """What came of a run: lies, those that were stored, and why it ended too early."""

    lies: int
    stored: int
    fault: str


def run(seed: int, number: int) -> Told:
    """Return what comes of one run."""
    draw = Draw(f"{seed}/{number}")
    pairs = list(itertools.product(STRATEGIES, CODECS))
    strategy, codec = pairs[number * 37 % len(pairs)]
    model = "tests.wire.answers:Normed"
    if draw.random() < 0.3 or any(name in strategy for name in WITHOUT_BUFFERS):
        model = "logistic"
    text = CONFIG.replace("MODEL", model).replace("STRATEGY", strategy)
    evaluates = "true" if draw.random() < 0.5 else "false"
    text = text.replace("CODEC", codec).replace("EVALUATE", evaluates)
    layers: list[Lying] = []

    def watch(stack: Stack, site: Site) -> Stack:
        layers.append(Lying(stack.engine, site.parts.layout, draw))
        return replace(stack, engine=layers[0])

    fault = ""
    with tempfile.TemporaryDirectory(prefix="answers-") as place:
        file = Path(place) / "c.toml"
        file.write_text(text)
        try:
            with (
                closing(RunFolder(Path(place) / "run")) as folder,
                Progress(True) as display,
            ):
                experiment = config.read(str(file), [])
                simulate(experiment, folder, display, watch=watch)
                rounds = len(folder.lines())
                assert rounds == ROUNDS + 1, f"{rounds} lines"
        except FedlearnError as error:
            fault = f"{type(error).__name__}: {error}"
        # Whatever it is, it is a fault, and the other runs are to go on.
        except Exception as error:
            fault = f"unforeseen {type(error).__name__}: {error}"
    if fault:
        fault = f"run {number} ({strategy!r}, {codec}, {model}): {fault}"
    lies = layers[0].lies if layers else 0
    stored = layers[0].stored if layers else 0
    return Told(lies, stored, fault)


def runs(seed: int, first: int, count: int) -> Iterator[Told]:
    """Yield what comes of each run, where a warning is a fault too."""
    torch.set_num_threads(1)
    for number in range(first, first + count):
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            yield run(seed, number)


def main() -> int:
    """Run the command; the exit code is 1 when a run ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="answers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    lies = 0
    stored = 0
    faults = 0
    count = -(-arguments.count // ANSWERS)
    for number, told in enumerate(runs(arguments.seed, arguments.first, count), 1):
        lies += told.lies
        stored += told.stored
        if told.fault:
            faults += 1
            print(told.fault, flush=True)
        if number % 50 == 0:
            print(f"{number} of {count} runs, {lies:,} answers", flush=True)
    seconds = time.perf_counter() - begun
    print(
        f"{lies:,} answers in {seconds:.0f} s, {stored:,} of them stored; "
        f"{faults} runs ended by one"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
