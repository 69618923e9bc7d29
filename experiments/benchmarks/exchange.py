"""What the exchange costs: rounds without training, idle agents, a coordinator that comes back, an agent that stops.

python -m fedlearn.experiments.benchmarks.exchange [round] [idle] [return] [release] [--agents N]

The coordinator is the real service: mutual TLS, journal synced before each acknowledgement. In `round` and `release` every
agent is a real agent in a process of its own that answers at once with a prepared payload; beside it, in the same run, the
same bytes go through bare grpc.aio, without TLS and without a journal. In `idle` and `return` the agents are thousands of
streams of a few processes, which answer heartbeats and reconnect by the agent's own state machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import random
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

from fedlearn.arguments import Parser, ended
from fedlearn.clients import attendance
from fedlearn.clients import identity as agents
from fedlearn.clients.agent import OPTIONS, Agent, Settings
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange import methods
from fedlearn.server import identity
from fedlearn.server.journal import Journal
from fedlearn.server.rounds import Answer, Rounds, Work
from fedlearn.server.service import Address, Service

SIZES = ((2, 4_000), (2, 6_653_480), (20, 66_000))
"""Agents and bytes of a payload: a small model, McMahan's CNN as float32, twenty compressed updates."""

ROUNDS = 30
PROCESSES = 4


@dataclass(frozen=True)
class Place:
    """A coordinator's folder: authority, journal, agents."""

    path: Path

    @property
    def pki(self) -> Path:
        """Return the authority's folder."""
        return self.path / "pki"

    def service(self, clients: int, port: int = 0) -> Service:
        """Return a service that listens."""
        rounds = Rounds(b"benchmark-of-16b", "{}", clients, 16 << 20)
        made = Service(rounds, Journal(self.path / "journal"), Address(port=port, pki=self.pki))
        made.start()
        return made

    def enrol(self, client: int) -> Path:
        """Return the folder of an agent with an identity."""
        state = self.path / str(client)
        request = agents.make_key_and_csr(state)
        made = identity.sign(self.pki, client, request)
        agents.store(state, client, made, identity.server_credentials(self.pki).ca, identity.expiry(made))
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

    async def _done(self, job: Any) -> tuple[dict[str, Any], list[bytes]]:
        return {"result": "answer"}, [job.payloads[0]]


def attend(port: int, client: int, state: str) -> None:
    """Be one agent, until the coordinator ends the run."""
    settings = Settings(f"127.0.0.1:{port}", client, Path(state))
    asyncio.run(Echo(settings, say=lambda text: None).run())


def rounds_ms(place: Place, count: int, size: int) -> tuple[float, float]:
    """Return the median and the largest time of a round with ``count`` agents, milliseconds."""
    service = place.service(count)
    processes = [_process(attend, service.port, client, str(place.enrol(client))) for client in range(count)]
    try:
        while len(service.attending()) < count:
            time.sleep(0.02)
        payload, taken = os.urandom(size), []
        for number in range(1, ROUNDS + 1):
            begun = time.perf_counter()
            task = pb.Task(key=pb.Key(round=number, kind="train"), sizes=[size])
            service.ask([Work(client, (number, "train", 0), task, (payload,)) for client in range(count)], 60.0, None)
            answers = [service.next() for _ in range(count)]
            taken.append(1e3 * (time.perf_counter() - begun))
            if not all(isinstance(a, Answer) and a.data == payload for a in answers):
                raise RuntimeError("an answer is not what was sent")
        return statistics.median(taken[3:]), max(taken[3:])
    finally:
        service.stop(True)
        service.journal.close()
        _end(processes)


def bare_ms(size: int) -> float:
    """Return the median time in which bare grpc.aio sends bytes to two peers and back, milliseconds."""
    return asyncio.run(_bare(size))


