"""What the exchange costs: rounds, idle agents, a coordinator that returns, an agent that stops.

python -m fedlearn.experiments.benchmarks.exchange [round] [idle] [return] [release]
    [--agents N] [--watch S]

The coordinator is the real service: mutual TLS, journal synced before each acknowledgement. In
`round` and `release` every agent is a real agent in a process of its own that answers at once
with a prepared payload; beside it, in the same run, the same bytes go through bare grpc.aio,
without TLS and without a journal. In `idle` and `return` the agents are thousands of
connections of a few processes (`fedlearn.experiments.benchmarks.crowd`), and the coordinator
has a process of its own. Both ends share this machine: what each takes of it is told.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from fedlearn.clients.agent import identity as agents
from fedlearn.clients.agent.agent import Agent
from fedlearn.clients.agent.options import AgentSettings
from fedlearn.clients.agent.pipe import WorkReply
from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import RunError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.experiments.benchmarks import crowd
from fedlearn.server import identity, sessions
from fedlearn.server.actions import Action as RoundsAction
from fedlearn.server.journal import Journal
from fedlearn.server.listening import Address
from fedlearn.server.rounds import Rounds
from fedlearn.server.service import Service
from fedlearn.server.work import WorkOrder, WorkResult
from fedlearn.system.parent import end_with_parent

SIZES = ((2, 4_000), (2, 6_653_480), (20, 66_000))
"""Agents and bytes of a payload: a small model, McMahan's CNN as float32, twenty compressed
updates.
"""

ROUNDS = 30
RUN, LIMIT = b"benchmark-of-16b", 16 << 20

PROCESSES = 2
"""Of a crowd. They share the machine with the coordinator: more of them only cost it time."""

LOOK_S = 0.005
"""How often a coordinator that waits for its agents counts them."""

PATIENCE_S = 60.0
"""How long it waits for them."""

SETTLE_S = 3.0
"""From the last connection until figures are taken."""

LOST = ("left", "silent", "replaced", "no_hello")
"""Counters of connections that ended."""


@dataclass(frozen=True)
class Place:
    """A coordinator's folder: authority, journal, agents."""

    path: Path

    @property
    def pki(self) -> Path:
        """Return the authority's folder."""
        return self.path / "pki"

    def service(
        self, clients: int, port: int = 0, made: Rounds | None = None
    ) -> Service:
        """Return a service that listens."""
        service = Service(
            made or Rounds(RUN, "{}", clients, LIMIT),
            Journal(self.path / "journal"),
            Address(port=port, pki=self.pki),
        )
        service.start()
        return service

    def enroll(self, client: int) -> Path:
        """Return the folder of an agent with an identity."""
        state = self.path / str(client)
        request = agents.make_key_and_csr(state)
        made = identity.sign(self.pki, client, request)
        agents.store(
            state,
            client,
            made,
            identity.server_credentials(self.pki).ca,
            identity.expiry(made),
        )
        return state


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """Yield a new folder with an authority."""
    with tempfile.TemporaryDirectory(prefix="fedlearn-exchange-") as folder:
        made = Place(Path(folder))
        identity.make(made.pki, ["localhost"])
        yield made


class Echo(Agent):
    """An agent that answers with what it was sent."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what an agent takes."""
        super().__init__(*arguments, **options)
        workshop: Any = self._workshop
        workshop._do = self._echo

    async def _echo(self, job: Any) -> tuple[WorkReply, list[bytes]]:
        return WorkReply("answer"), [job.payloads[0]]


def attend(port: int, client: int, state: str) -> None:
    """Be one agent, until the coordinator ends the run."""
    settings = AgentSettings(f"127.0.0.1:{port}", client, Path(state))
    asyncio.run(Echo(settings, say=lambda text: None).run())


