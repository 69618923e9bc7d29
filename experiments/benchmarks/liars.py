"""What one liar of ten costs, with and without the bounds of ``[strategy]``.

``python -m fedlearn.experiments.benchmarks.liars`` prints a table for docs/strategies.md: the
accuracy without bounds and with the default ones, and how many of the liar's updates were
refused. Ten clients share `digits`; client 0 trains as all do, and then changes its answer.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedlearn import config
from fedlearn.arrays import Layout, State
from fedlearn.engine.protocol import Engine, Layer
from fedlearn.engine.task import Outcome, Task
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.layers import Site, Stack
from fedlearn.runs.simulation import simulate
from fedlearn.wire import GRADIENT, UPDATE, Header, decode, encode

LIAR = 0

CONFIG = """\
[experiment]
name = "liars"
rounds = {rounds}
evaluate_every = {rounds}
[data]
name = "digits"
[data.partition]
kind = "iid"
clients = 10
[model]
name = "logistic"
[train]
lr = 0.5
[strategy]
fraction_train = 1.0
{strategy}
[engine]
kind = "serial"
"""

FEDAVG = 'name = "fedavg"'
FLOWER = 'name = "flwr.serverapp.strategy:FedAvg"'
SGD = 'name = "minibatch-sgd"'

# Every claim and any length counts; a payload itself carries no more examples than this.
UNBOUNDED = ("strategy.max_norm=0", f"strategy.max_examples={2**32}")

Answer = tuple[Header, State]
Lie = Callable[[Header, State], Answer]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    text: str
    lie: Lie
    strategy: str = FEDAVG
    rounds: int = 10


def honest(header: Header, update: State) -> Answer:
    """Return an answer as it is."""
    return header, update


def scaled(factor: float, examples: int | None = None) -> Lie:
    """Return a lie: the update times a factor, and a number of examples."""

    def lie(header: Header, update: State) -> Answer:
        floats = update.floats * np.float32(factor)
        claim = header.examples if examples is None else examples
        return replace(header, examples=claim), State(floats, update.integers)

    return lie


def noise(deviation: float) -> Lie:
    """Return a lie: Gaussian noise in the place of the update."""

    def lie(header: Header, update: State) -> Answer:
        random = np.random.default_rng(header.round)
        floats = random.normal(0, deviation, update.floats.size).astype(np.float32)
        return header, State(floats, update.integers)

    return lie


def constant(value: float) -> Lie:
    """Return a lie: one value in all places."""

    def lie(header: Header, update: State) -> Answer:
        return header, State(np.full_like(update.floats, value), update.integers)

    return lie


def named(value: int) -> Lie:
    """Return a lie: a metric with the name of the weight."""

    def lie(header: Header, update: State) -> Answer:
        return replace(header, metrics={"num-examples": value}), update

    return lie


CASES = (
    Case("no lie", honest),
    Case("zero update, 10¹² examples", scaled(0, 10**12)),
    Case("zero update, 4 × 10⁹ examples", scaled(0, 4 * 10**9)),
    Case("zero update, 2⁶⁴ − 1 examples", scaled(0, 2**64 - 1)),
    Case("own update, 10⁹ examples", scaled(1, 10**9)),
    Case("−3 × update, 10⁶ examples", scaled(-3, 10**6)),
    Case("−3 × update", scaled(-3)),
    Case("−10 × update", scaled(-10)),
    Case("noise of 1", noise(1)),
    Case("noise of 1,000", noise(1e3)),
    Case("noise of 100,000", noise(1e5)),
    Case("all values 10⁷", constant(1e7)),
    Case("Flower's FedAvg: no lie", honest, FLOWER),
    Case("metric `num-examples` = −500", named(-500), FLOWER),
    Case("metric `num-examples` = −1,290", named(-1290), FLOWER),
    Case("`minibatch-sgd`: no lie", honest, SGD, 40),
    Case("−100 × gradient", scaled(-100), SGD, 40),
    Case("`groups = 5`: no lie", honest, f"{SGD}\ngroups = 5", 40),
    Case("−100 × gradient, `groups = 5`", scaled(-100), f"{SGD}\ngroups = 5", 40),
)


class Lying(Layer):
    """An engine in which one client changes its answers."""

    def __init__(self, inner: Engine, layout: Layout, lie: Lie) -> None:
        """Take the engine, and what the liar makes of its answer."""
        super().__init__(inner)
        self.layout = layout
        self.lie = lie

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task."""
        for outcome in self.inner.run(tasks, payload):
            if outcome.client == LIAR and outcome.payload:
                yield replace(outcome, payload=self._payload(outcome.payload))
            else:
                yield outcome

    def _payload(self, payload: bytes | memoryview) -> bytes:
        header, change = decode(self.layout, bytes(payload), (UPDATE, GRADIENT))
        header, update = self.lie(header, change.dense())
        return encode(self.layout, header, update)


def run(case: Case, changes: Sequence[str] = ()) -> tuple[float, int]:
    """Return a case's accuracy at the end, and how many updates were refused.

    changes: of keys of the config.
    """

    def layer(stack: Stack, site: Site) -> Stack:
        lying = Lying(stack.engine, site.parts.layout, case.lie)
        return replace(stack, engine=lying)

    text = CONFIG.format(rounds=case.rounds, strategy=case.strategy)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "c.toml"
        file.write_text(text)
        experiment = config.read(str(file), list(changes))
        with (
            closing(RunFolder(Path(place) / "run")) as folder,
            Progress(True) as display,
        ):
            # Who looks on stands outside of all other layers.
            summary = simulate(experiment, folder, display, watch=layer)
    return summary["accuracy"], summary["failed"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.parse_args()
    print("| client 0 sends | without bounds | by default | refused |")
    print("|---|---|---|---|")
    for case in CASES:
        before, _ = run(case, UNBOUNDED)
        accuracy, failed = run(case)
        shares = f"{100 * before:.1f} % | {100 * accuracy:.1f} %"
        print(f"| {case.text} | {shares} | {failed} of {case.rounds} |", flush=True)


if __name__ == "__main__":
    main()
