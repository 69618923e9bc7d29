"""What of a slow link with outages is left for the payloads.

python -m fedlearn.experiments.benchmarks.link [--mbps 1] [--megabytes 5] [--every 20] [--outage 3]

An agent behind mutual TLS, in a network namespace of its own; both directions of the link to it
are shaped by `tc tbf`, and every so many seconds the link is down for some. One payload goes
down, then the same bytes come up. Goodput is payload bits by the seconds in which the link was
there. Needs root and Linux's `ip` and `tc` (Debian: iproute2).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedlearn.clients.agent.options import AgentSettings
from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import RunError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.experiments.benchmarks.exchange import Echo, Place, place
from fedlearn.server import identity
from fedlearn.server.journal import Journal
from fedlearn.server.listening import Address
from fedlearn.server.rounds import Rounds
from fedlearn.server.service import Service
from fedlearn.server.work import WorkOrder, WorkResult

HERE, THERE = "10.213.7.1", "10.213.7.2"
NAMESPACE, OURS, THEIRS = "fedlearn-link", "fedlearn0", "fedlearn1"


def _ip(*words: str, inside: bool = False) -> None:
    command = ["ip", "netns", "exec", NAMESPACE, *words] if inside else list(words)
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise RunError(
            f"'{command[0]}' is not installed (Debian: apt install iproute2)"
        ) from None
    if done.returncode:
        raise RunError(
            f"{' '.join(command)}: {done.stderr.strip()}; this benchmark needs root "
            f"and network namespaces"
        )


@contextlib.contextmanager
def link(mbps: float) -> Iterator[None]:
    """Yield while there is a link of so many megabits per second, each way, to a namespace."""
    _ip("ip", "netns", "add", NAMESPACE)
    try:
        _ip("ip", "link", "add", OURS, "type", "veth", "peer", "name", THEIRS)
        _ip("ip", "link", "set", THEIRS, "netns", NAMESPACE)
        _ip("ip", "addr", "add", f"{HERE}/24", "dev", OURS)
        _ip("ip", "addr", "add", f"{THERE}/24", "dev", THEIRS, inside=True)
        _ip("ip", "link", "set", OURS, "up")
        _ip("ip", "link", "set", THEIRS, "up", inside=True)
        shape = [
            "root",
            "tbf",
            "rate",
            f"{mbps}mbit",
            "burst",
            "8kb",
            "latency",
            "200ms",
        ]
        _ip("tc", "qdisc", "add", "dev", OURS, *shape)
        _ip("tc", "qdisc", "add", "dev", THEIRS, *shape, inside=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], capture_output=True)
        subprocess.run(["ip", "link", "del", OURS], capture_output=True)


class Outages:
    """The link's bad moments, in a thread; ``down_s`` is how long it was not there."""

    def __init__(self, every_s: float, outage_s: float) -> None:
        """Begin with a good time."""
        self.every_s, self.outage_s, self.down_s, self.count = every_s, outage_s, 0.0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        while self.outage_s and not self._over.wait(self.every_s):
            begun = time.perf_counter()
            _ip("ip", "link", "set", OURS, "down")
            self._over.wait(self.outage_s)
            _ip("ip", "link", "set", OURS, "up")
            self.down_s += time.perf_counter() - begun
            self.count += 1

    def end(self) -> None:
        """End, with the link up."""
        self._over.set()
        self._thread.join()


def agent(address: str, state: str) -> None:
    """Be the agent, until the run is over."""
    import asyncio

    asyncio.run(
        Echo(
            AgentSettings(address, 0, Path(state)),
            say=lambda text: print(text, file=sys.stderr, flush=True),
        ).run()
    )


def measure(here: Place, given: argparse.Namespace) -> None:
    """Print what came of one payload down and up."""
    rounds = Rounds(b"benchmark-of-16b", "{}", 1, 64 << 20)
    service = Service(
        rounds, Journal(here.path / "journal"), Address(HERE, pki=here.pki)
    )
    service.start()
    state = here.enroll(0)
    program = (
        f"from fedlearn.experiments.benchmarks.link import agent; "
        f"agent({f'{HERE}:{service.port}'!r}, {str(state)!r})"
    )
    process = subprocess.Popen(
        ["ip", "netns", "exec", NAMESPACE, sys.executable, "-c", program]
    )
    outages = None
    try:
        while not service.attending():
            time.sleep(0.05)
        payload = os.urandom(round(given.megabytes * 1e6))
        outages = Outages(given.every, given.outage)
        begun = time.perf_counter()
        task = pb.Task(key=pb.Key(round=1, kind="train"), sizes=[len(payload)])
        service.ask([WorkOrder(0, (1, "train", 0), task, (payload,))], 3600.0, None)
        answer = service.next()
        taken = time.perf_counter() - begun
        outages.end()
        if not isinstance(answer, WorkResult) or answer.data != payload:
            raise RunError("the answer is not what was sent")
        up_s = taken - outages.down_s
        goodput = 2 * 8 * len(payload) / 1e6 / up_s / given.mbps
        counters = service.rounds.counters
        sent = service.figures().down_bytes - len(payload)
        print(
            f"link: {given.megabytes:g} MB down and up at {given.mbps:g} Mbit/s with "
            f"{outages.count} outages of {given.outage:g} s: "
            f"{taken:.1f} s, {100 * goodput:.0f} % of the link while it was there; "
            f"connections {counters['attended']}, chunks that came "
            f"twice {counters['chunks_again']}, bytes sent again down {sent:,}"
        )
    finally:
        if outages:
            outages.end()
        service.stop(True)
        service.journal.close()
        process.kill()
        process.wait()


def parser() -> Parser:
    """Return the command's arguments."""
    made = Parser(
        prog="python -m fedlearn.experiments.benchmarks.link",
        description="Measure a slow link with outages.",
    )
    made.add_argument(
        "--mbps",
        type=float,
        default=1.0,
        help="megabits per second, each way; default: 1",
    )
    made.add_argument(
        "--megabytes", type=float, default=5.0, help="of the payload; default: 5"
    )
    made.add_argument(
        "--every",
        type=float,
        default=20.0,
        metavar="S",
        help="seconds between outages; default: 20",
    )
    made.add_argument(
        "--outage",
        type=float,
        default=3.0,
        metavar="S",
        help="seconds of an outage, 0: none; default: 3",
    )
    return made


def _run(given: argparse.Namespace) -> None:
    with link(given.mbps), place() as here:
        identity.renew_server(here.pki, [HERE])
        measure(here, given)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
