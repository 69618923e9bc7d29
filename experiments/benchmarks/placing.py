"""Traces recorded from real servers: a link dies, the load doubles, a device heats.

python -m fedlearn.experiments.benchmarks.placing MODEL.onnx OUT.csv --scene link-dies

A centre serves the model in a process of its own, behind a relay that delays all bytes. The
device is another process, which computes each request ``--slower`` times. Every request goes
to both at once, so that the trace has both times. What changes is real:

- ``link-dies``: the relay carries nothing for two times.
- ``load-doubles``: arrivals double twice, and so do those of other devices at the centre.
- ``device-heats``: the device's process is stopped for a share of every 2 ms, as a hot
  board's clock is.

Times are by the wall's clock, less what the device or this process waited for a core of this
machine: a board has no other jobs. What the centre waits for one counts: it is shared.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.clients.infer.model import ServedModel, load
from fedlearn.clients.infer.tensors import Array
from fedlearn.clients.infer.upstream import Upstream, UpstreamAddress, UpstreamError
from fedlearn.clients.placement import traces
from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import RunError

TIMEOUT_S = 1.0

# A hot device is stopped once in it: far less than a request takes, more than a sleep errs by.
_PERIOD_S = 0.002

# Requests at the beginning that are not recorded: connections are made, and caches filled.
_WARM = 5

# Samples of a request of the centre's other devices, and their requests for one of this.
_OTHERS_SAMPLES = 32
_OTHERS_RATE = 2.0

# How much later than it was due a request may begin, of all but a twentieth.
_LATEST_S = 0.02

# Clock times of the trace are whole microseconds.
_DIGITS = 6


@dataclass(frozen=True)
class Scene:
    """What happens in a recording, by the share of its time that has passed.

    turn_s: the link's. slower: times that the device computes a request. rate: requests a
    second at first. dead: from and to where the link carries nothing. doubles: where the
    load doubles. heats: shares of the time, and how many times as slow the device is then.
    """

    turn_s: float = 0.004
    slower: int = 200
    rate: float = 25.0
    dead: tuple[tuple[float, float], ...] = ()
    doubles: tuple[float, ...] = ()
    heats: tuple[tuple[float, float], ...] = ((0.0, 1.0),)

    def is_dead(self, share: float) -> bool:
        """Tell whether the link carries nothing."""
        return any(begin < share < end for begin, end in self.dead)

    def speed(self, share: float) -> float:
        """Return the share of its speed that the device still has."""
        shares, factors = zip(*self.heats, strict=True)
        return 1.0 / float(np.interp(share, shares, factors))


SCENES = {
    "link-dies": Scene(dead=((0.3, 0.5), (0.7, 0.75))),
    "load-doubles": Scene(turn_s=0.008, doubles=(0.33, 0.67)),
    "device-heats": Scene(
        turn_s=0.005,
        slower=120,
        heats=((0.0, 1.0), (0.2, 1.0), (0.4, 3.0), (0.7, 3.0), (0.8, 1.0)),
    ),
}


@dataclass
class Relay:
    """A link to a port: bytes come later by half of a turn, or not at all."""

    port: int
    turn_s: float
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
                await asyncio.sleep(self.turn_s / 2)
                if not self.is_dead:
                    writer.write(data)
        writer.close()


@dataclass
class Device:
    """The device's process, and the seconds that its requests took, by their number."""

    connection: Connection
    speed: Any
    durations_s: dict[int, float] = field(default_factory=dict)

    def answered(self) -> None:
        """Take the answers that have come."""
        while self.connection.poll():
            number, duration_s = self.connection.recv()
            self.durations_s[number] = duration_s

    async def whole(self, count: int) -> list[float]:
        """Return the seconds of so many requests, once all are computed."""
        while len(self.durations_s) < count:
            await asyncio.sleep(0.05)
        return [self.durations_s[number] for number in range(count)]


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(prog="placing", description="A trace of real servers, recorded.")
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--scene", choices=SCENES, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals")
    parser.add_argument("--seconds", type=float, default=24.0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    scene = SCENES[arguments.scene]
    with (
        serving(arguments.model) as port,
        computing(arguments.model, scene) as device,
        others(arguments.model, port, scene) as rate,
    ):
        recording = _Recording(arguments, scene, device, rate)
        trace = asyncio.run(recording.trace(port))
    traces.write(arguments.out, trace)
    print(f"{len(trace)} requests in {arguments.out}")


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


@contextlib.contextmanager
def computing(model: Path, scene: Scene) -> Iterator[Device]:
    """Begin a device's process, and the one that slows it down as it heats."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    speed = context.Value("d", 1.0)
    processes = [_spawned(_compute, far, str(model), scene.slower)]
    try:
        # Its first answer says that the model is loaded.
        near.send(-1)
        near.recv()
        if len(scene.heats) > 1:
            is_ready = context.Event()
            processes.append(_spawned(_throttle, processes[0].pid, speed, is_ready))
            is_ready.wait()
        yield Device(near, speed)
    finally:
        for process in reversed(processes):
            process.kill()
            process.join()


@contextlib.contextmanager
def others(model: Path, port: int, scene: Scene) -> Iterator[Any]:
    """Begin a process that is the centre's other devices; gives their requests a second."""
    context = multiprocessing.get_context("spawn")
    rate = context.Value("d", 0.0)
    if not scene.doubles:
        yield rate
        return
    is_ready = context.Event()
    process = _spawned(_ask_too, str(model), port, rate, is_ready)
    try:
        is_ready.wait()
        yield rate
    finally:
        process.kill()
        process.join()


class _Recording:
    """Requests that are asked of both places, while the scene goes on."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        scene: Scene,
        device: Device,
        others_rate: Any,
    ) -> None:
        self.scene = scene
        self.device = device
        self.others_rate = others_rate
        self.seconds = arguments.seconds
        self.generator = random.Random(arguments.seed)
        self.inputs = _zeros(load(arguments.model))
        self.late_s: list[float] = []

    async def trace(self, port: int) -> traces.Trace:
        """Return what both places took for every request of the time."""
        relay = Relay(port, self.scene.turn_s)
        server = await asyncio.start_server(relay.connected, "127.0.0.1", 0)
        far = server.sockets[0].getsockname()[1]
        upstream = Upstream(UpstreamAddress("127.0.0.1", far, is_secure=False), "m")
        loop = asyncio.get_running_loop()
        loop.add_reader(self.device.connection.fileno(), self.device.answered)
        for _ in range(_WARM):
            await upstream.infer(self.inputs, TIMEOUT_S)
        rows = await self._rows(relay, upstream)
        edge_s = await self.device.whole(len(rows))
        upstream.close()
        server.close()
        self._check()
        return self._trace(rows, edge_s)

    def _check(self) -> None:
        """Raise RunError where this machine was too busy for its times to say much."""
        late_s = float(np.quantile(self.late_s, 0.95))
        if late_s > _LATEST_S:
            raise RunError(
                f"a twentieth of the requests began {1e3 * late_s:.0f} ms late or later, as "
                "this machine is busy; record again when it has less to do"
            )

    async def _rows(self, relay: Relay, upstream: Upstream) -> list[list[float]]:
        """Return arrival, way and centre of each request, in seconds."""
        begin = time.perf_counter()
        tasks: list[asyncio.Task[list[float]]] = []
        next_s = 0.0
        while next_s < self.seconds:
            await asyncio.sleep(max(0.0, begin + next_s - time.perf_counter()))
            self._change(relay, next_s / self.seconds)
            at_s = time.perf_counter() - begin
            self.late_s.append(at_s - next_s)
            self.device.connection.send(len(tasks))
            tasks.append(asyncio.create_task(self._asked(upstream, at_s)))
            next_s += self.generator.expovariate(self._rate(next_s / self.seconds))
        return list(await asyncio.gather(*tasks))

    def _change(self, relay: Relay, share: float) -> None:
        relay.is_dead = self.scene.is_dead(share)
        self.device.speed.value = self.scene.speed(share)
        if self.scene.doubles:
            self.others_rate.value = _OTHERS_RATE * self._rate(share)

    def _rate(self, share: float) -> float:
        """Return the requests a second of this device."""
        doublings = sum(share > begin for begin in self.scene.doubles)
        return float(self.scene.rate * 2**doublings)

    async def _asked(self, upstream: Upstream, at_s: float) -> list[float]:
        """Ask the centre; a link that is dead is infinitely slow."""
        begin_s = _own_s()
        try:
            answer = await upstream.infer(self.inputs, TIMEOUT_S)
        except UpstreamError:
            return [at_s, self.scene.turn_s, np.inf]
        way_s = _own_s() - begin_s - answer.service_s
        # What this process waited for may have been another request's.
        return [at_s, max(self.scene.turn_s, way_s), answer.service_s]

    def _trace(self, rows: list[list[float]], edge_s: list[float]) -> traces.Trace:
        size_bytes = sum(tensor.nbytes for tensor in self.inputs.values())
        at_s, turn_s, cloud_s = np.array(rows).round(_DIGITS).T
        return traces.Trace(
            at_s=at_s,
            size_bytes=np.full(len(rows), size_bytes),
            edge_s=np.array(edge_s).round(_DIGITS),
            turn_s=turn_s,
            byte_s=np.zeros(len(rows)),
            cloud_s=cloud_s,
        )


def _zeros(model: ServedModel, samples: int = 1) -> dict[str, Array]:
    """Return samples for a model."""
    port = model.inputs[0]
    shape = [samples if length < 0 else length for length in port.shape]
    return {port.name: np.zeros(shape, port.dtype)}


def _spawned(target: Any, *arguments: Any) -> Any:
    """Begin a process that ends with this one."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def _compute(connection: Connection, path: str, slower: int) -> None:
    """Be the device: compute the requests whose numbers come, and say what each took."""
    model = load(Path(path))
    inputs = _zeros(model)
    while True:
        number = connection.recv()
        begin_s = _own_s()
        for _ in range(slower):
            model.run(inputs)
        connection.send((number, _own_s() - begin_s))


def _throttle(pid: int, speed: Any, is_ready: Any) -> None:
    """Let a process run for a share of the time."""
    is_ready.set()
    while True:
        share = min(1.0, speed.value)
        time.sleep(_PERIOD_S * share)
        if share < 1:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(_PERIOD_S * (1 - share))
            os.kill(pid, signal.SIGCONT)


def _ask_too(path: str, port: int, rate: Any, is_ready: Any) -> None:
    """Be the centre's other devices: ask it at random moments, at a rate that changes."""
    inputs = _zeros(load(Path(path)), _OTHERS_SAMPLES)
    is_ready.set()
    asyncio.run(_asked_on(inputs, port, rate))


async def _asked_on(inputs: dict[str, Array], port: int, rate: Any) -> None:
    upstream = Upstream(UpstreamAddress("127.0.0.1", port, is_secure=False), "m")
    generator = random.Random(1)
    tasks: set[asyncio.Task[Any]] = set()
    while True:
        if rate.value == 0:
            await asyncio.sleep(0.01)
            continue
        task = asyncio.create_task(_tried(upstream, inputs))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(generator.expovariate(rate.value))


async def _tried(upstream: Upstream, inputs: dict[str, Array]) -> None:
    # A centre that has too much to do refuses some.
    with contextlib.suppress(UpstreamError):
        await upstream.infer(inputs, TIMEOUT_S)


def _own_s() -> float:
    """Return the time, less what this thread has waited for a core so far, in seconds."""
    waited_ns = -1
    # A wait between the two clocks would count twice.
    while waited_ns != (again_ns := _waited_ns()):
        waited_ns = again_ns
        now_s = time.perf_counter()
    return now_s - 1e-9 * waited_ns


def _waited_ns() -> int:
    # Fields: nanoseconds on a core, nanoseconds that it was ready and had none, slices.
    with open("/proc/thread-self/schedstat", encoding="ascii") as file:
        return int(file.read().split()[1])


if __name__ == "__main__":
    sys.exit(main())
