"""Fifty devices behind one slow link take a new release: by difference, and as whole files.

    python -m fedlearn.experiments.benchmarks.fleet_link OLD NEW
        [--agents 50] [--mbps 1] [--only difference|whole] [--cut 0.1] [--every 2]

OLD, NEW: packages, NEW with a difference from OLD; whole: the same without it. The coordinator
is ``fedlearn fleet`` over mutual TLS. The agents are real ones in this process, each with a
certificate, a connection, a disk and the real state machine; work that an agent gives to a
process of its own is done here, one piece at a time. All connections go through one relay
(`benchmarks.relay`) of so many megabits per second each way. OLD is installed before anything
is measured, at full speed.

Time runs from the first device that hears of the release until all bytes are on the last one;
what each device makes of them is its own time, and not the link's. --cut: this share of
the connections ends every so many seconds; each device's bytes tell how it went on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from fedlearn.clients.agent.agent import Agent
from fedlearn.clients.agent.options import AgentSettings
from fedlearn.clients.agent.release_settings import ReleaseSettings
from fedlearn.clients.agent.releases import ReleaseDesk
from fedlearn.clients.device import release_work
from fedlearn.commands.arguments import Parser, ended
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.release_frames import RELEASE_KIND
from fedlearn.experiments.benchmarks.fleet_place import LOOK_S, FleetPlace, fleet, until
from fedlearn.experiments.benchmarks.relay import Relay
from fedlearn.package import content
from fedlearn.release import rollouts

KINDS = ("difference", "whole")

# Steps that begin when all bytes are here.
AFTER_FETCHING = ("assemble", "verify")

# Of a trial: nothing is served here.
WATCH_S = 0.1


@dataclass
class Tally:
    """What came to all devices.

    agents: how many they are. wanted_s, fetched_s: when a device heard of the release, and when
    all its bytes were there.
    """

    agents: int

    chunk_bytes: int = 0
    again_bytes: int = 0
    resumed: int = 0
    wanted_s: dict[int, float] = field(default_factory=dict)
    fetched_s: dict[int, float] = field(default_factory=dict)

    async def wait_for_all(self) -> None:
        """Wait until all have all bytes: else the boards' work would take the link's time here."""
        while len(self.fetched_s) < self.agents:
            await asyncio.sleep(LOOK_S)

    def clear(self) -> None:
        """Begin anew."""
        self.chunk_bytes = 0
        self.again_bytes = 0
        self.resumed = 0
        self.wanted_s.clear()
        self.fetched_s.clear()


class Desk(ReleaseDesk):
    """A desk whose pieces of work are done in this process, and whose bytes are counted."""

    def __init__(
        self, *arguments: Any, device: int, tally: Tally, room: ThreadPoolExecutor
    ) -> None:
        """Take what a desk takes, and where its work is done."""
        super().__init__(*arguments)
        self._device = device
        self._tally = tally
        self._room = room

    async def _reply(self, step: str, order: bytes) -> tuple[int, dict[str, Any]]:
        if step in AFTER_FETCHING:
            self._tally.fetched_s.setdefault(self._device, time.monotonic())
            await self._tally.wait_for_all()
        # One thread for all: fifty boards at once would be this machine's work, and no link's.
        loop = asyncio.get_running_loop()
        work = release_work.work
        return 0, await loop.run_in_executor(self._room, work, json.loads(order))

    def heard(self, frame: pb.CoordinatorFrame) -> None:
        """Take a frame, and count what came of files. Raises nothing."""
        before = self._here()
        super().heard(frame)
        chunk = frame.chunk
        if chunk.key.kind != RELEASE_KIND:
            return
        fresh = self._here() - before
        self._tally.chunk_bytes += len(chunk.data)
        self._tally.again_bytes += len(chunk.data) - max(0, fresh)

    def connected(self, send: Callable[[pb.AgentFrame], None]) -> None:
        """Take a connection. Raises nothing."""
        # Bytes of a file that a cut left here, from where it has to go on.
        if self._here():
            self._tally.resumed += 1
        super().connected(send)

    def _want(self, message: pb.Wanted) -> None:
        self._tally.wanted_s.setdefault(self._device, time.monotonic())
        super()._want(message)

    def _here(self) -> int:
        """Return how many bytes of unfinished files are here."""
        incoming = self._fetch.incoming
        if incoming is None:
            return 0
        return sum(incoming.length(path) for path in incoming.missing())


class Board(Agent):
    """An agent with such a desk."""

    def __init__(
        self, settings: AgentSettings, tally: Tally, room: ThreadPoolExecutor
    ) -> None:
        """Take what an agent takes, and where its work is done."""
        super().__init__(settings, say=lambda text: None)
        self._tally = tally
        self._room = room

    def _open_desk(self) -> asyncio.Task[None]:
        settings = self.settings
        assert settings.releases is not None
        self._desk = Desk(
            *(settings.releases, lambda: None, self.say),
            device=settings.client,
            tally=self._tally,
            room=self._room,
        )
        task = asyncio.create_task(self._desk.run())
        task.add_done_callback(self._desk_ended)
        return task


class Boards:
    """Agents in a thread, each in a folder of its own."""

    def __init__(self, ground: FleetPlace, count: int, port: int, name: str) -> None:
        """Let them attend. port: of the link. name: of the releases that they take."""
        self.tally = Tally(count)
        self._room = ThreadPoolExecutor(1)
        key = ground.public_key.read_text()
        self._settings = [
            _settings(ground.place.enroll(client), client, port, name, key)
            for client in range(count)
        ]
        self._loop = asyncio.new_event_loop()
        # Daemon: an error of ours must not leave the process waiting for agents.
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._tasks = [
            self._loop.create_task(Board(settings, self.tally, self._room).run())
            for settings in self._settings
        ]
        self._loop.run_forever()

    def end(self) -> None:
        """End all agents, in order."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._room.shutdown()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _settings(
    state: Path, client: int, port: int, name: str, key: str
) -> AgentSettings:
    folder = state / "releases"
    releases = ReleaseSettings(folder, (name,), (key,), watch_s=WATCH_S)
    address = f"localhost:{port}"
    return AgentSettings(address, client, state, releases=releases, diagnose=False)


