"""What agents notice of strangers: rounds while thousands connect and dozens guess tokens.

python -m fedlearn.experiments.benchmarks.strangers [--connections N] [--guessers N]
    [--boards N] [--agents N] [--seconds S]

The coordinator is the real service: mutual TLS, a journal that is synced, both ports. Agents are
real agents in processes of their own, whose work takes WORK_S in the place of training. Rounds
are timed undisturbed, and then while a process opens connections that never speak, half of them
at each port, and others guess tokens over a connection each. Meanwhile boards with good tokens
enroll one after another. All of this shares one machine, the attackers too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from fedlearn.clients.agent import identity as agents
from fedlearn.clients.agent.options import AgentSettings
from fedlearn.clients.agent.pipe import WorkReply
from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import FedlearnError, RunError
from fedlearn.exchange import CHANNEL, methods
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.experiments.benchmarks import crowd, exchange
from fedlearn.server import identity, tokens
from fedlearn.server.service import Service
from fedlearn.server.work import WorkOrder, WorkResult

# What an agent's work takes; without it a round is the exchange alone.
WORK_S = 0.2

# Bytes of a payload, each way.
PAYLOAD_BYTES = 66_000

# Rounds that are timed before the attack, and the first that are not: connections warm up.
CALM_ROUNDS = 12
WARM_ROUNDS = 3

# How long a board may take to enroll.
ENROLL_S = 30.0

# How often the attack is to have begun before boards come.
ATTACK_S = 1.0

# Rounds may take so many times the undisturbed time.
BOUND = 1.5


@dataclass(frozen=True)
class Attack:
    """How much is thrown at a coordinator."""

    connections: int
    guessers: int
    boards: int
    agents: int
    seconds: float


@dataclass(frozen=True)
class StrangersResult:
    """What came of an attack. calm_ms, attacked_ms: medians of rounds.

    opened: connections of strangers. enrolled: of the boards with good tokens.
    """

    calm_ms: float
    attacked_ms: float
    rounds: int
    opened: int
    guesses: int
    enrolled: int
    reasons: tuple[str, ...]

    def verdict(self, attack: Attack) -> str | None:
        """Return what does not hold; None: all does."""
        if self.attacked_ms > BOUND * self.calm_ms:
            return f"rounds take more than {BOUND:g} times the undisturbed time"
        if self.enrolled < attack.boards:
            return f"{self.enrolled} of {attack.boards} boards enrolled: {self.reasons}"
        return None


class Slow(exchange.Echo):
    """An agent that answers with what it was sent, after a while."""

    async def _echo(self, job: Any) -> tuple[WorkReply, list[bytes]]:
        await asyncio.sleep(WORK_S)
        return await super()._echo(job)


def attend(port: int, client: int, state: str) -> None:
    """Be one agent, until the coordinator ends the run."""
    settings = AgentSettings(f"127.0.0.1:{port}", client, Path(state))
    asyncio.run(Slow(settings, say=lambda text: None).run())


def flood(ports: Sequence[int], count: int, seconds: float, report: Any) -> None:
    """Open so many connections within some seconds, evenly, and never speak."""
    crowd.open_files()
    begun = time.monotonic()
    sockets = []
    for number in range(count):
        pause_s = begun + number * seconds / count - time.monotonic()
        if pause_s > 0:
            time.sleep(pause_s)
        with contextlib.suppress(OSError):
            place = ("127.0.0.1", ports[number % len(ports)])
            sockets.append(socket.create_connection(place, 1.0))
    report.send(len(sockets))
    time.sleep(3600)


def guess(port: int, ca: bytes, request: bytes, count: int, report: Any) -> None:
    """Guess tokens, each guesser over a connection of its own, one guess after another."""
    asyncio.run(_guess(port, ca, request, count, report))


async def _guess(port: int, ca: bytes, request: bytes, count: int, report: Any) -> None:
    credentials = grpc.ssl_channel_credentials(ca)
    options = (*CHANNEL, ("grpc.use_local_subchannel_pool", 1))
    guesses = 0

    async def guesser(number: int) -> None:
        nonlocal guesses
        place = f"localhost:{port}"
        async with grpc.aio.secure_channel(place, credentials, options) as channel:
            while True:
                secret = pb.EnrolRequest(secret=f"guess {number}", request=request)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await methods.enroll(channel)(secret, timeout=5)
                guesses += 1

    tasks = [asyncio.create_task(guesser(number)) for number in range(count)]
    # Until it is asked how often.
    await asyncio.to_thread(report.recv)
    report.send(guesses)
    for task in tasks:
        task.cancel()


@contextlib.contextmanager
def _fleet(place: exchange.Place, count: int) -> Iterator[Service]:
    """Give a service at which some agents attend."""
    service = place.service(count)
    processes = [
        exchange._process(attend, service.port, client, str(place.enroll(client)))
        for client in range(count)
    ]
    try:
        while len(service.attending()) < count:
            time.sleep(0.02)
        yield service
    finally:
        service.stop(True)
        service.journal.close()
        exchange._end(processes)


class Rounds:
    """Rounds of one service, timed one by one."""

    def __init__(self, service: Service, count: int) -> None:
        """Take the service, and how many agents it asks."""
        self.service = service
        self.count = count
        self.number = 0
        self.payload = os.urandom(PAYLOAD_BYTES)

    def run_one(self) -> float:
        """Return how long a round took, milliseconds."""
        self.number += 1
        task = pb.Task(
            key=pb.Key(round=self.number, kind="train"), sizes=[PAYLOAD_BYTES]
        )
        orders = [
            WorkOrder(client, (self.number, "train", 0), task, (self.payload,))
            for client in range(self.count)
        ]
        begun = time.perf_counter()
        self.service.ask(orders, 60.0, None)
        for _ in orders:
            answer = self.service.next()
            if not isinstance(answer, WorkResult) or answer.data != self.payload:
                raise RunError(f"an answer is not what was sent: {answer}")
        return 1e3 * (time.perf_counter() - begun)


def measure(attack: Attack) -> StrangersResult:
    """Attack a coordinator, and return what came of it; raises RunError when it ends."""
    with exchange.place() as place, _fleet(place, attack.agents) as service:
        rounds = Rounds(service, attack.agents)
        calm = [rounds.run_one() for _ in range(CALM_ROUNDS + WARM_ROUNDS)]
        boards = _pipe(enroll_boards, service.enroll_port, str(place.path), attack)
        ca = identity.server_credentials(place.pki).ca
        request = agents.make_key_and_csr(place.path / "guesser")
        guessers = _pipe(guess, service.enroll_port, ca, request, attack.guessers)
        ports = (service.port, service.enroll_port)
        strangers = _pipe(flood, ports, attack.connections, attack.seconds)
        processes = [boards[0], guessers[0], strangers[0]]
        try:
            attacked = []
            # Until the last board is through and the last stranger came.
            while not (boards[1].poll() and strangers[1].poll()):
                attacked.append(rounds.run_one())
            guessers[1].send(None)
            reasons = boards[1].recv()
            return StrangersResult(
                statistics.median(calm[WARM_ROUNDS:]),
                statistics.median(attacked),
                len(attacked),
                strangers[1].recv(),
                guessers[1].recv(),
                attack.boards - len(reasons),
                tuple(reasons),
            )
        finally:
            for process in processes:
                process.kill()


def enroll_boards(port: int, folder: str, attack: Attack, report: Any) -> None:
    """Enroll boards one after another; reports why those that failed did."""
    time.sleep(ATTACK_S)
    reasons = []
    for number in range(attack.boards):
        token = tokens.new_token(Path(folder) / "pki", attack.agents + number)
        state = Path(folder) / f"board-{number}"
        try:
            place = f"localhost:{port}"
            agents.enroll(place, agents.read_token(token), state, ENROLL_S)
        except FedlearnError as error:
            reasons.append(str(error))
    report.send(reasons)
    time.sleep(3600)


def _pipe(call: Any, *arguments: Any) -> tuple[Any, Any]:
    """Return a process, and this end of a pipe to it."""
    ours, theirs = multiprocessing.Pipe()
    return exchange._process(call, *arguments, theirs), ours


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="python -m fedlearn.experiments.benchmarks.strangers",
        description="Attack a coordinator of this machine as a stranger can.",
    )
    for name, default, meaning in (
        ("connections", 10_000, "that are opened and never speak"),
        ("guessers", 32, "of tokens, over a connection each"),
        ("boards", 5, "with good tokens, that enroll meanwhile"),
        ("agents", 4, "whose rounds are timed"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=meaning
        )
    parser.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="in which the connections are opened",
    )
    return parser


def _run(arguments: argparse.Namespace) -> None:
    attack = Attack(**vars(arguments))
    result = measure(attack)
    print(
        f"strangers: {result.opened} connections and {result.guesses} guesses; rounds "
        f"{result.calm_ms:.0f} ms undisturbed, {result.attacked_ms:.0f} ms attacked "
        f"({result.attacked_ms / result.calm_ms:.2f} times, {result.rounds} rounds); "
        f"{result.enrolled} of {attack.boards} boards enrolled"
    )
    problem = result.verdict(attack)
    if problem is not None:
        raise RunError(problem)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


if __name__ == "__main__":
    sys.exit(main())