def rounds_ms(place: Place, count: int, size: int) -> tuple[float, float]:
    """Return the median and the largest time of a round with ``count`` agents, milliseconds."""
    service = place.service(count)
    processes = [
        _process(attend, service.port, client, str(place.enroll(client)))
        for client in range(count)
    ]
    try:
        while len(service.attending()) < count:
            time.sleep(0.02)
        payload, taken = os.urandom(size), []
        for number in range(1, ROUNDS + 1):
            begun = time.perf_counter()
            task = pb.Task(key=pb.Key(round=number, kind="train"), sizes=[size])
            service.ask(
                [
                    WorkOrder(client, (number, "train", 0), task, (payload,))
                    for client in range(count)
                ],
                60.0,
                None,
            )
            answers = [service.next() for _ in range(count)]
            taken.append(1e3 * (time.perf_counter() - begun))
            if not all(
                isinstance(a, WorkResult) and a.data == payload for a in answers
            ):
                raise RunError("an answer is not what was sent")
        return statistics.median(taken[3:]), max(taken[3:])
    finally:
        service.stop(True)
        service.journal.close()
        _end(processes)


def bare_ms(size: int) -> float:
    """Return the median time in which bare grpc.aio sends bytes to two peers and back,
    milliseconds.
    """
    return asyncio.run(_bare(size))