async def _bare(size: int) -> float:
    options = [("grpc.max_receive_message_length", 32 << 20), ("grpc.max_send_message_length", 32 << 20)]
    server = grpc.aio.server(options=options)

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    handler = grpc.method_handlers_generic_handler("bare", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", [*options, ("grpc.use_local_subchannel_pool", 1)]) for _ in range(2)]
    calls, data, taken = [channel.unary_unary("/bare/Echo") for channel in channels], os.urandom(size), []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        await asyncio.gather(*(call(data) for call in calls))
        taken.append(1e3 * (time.perf_counter() - begun))
    for channel in channels:
        await channel.close()
    await server.stop(None)
    return statistics.median(taken[3:])


def crowd(port: int, clients: Sequence[int], state: str) -> None:
    """Be many idle agents, one connection each, for ever."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_crowd(port, clients, Path(state)))


async def _crowd(port: int, clients: Sequence[int], folder: Path) -> None:
    await asyncio.gather(*(_idle(port, client, folder / str(client)) for client in clients))


async def _idle(port: int, client: int, state: Path) -> None:
    """Be one agent that never has work."""
    found = agents.read_identity(state)
    assert found is not None
    credentials = grpc.ssl_channel_credentials(found.ca, found.key, found.certificate)
    options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options)
    machine = attendance.Attendance(client, "benchmark", random.SystemRandom().random)
    while True:
        call, wait_s = methods.attend(channel)(), 0.0
        try:
            await _write(call, machine.opened(time.monotonic()))
            while (frame := await call.read()) is not grpc.aio.EOF:
                for action in machine.heard(frame, time.monotonic()):
                    if isinstance(action, attendance.Leave):
                        return
                    if isinstance(action, attendance.Connect):
                        raise ConnectionError
        except (grpc.aio.AioRpcError, ConnectionError, asyncio.InvalidStateError):
            pass
        for action in machine.lost("") if machine.connected else []:
            wait_s = action.after_s if isinstance(action, attendance.Connect) else wait_s
        await asyncio.sleep(wait_s)


async def _write(call: Any, actions: Sequence[attendance.Action]) -> None:
    for action in actions:
        if isinstance(action, attendance.Send):
            await call.write(action.frame)


def coordinate(path: str, clients: int, port: int, out: Any) -> None:
    """Be a coordinator in a process of its own, which can be killed; tells its port, then how many attend."""
    service = Place(Path(path)).service(clients, port)
    out.send(service.port)
    while True:
        time.sleep(0.02)
        out.send(len(service.attending()))


def many(place: Place, count: int, kill: bool) -> None:
    """Print what ``count`` idle agents cost, and how soon all are back after a kill."""
    for client in range(count):
        place.enrol(client)
    coordinator, told = _coordinator(place, count, 0)
    port = told.recv()
    crowds = [_process(crowd, port, range(first, count, PROCESSES), str(place.path)) for first in range(PROCESSES)]
    try:
        _until(told, count)
        if kill:
            taken = []
            for _ in range(3):
                os.kill(coordinator.pid, signal.SIGKILL)
                coordinator.join()
                coordinator, told = _coordinator(place, count, port)
                told.recv()
                begun = time.perf_counter()
                _until(told, count)
                taken.append(time.perf_counter() - begun)
            print(f"return: {count} agents are back {', '.join(f'{t:.2f}' for t in taken)} s after the port is open again")
        else:
            _drain(told)
            before, begun = _cpu_s(coordinator.pid), time.perf_counter()
            time.sleep(30)
            share = 100 * (_cpu_s(coordinator.pid) - before) / (time.perf_counter() - begun)
            _drain(told)
            print(f"idle: {count} agents take {_rss_mb(coordinator.pid):.0f} MB and {share:.2f} % of a core (polled 50 times a second)")
    finally:
        coordinator.kill()
        _end(crowds)


def release(place: Place) -> None:
    """Print how soon a stopped agent with work is released, and that one that stalls for two seconds is not."""
    service = place.service(1)
    process = _process(attend, service.port, 0, str(place.enrol(0)))
    try:
        while not service.attending():
            time.sleep(0.02)
        # A task whose payload never comes whole keeps the agent busy.
        task = pb.Task(key=pb.Key(round=1, kind="train"), sizes=[10])
        service.ask([Work(0, (1, "train", 0), task, (b"12345",))], 3600.0, None)
        time.sleep(2)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(2)
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(3)
        print(f"release: after a stall of 2 s the agent {'still attends' if service.attending() else 'was RELEASED'}")
        os.kill(process.pid, signal.SIGSTOP)
        begun = time.perf_counter()
        while service.attending():
            time.sleep(0.02)
        print(f"release: a stopped agent is released after {time.perf_counter() - begun:.1f} s")
        os.kill(process.pid, signal.SIGCONT)
    finally:
        service.stop(True)
        service.journal.close()
        _end([process])


def _coordinator(place: Place, count: int, port: int) -> tuple[Any, Any]:
    ours, theirs = multiprocessing.Pipe()
    return _process(coordinate, str(place.path), count, port, theirs), ours


def _process(call: Callable[..., None], *arguments: Any) -> Any:
    made = multiprocessing.get_context("spawn").Process(target=call, args=arguments, daemon=True)
    made.start()
    return made


def _end(processes: Sequence[Any]) -> None:
    for process in processes:
        process.join(3)
        process.kill()


def _until(told: Any, count: int) -> None:
    while told.recv() < count:
        pass


def _drain(told: Any) -> None:
    while told.poll():
        told.recv()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    line = next(text for text in Path(f"/proc/{pid}/status").read_text().splitlines() if text.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def parser() -> Parser:
    """Return the command's arguments."""
    made = Parser(prog="python -m fedlearn.experiments.benchmarks.exchange", description="Measure the exchange on this machine.")
    made.add_argument("parts", nargs="*", default=["round", "release"], metavar="PART", help="round, idle, return, release")
    made.add_argument("--agents", type=int, default=1000, help="of idle and return; default: 1000")
    return made


def _run(given: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        for part in given.parts:
            here = stack.enter_context(place())
            if part == "round":
                for count, size in SIZES:
                    with place() as fresh:
                        median, worst = rounds_ms(fresh, count, size)
                    told = f"{median:.1f} ms (worst {worst:.1f}); bare, two peers: {bare_ms(size):.2f} ms"
                    print(f"round: {count} agents x {size:,} bytes both ways: {told}")
            elif part == "release":
                release(here)
            elif part in ("idle", "return"):
                many(here, given.agents, part == "return")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