@dataclass(frozen=True)
class Figures:
    """What a rollout took. down_bytes, up_bytes: through the link, TLS and all."""

    seconds: float
    down_bytes: int
    up_bytes: int
    tally: Tally
    cuts: int


class Trial:
    """A fleet behind a link, which has OLD installed."""

    def __init__(self, ground: FleetPlace, agents: int, old: Path) -> None:
        """Install OLD everywhere, at full speed."""
        self.ground = ground
        self.agents = agents
        self.relay = Relay(ground.coordinator())
        name = content.read(old).manifest.name
        self.boards = Boards(ground, agents, self.relay.port, name)
        until(self._all_report, "report of every device")
        # At full speed: only the release that is measured travels slowly.
        ground.roll_out(ground.signed(old), agents)
        ground.wait_until_done()

    def _all_report(self) -> bool:
        return len(rollouts.status(self.ground.folder)["devices"]) == self.agents

    def roll_out(
        self, package: Path, bits_per_s: float, cut: float, every_s: float
    ) -> Figures:
        """Bring a package to every device, and return what that took."""
        tally = self.boards.tally
        relay = self.relay
        tally.clear()
        relay.set_rate(bits_per_s)
        down = relay.down.passed_bytes
        up = relay.up.passed_bytes
        cuts = relay.cuts
        self.ground.roll_out(package, self.agents)
        self._wait(cut, every_s)
        seconds = max(tally.fetched_s.values()) - min(tally.wanted_s.values())
        down = relay.down.passed_bytes - down
        up = relay.up.passed_bytes - up
        # What follows, as the switch and its reports, is not the link's.
        relay.set_rate(float("inf"))
        self.ground.wait_until_done()
        return Figures(seconds, down, up, tally, relay.cuts - cuts)

    def _wait(self, cut: float, every_s: float) -> None:
        """Wait until every device has all files, and cut connections meanwhile."""
        draw = Random(0)
        due_s = time.monotonic() + every_s

        def is_there() -> bool:
            nonlocal due_s
            if cut and time.monotonic() > due_s:
                due_s = time.monotonic() + every_s
                self.relay.cut(cut, draw)
            return len(self.boards.tally.fetched_s) == self.agents

        until(is_there, "release on every device")

    def end(self) -> None:
        """End the agents and the link."""
        self.boards.end()
        self.relay.close()


def tell(kind: str, mbps: float, agents: int, figures: Figures) -> None:
    """Print what a rollout took."""
    tally = figures.tally
    print(
        f"{kind}: {agents} devices at {mbps:g} Mbit/s: {figures.seconds:.1f} s, "
        f"{figures.down_bytes / agents / 1000:.1f} kB down and "
        f"{figures.up_bytes / agents / 1000:.1f} kB up for each; of releases "
        f"{tally.chunk_bytes / agents / 1000:.1f} kB, {tally.again_bytes:,} bytes again "
        f"in all; {figures.cuts} cuts, after which {tally.resumed} files went on",
        flush=True,
    )


def without_differences(folder: Path, target: Path) -> Path:
    """Write a package again whose manifest lists no differences: its weights go whole."""
    package = content.read(folder)
    files = {path: package.file(path) for path in package.manifest.files}
    content.write(target, replace(package.manifest, deltas=()), files)
    return target


def trial(arguments: argparse.Namespace, kind: str) -> Figures:
    """Return what one kind takes, in a new fleet."""
    with fleet() as ground:
        new = arguments.new
        if kind == "whole":
            new = without_differences(new, ground.place.path / "new")
        run = Trial(ground, arguments.agents, arguments.old)
        try:
            package = ground.signed(new)
            rate = arguments.mbps * 1e6
            return run.roll_out(package, rate, arguments.cut, arguments.every)
        finally:
            run.end()


def measure(arguments: argparse.Namespace) -> None:
    """Print what each kind takes, and the ratio of both."""
    took = {}
    # A new fleet for each: no byte of the first is on a device when the second begins.
    for kind in [arguments.only] if arguments.only else KINDS:
        took[kind] = trial(arguments, kind)
        tell(kind, arguments.mbps, arguments.agents, took[kind])
    if len(took) == len(KINDS):
        first, second = (took[kind] for kind in KINDS)
        print(
            f"the difference takes 1/{second.seconds / first.seconds:.1f} of the time "
            f"and 1/{second.down_bytes / first.down_bytes:.1f} of the bytes"
        )


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    words = Parser(
        prog="python -m fedlearn.experiments.benchmarks.fleet_link",
        description="Roll a release out to devices behind one slow link.",
    )
    words.add_argument("old", type=Path, metavar="OLD", help="a package")
    words.add_argument("new", type=Path, metavar="NEW", help="the release after it")
    words.add_argument("--agents", type=int, default=50, metavar="N")
    words.add_argument("--mbps", type=float, default=1.0, help="each way (default: 1)")
    words.add_argument("--only", choices=KINDS, help="one of both (default: both)")
    words.add_argument(
        "--cut", type=float, default=0.0, metavar="SHARE", help="of connections at once"
    )
    words.add_argument(
        "--every", type=float, default=2.0, metavar="S", help="from one cut to the next"
    )
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