async def _bare(size: int) -> float:
    options = [
        ("grpc.max_receive_message_length", 32 << 20),
        ("grpc.max_send_message_length", 32 << 20),
    ]
    server = grpc.aio.server(options=options)

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    handler = grpc.method_handlers_generic_handler(
        "bare", {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channels = [
        grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", [*options, ("grpc.use_local_subchannel_pool", 1)]
        )
        for _ in range(2)
    ]
    calls, data, taken = (
        [channel.unary_unary("/bare/Echo") for channel in channels],
        os.urandom(size),
        [],
    )
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        await asyncio.gather(*(call(data) for call in calls))
        taken.append(1e3 * (time.perf_counter() - begun))
    for channel in channels:
        await channel.close()
    await server.stop(None)
    return statistics.median(taken[3:])


class Counted(Rounds):
    """Counts what agents say."""

    frames = 0

    def heard(
        self, session: int, frame: pb.AgentFrame, now: float
    ) -> list[RoundsAction]:
        """Take a frame."""
        self.frames += 1
        return super().heard(session, frame, now)


@dataclass(frozen=True)
class Figures:
    """Of a coordinator: frames of agents and events so far, agents that attend."""

    frames: int
    attending: int
    counters: dict[str, int]


def coordinate(
    path: str, clients: int, port: int, interval_s: float, asked: Any
) -> None:
    """Be a coordinator in a process of its own, which can be killed.

    Sends its port and the time (of a clock that all processes share) when it listens. For "all"
    it sends the times at which half of the agents, 99 % and all attended, for "figures" its
    `Figures`. Until it is asked it does nothing beside its service.
    """
    crowd.open_files()
    sessions.IDLE_S = interval_s
    sessions.LEAST_IDLE_S = interval_s
    counted = Counted(RUN, "{}", clients, LIMIT)
    service = Place(Path(path)).service(clients, port, counted)
    asked.send((service.port, time.monotonic()))
    while True:
        if asked.recv() == "all":
            asked.send(_all(counted, clients))
        else:
            asked.send(
                Figures(counted.frames, len(counted.attending), dict(counted.counters))
            )


def _all(found: Rounds, clients: int) -> list[float] | RunError:
    times, end = list[float](), time.monotonic() + PATIENCE_S
    for share in (0.5, 0.99, 1.0):
        while len(found.attending) < share * clients:
            if time.monotonic() > end:
                return RunError(
                    f"after {PATIENCE_S:g} s only {len(found.attending)} of {clients} "
                    f"agents attend: {dict(found.counters)}"
                )
            time.sleep(LOOK_S)
        times.append(time.monotonic())
    return times


@dataclass(frozen=True)
class Fleet:
    """A coordinator, its crowd of idle agents, and the way to ask it."""

    coordinator: Any
    pipe: Any
    crowds: Sequence[Any]

    def ask(self, question: str) -> Any:
        """Ask the coordinator; raises RunError when not all agents come."""
        self.pipe.send(question)
        found = self.pipe.recv()
        if isinstance(found, RunError):
            raise found
        return found

    def cpu_s(self) -> tuple[float, float]:
        """Return the CPU time so far of the coordinator and of the crowd, seconds."""
        return _cpu_s(self.coordinator.pid), sum(
            _cpu_s(each.pid) for each in self.crowds
        )


def idle(place: Place, count: int, interval_s: float, watch_s: float) -> None:
    """Print what ``count`` idle agents cost a coordinator; interval_s: between an agent's
    heartbeats, watch_s: how long it is watched.
    """
    crowd.enroll(place.path, count)
    coordinator, pipe = _coordinator(place, count, 0, interval_s)
    port, opened = pipe.recv()
    empty_mb = _memory_mb(coordinator.pid, "VmRSS")
    fleet = Fleet(coordinator, pipe, _crowds(place, port, count))
    try:
        times = fleet.ask("all")
        ours, theirs = fleet.cpu_s()
        spent = f"CPU of the coordinator {ours:.1f} s, of the agents {theirs:.1f} s"
        print(f"idle: {count} agents attend after {times[-1] - opened:.1f} s; {spent}")
        time.sleep(SETTLE_S)
        before, cpu_s, begun = fleet.ask("figures"), fleet.cpu_s(), time.perf_counter()
        time.sleep(watch_s)
        share = 100 * (fleet.cpu_s()[0] - cpu_s[0]) / (time.perf_counter() - begun)
        after = fleet.ask("figures")
        rss_mb = _memory_mb(coordinator.pid, "VmRSS")
        each_kb = 1024 * (rss_mb - empty_mb) / count
        theirs_mb = sum(_memory_mb(each.pid, "VmRSS") for each in fleet.crowds)
        most_mb = _memory_mb(coordinator.pid, "VmHWM")
        print(
            f"idle: {rss_mb:.0f} MB, {empty_mb:.0f} without agents, {each_kb:.0f} KB "
            f"per agent, {most_mb:.0f} MB at most; "
            f"the agents {theirs_mb:.0f} MB"
        )
        frames = after.frames - before.frames
        print(
            f"idle: {share:.2f} % of a core over {watch_s:.0f} s with {frames} "
            f"heartbeats, of each agent one every {interval_s:g} s"
        )
        lost = {name: after.counters[name] for name in LOST if after.counters.get(name)}
        print(
            f"idle: {after.attending} of {count} attend; "
            f"{f'lost: {lost}' if lost else 'none was ever lost'}"
        )
    finally:
        coordinator.kill()
        _end(fleet.crowds)


def back(place: Place, count: int, kills: int) -> None:
    """Print how soon ``count`` idle agents are back after a kill of their coordinator."""
    crowd.enroll(place.path, count)
    coordinator, pipe = _coordinator(place, count, 0)
    port, _ = pipe.recv()
    fleet = Fleet(coordinator, pipe, _crowds(place, port, count))
    try:
        fleet.ask("all")
        for _ in range(kills):
            time.sleep(SETTLE_S)
            killed = time.monotonic()
            os.kill(fleet.coordinator.pid, signal.SIGKILL)
            fleet.coordinator.join()
            fleet = Fleet(*_coordinator(place, count, port), fleet.crowds)
            _, opened = fleet.pipe.recv()
            before = fleet.cpu_s()
            times = [when - opened for when in fleet.ask("all")]
            ours, theirs = (
                after - first
                for after, first in zip(fleet.cpu_s(), before, strict=True)
            )
            print(
                f"return: {count} agents are back {times[2]:.2f} s after the port is "
                f"open again (half {times[0]:.2f}, 99 % {times[1]:.2f}) "
                f"and {times[2] + opened - killed:.1f} s after the kill; CPU of the "
                f"coordinator {ours:.2f} s, of the agents {theirs:.2f} s"
            )
    finally:
        fleet.coordinator.kill()
        _end(fleet.crowds)


def release(place: Place) -> None:
    """Print how soon a stopped agent with work is released, and that one that stalls for two
    seconds is not.
    """
    service = place.service(1)
    process = _process(attend, service.port, 0, str(place.enroll(0)))
    try:
        while not service.attending():
            time.sleep(0.02)
        # A task whose payload never comes whole keeps the agent busy.
        task = pb.Task(key=pb.Key(round=1, kind="train"), sizes=[10])
        service.ask([WorkOrder(0, (1, "train", 0), task, (b"12345",))], 3600.0, None)
        time.sleep(2)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(2)
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(3)
        print(
            f"release: after a stall of 2 s the agent "
            f"{'still attends' if service.attending() else 'was RELEASED'}"
        )
        os.kill(process.pid, signal.SIGSTOP)
        begun = time.perf_counter()
        while service.attending():
            time.sleep(0.02)
        print(
            f"release: a stopped agent is released after {time.perf_counter() - begun:.1f} s"
        )
        os.kill(process.pid, signal.SIGCONT)
    finally:
        service.stop(True)
        service.journal.close()
        _end([process])


def _coordinator(
    place: Place, count: int, port: int, interval_s: float = sessions.IDLE_S
) -> tuple[Any, Any]:
    ours, theirs = multiprocessing.Pipe()
    return _process(coordinate, str(place.path), count, port, interval_s, theirs), ours


def _crowds(place: Place, port: int, count: int) -> list[Any]:
    return [
        _process(crowd.crowd, str(place.path), port, range(first, count, PROCESSES))
        for first in range(PROCESSES)
    ]


def _process(call: Callable[..., None], *arguments: Any) -> Any:
    process = multiprocessing.get_context("spawn").Process(
        target=_follow, args=(os.getpid(), call, *arguments), daemon=True
    )
    process.start()
    return process


def _follow(parent: int, call: Callable[..., None], *arguments: Any) -> None:
    # Thousands of agents without a coordinator would take both cores for ever.
    end_with_parent(parent)
    call(*arguments)


def _end(processes: Sequence[Any]) -> None:
    for process in processes:
        process.join(3)
        process.kill()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int, which: str) -> float:
    line = next(
        text
        for text in Path(f"/proc/{pid}/status").read_text().splitlines()
        if text.startswith(which)
    )
    return int(line.split()[1]) / 1024


