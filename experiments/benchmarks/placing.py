"""A trace recorded from real servers, and what ways of choosing would have come to on it.

python -m fedlearn.experiments.benchmarks.placing MODEL.onnx OUT.csv [--seconds S]

A centre serves the model in a process of its own, behind a relay that delays all bytes and
goes dead for a fifth of the time. Every request is asked of the centre and computed here,
so that the trace has both times. The device is taken to be ``--slower`` times as slow as
this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedlearn.clients.infer.model import ServedModel, load
from fedlearn.clients.infer.tensors import Array
from fedlearn.clients.infer.upstream import Upstream, UpstreamAddress, UpstreamError
from fedlearn.clients.placement import replay, traces
from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import RunError

RATE = 20.0
TURN_S = 0.004

# Shares of the time between which the link is dead.
DEAD = (0.4, 0.6)

TIMEOUT_S = 1.0


@dataclass
class Relay:
    """A link to a port: bytes come later by half of a turn, or not at all."""

    port: int
    is_dead: bool = False

    async def connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry one connection's bytes both ways, until it ends."""
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        ways = [self._carry(reader, far_writer), self._carry(far_reader, writer)]
        # The benchmark's end ends what is still connected.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await asyncio.sleep(TURN_S / 2)
                if not self.is_dead:
                    writer.write(data)
        writer.close()


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(prog="placing", description="A trace of real servers, replayed.")
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--slower", type=float, default=100.0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    with serving(arguments.model) as port:
        rows = asyncio.run(recorded(arguments, port))
    columns = np.array(sorted(rows)).T
    trace = traces.Trace(
        columns[0],
        columns[1].astype(np.int64),
        *(columns[place] for place in range(2, 6)),
    )
    traces.write(arguments.out, trace)
    best_s = replay.hindsight_s(trace)
    print("| way | mean ms | of best |\n|---|---|---|")
    for name, chooser in replay.choosers().items():
        outcome = replay.replay(trace, chooser)
        mean_ms = 1e3 * outcome.latency_s.mean()
        print(f"| {name} | {mean_ms:.3f} | {outcome.total_s / best_s:.3f} |")


@contextlib.contextmanager
def serving(model: Path) -> Iterator[int]:
    """Serve a model in a process of its own; gives its port."""
    command = [sys.executable, "-m", "fedlearn", "infer", str(model), "--name", "m"]
    process = subprocess.Popen(
        [*command, "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stderr.readline() if process.stderr else ""
        match = re.search(r":(\d+)\s*$", line)
        if match is None:
            raise RunError(f"the centre does not serve: {line.strip()}")
        yield int(match[1])
    finally:
        process.kill()
        process.wait()


async def recorded(arguments: argparse.Namespace, port: int) -> list[list[float]]:
    """Return a row of `traces.COLUMNS` for each request of the time."""
    model = load(arguments.model)
    shape = [1 if length < 0 else length for length in model.inputs[0].shape]
    inputs = {model.inputs[0].name: np.zeros(shape, model.inputs[0].dtype)}
    relay = Relay(port)
    server = await asyncio.start_server(relay.connected, "127.0.0.1", 0)
    far = server.sockets[0].getsockname()[1]
    upstream = Upstream(UpstreamAddress("127.0.0.1", far, is_secure=False), "m")
    generator = random.Random(0)
    begin = time.perf_counter()
    tasks = []
    while (at_s := time.perf_counter() - begin) < arguments.seconds:
        share = at_s / arguments.seconds
        relay.is_dead = DEAD[0] < share < DEAD[1]
        edge_s = arguments.slower * _computed_s(model, inputs)
        tasks.append(asyncio.create_task(_asked(upstream, inputs, at_s, edge_s)))
        await asyncio.sleep(generator.expovariate(RATE))
    rows = await asyncio.gather(*tasks)
    upstream.close()
    server.close()
    return list(rows)


def _computed_s(model: ServedModel, inputs: dict[str, Array]) -> float:
    # Of this thread alone: what a busy machine adds would be multiplied, too.
    begin = time.thread_time()
    model.run(inputs)
    return time.thread_time() - begin


async def _asked(
    upstream: Upstream, inputs: dict[str, Array], at_s: float, edge_s: float
) -> list[float]:
    """Return a request's row; a link that is dead is infinitely slow."""
    size_bytes = float(sum(tensor.nbytes for tensor in inputs.values()))
    begin = time.perf_counter()
    try:
        answer = await upstream.infer(inputs, TIMEOUT_S)
    except UpstreamError:
        return [at_s, size_bytes, edge_s, TURN_S, 0.0, np.inf]
    transfer_s = max(0.0, time.perf_counter() - begin - answer.service_s)
    return [at_s, size_bytes, edge_s, transfer_s, 0.0, answer.service_s]


if __name__ == "__main__":
    sys.exit(main())