def parser() -> Parser:
    """Return the command's arguments."""
    made = Parser(
        prog="python -m fedlearn.experiments.benchmarks.exchange",
        description="Measure the exchange on this machine.",
    )
    made.add_argument(
        "parts",
        nargs="*",
        default=["round", "release"],
        metavar="PART",
        help="round, idle, return, release",
    )
    made.add_argument(
        "--agents", type=int, default=1000, help="of idle and return; default: 1000"
    )
    made.add_argument(
        "--interval",
        type=float,
        default=sessions.IDLE_S,
        metavar="S",
        help="of idle: between heartbeats; default: that of 5,000 clients",
    )
    made.add_argument(
        "--watch",
        type=float,
        default=sessions.IDLE_S,
        metavar="S",
        help="of idle: how long; default: one interval",
    )
    made.add_argument("--kills", type=int, default=3, help="of return; default: 3")
    return made


def _run(given: argparse.Namespace) -> None:
    for part in given.parts:
        with place() as here:
            if part == "round":
                for count, size in SIZES:
                    with place() as fresh:
                        median, worst = rounds_ms(fresh, count, size)
                    told = (
                        f"{median:.1f} ms (worst {worst:.1f}); bare, two peers: "
                        f"{bare_ms(size):.2f} ms"
                    )
                    print(f"round: {count} agents x {size:,} bytes both ways: {told}")
            elif part == "release":
                release(here)
            elif part == "idle":
                idle(here, given.agents, given.interval, given.watch)
            elif part == "return":
                back(here, given.agents, given.kills)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
