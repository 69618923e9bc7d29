"""Whether a fleet under attack from all sides still gives the model of an undisturbed simulation.

python -m fedlearn.experiments.benchmarks.chaos OUT [--agents N] [--rounds N] [--runs N]
    [--seed N] [--leave SHARE]
python -m fedlearn.experiments.benchmarks.chaos OUT --failpoints [POINT …] [--times N]

The model must be the same bit for bit. Real processes on this machine, behind mutual TLS and a
TCP proxy of this file. While a run goes on
- the coordinator is killed (SIGKILL) every few seconds, counted from the moment it listens, and
  started again with --resume;
- of every round a share of the connections is cut, each at a moment of its own, in whatever
  they were sending;
- of every round a share of the agents is killed at any moment, and each agent's life also ends
  at a failpoint drawn at random, in the agent or in the process that trains for it
  (`fedlearn.system.failpoints`);
- frames are sent and taken twice and in the wrong order
  (`fedlearn.experiments.benchmarks.unruly`).
Deadlines are long, so nobody's answer is given up: then the model must be that of the
simulation, and every client's answer must be in the journal once, counted once, and never asked
for again once it was acknowledged. With --leave some agents leave for ever on the way and
deadlines are short: then the model must be that of the simulation of those who were counted.
One line per run tells what was done to it.

--failpoints kills a small fleet at each point, --times times each, one point after another,
without any other disturbance. Points that fail in the place of killing are given as POINT=error
or POINT=full.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import ConfigError, RunError
from fedlearn.experiments.benchmarks.nursery import Child, Nursery, start
from fedlearn.names import nearest
from fedlearn.system import failpoints

CONFIG = """\
[experiment]
name = "chaos"
rounds = {rounds}
[data]
name = "digits"
[data.partition]
kind = "iid"
clients = {agents}
[model]
name = "logistic"
[train]
lr = 0.5
[strategy]
name = "fedavg"
fraction_train = 1.0
[codec]
up = "{up}"
down = "{down}"
[engine]
kind = "serial"
[fleet]
deadline_s = {deadline_s}
min_agents = 1
"""
KEPT = ("model_sha256", "bytes_up", "bytes_down", "accuracy")
"""What of a summary must be the same as in the simulation."""

FAILING = ("journal.after-write=full", "journal.before-sync=error")
"""Points that --failpoints makes fail after it has killed at all."""

ONCE = ("journal.new-segment", "journal.before-folder-sync", "journal.recovery")
"""Points that a process reaches once."""

LIVES = 5
"""Runs after which a failpoint that did not strike often enough counts as never reached."""


@dataclass
class Proxy:
    """Hands bytes on between the agents and the coordinator, until it cuts a connection."""

    to: int  # the coordinator's port
    port: int = 0
    live: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = field(
        default_factory=set
    )

    async def start(self) -> asyncio.AbstractServer:
        """Listen at any free port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def cut(self, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> bool:
        """End a connection at both sides without a word; tells whether it was there still."""
        for side in pair:
            side.transport.abort()
        return pair in self.live

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.transport.abort()
            return
        pair = writer, back
        self.live.add(pair)
        pumps = [
            asyncio.create_task(_pump(reader, back)),
            asyncio.create_task(_pump(there, writer)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        self.cut(pair)
        self.live.discard(pair)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


Arming = Callable[["Chaos", str], str]
"""A run and a command that is to be started, "agent" or "serve" → the failpoints that arm it."""


@dataclass
class Chaos:
    """One run, and what is done to it."""

    folder: Path
    given: argparse.Namespace
    nursery: Nursery
    random: random.Random
    arming: Arming
    did: Counter[str] = field(default_factory=Counter)
    agents: dict[int, Child] = field(default_factory=dict)
    leaving: dict[int, int] = field(
        default_factory=dict
    )  # client → the round after which it leaves for ever
    left: set[int] = field(default_factory=set)
    coordinator: Child | None = None
    over: bool = False

    async def run(self) -> dict[str, Any]:
        """Return the run's summary; raises RunError when the run fails or hangs."""
        self.folder.mkdir(parents=True)
        port = free_port()
        states = self._enroll()
        self.proxy = Proxy(port)
        server = await self.proxy.start()
        tasks = [
            asyncio.create_task(self._keep_agent(client, state))
            for client, state in states.items()
        ]
        tasks.append(asyncio.create_task(self._disturb()))
        coordinating = asyncio.create_task(self._coordinate(port))
        try:
            await asyncio.wait_for(_until(coordinating, tasks), self.given.limit_s)
        except asyncio.TimeoutError:
            raise RunError(
                f"{self.folder}: not done after {self.given.limit_s:g} s, after "
                f"{self._rounds()} rounds"
            ) from None
        finally:
            self.over = True
            for task in [coordinating, *tasks]:
                task.cancel()
            await asyncio.gather(coordinating, *tasks, return_exceptions=True)
            for process in filter(None, [self.coordinator, *self.agents.values()]):
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            server.close()
        summary: dict[str, Any] = json.loads(
            (self.folder / "run" / "summary.json").read_text()
        )
        return summary

    def struck(self) -> Counter[str]:
        """Return how often each failpoint struck."""
        return _lines(self.folder / "struck")

    def happened(self) -> dict[str, Any]:
        """Return what was done to the run."""
        noted = sum((_lines(path) for path in self.folder.rglob("ledger")), Counter())
        turned = {name: noted[name] for name in ("twice", "again", "swapped")}
        return {
            **dict(sorted(self.did.items())),
            **turned,
            "failpoints": dict(sorted(self.struck().items())),
        }

    def _enroll(self) -> dict[int, Path]:
        from fedlearn.clients.agent import identity as agents
        from fedlearn.server import identity

        pki = self.folder / "pki"
        identity.make(pki, ["127.0.0.1"])
        ca = identity.server_credentials(pki).ca
        states = {}
        for client in range(self.given.agents):
            states[client] = state = self.folder / "agents" / str(client)
            made = identity.sign(pki, client, agents.make_key_and_csr(state))
            agents.store(state, client, made, ca, identity.expiry(made))
        return states

    async def _coordinate(self, port: int) -> None:
        """Start the coordinator again and again, until one of them comes to the end of the run."""
        run = self.folder / "run"
        arguments = [
            str(self.folder.parent / "chaos.toml"),
            "--quiet",
            "--out",
            str(run),
            "--pki",
            str(self.folder / "pki"),
        ]
        while True:
            resume = ["--resume"] if (run / "config.toml").exists() else []
            text = self.arming(self, "serve")
            self.coordinator = made = self._start(
                "serve",
                [*arguments, "--port", str(port), *resume],
                self.folder / "coordinator.log",
                text,
            )
            self.did["coordinators"] += 1
            if self.did["coordinator_kills"] < self.given.kills:
                await self._until_it_listens(port, made)
                await _within(made, self.given.kill_s)
                if (
                    made.returncode is None and self._rounds() <= self.given.rounds
                ):  # the report at the end may take longer than it lives
                    made.kill()
                    self.did["coordinator_kills"] += 1
            code = await made.wait()
            self.coordinator = None
            if code == 0:
                return
            if code != -signal.SIGKILL and not (
                code == RunError.exit_code and "=kill" not in text and text
            ):
                raise RunError(
                    f"the coordinator ended with code {code}; see {self.folder}/coordinator.log"
                )

    async def _until_it_listens(self, port: int, made: Child) -> None:
        while made.returncode is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)

    async def _keep_agent(self, client: int, state: Path) -> None:
        arguments = [
            "--coordinator",
            f"127.0.0.1:{self.proxy.port}",
            "--state",
            str(state),
        ]
        while not self.over and client not in self.left:
            made = self._start(
                "agent", arguments, state / "agent.log", self.arming(self, "agent")
            )
            self.agents[client] = made
            code = await made.wait()
            if code == 0:
                return  # the run is over
            if code != -signal.SIGKILL:
                raise RunError(
                    f"agent {client} ended with code {code}; see {state}/agent.log"
                )

    def _start(
        self, command: str, arguments: Sequence[str], log: Path, armed: str
    ) -> Child:
        from fedlearn.experiments.benchmarks import unruly

        settings = unruly.Settings(
            str(log.with_name("ledger")),
            self.nursery.address,
            self.given.unruly,
            self.given.chunk_bytes,
        )
        told = {
            failpoints.VARIABLE: armed,
            failpoints.LOG: str(self.folder / "struck"),
            unruly.VARIABLE: json.dumps(asdict(settings)),
        }
        with open(log, "ab") as file, open(os.devnull, "rb") as nothing:
            return start(
                self.nursery.address,
                command,
                arguments,
                (nothing.fileno(), file.fileno(), file.fileno()),
                told,
            )

    async def _disturb(self) -> None:
        """Of each round, cut a share of the connections and kill a share of the agents; and
        have some leave.
        """
        seen = -1
        while True:
            await asyncio.sleep(0.02)
            if (now := self._rounds()) == seen:
                continue
            seen = now
            for pair in list(self.proxy.live):
                if self.random.random() < self.given.cut:
                    self._soon(self._cut, pair)
            for client in list(self.agents):
                if self.random.random() < self.given.agent_kills:
                    self._soon(self._kill, client)
            for client in [
                client
                for client, round in self.leaving.items()
                if round < now and client not in self.left
            ]:
                self.left.add(client)
                self._kill(
                    client
                )  # at once: the rounds of a small run take milliseconds

    def _soon(self, what: Callable[..., None], whom: Any) -> None:
        asyncio.get_running_loop().call_later(
            self.random.random() * self.given.spread_s, what, whom
        )

    def _cut(self, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.did["cuts"] += self.proxy.cut(pair)

    def _kill(self, client: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.agents[client].kill()
            self.did["agent_kills"] += 1

    def _rounds(self) -> int:
        """Return how many rounds are done, and one more: the first line is the initial model's."""
        try:
            return (self.folder / "run" / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0


def _lines(path: Path) -> Counter[str]:
    """Return how often each line is in a file; none where there is no file."""
    try:
        return Counter(path.read_text().splitlines())
    except OSError:
        return Counter()


async def _until(
    first: asyncio.Task[None], others: Sequence[asyncio.Task[None]]
) -> None:
    """Wait for a task to end; raises what it raises, and what any of the others raises before."""
    waiting = {first, *others}
    while first in waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


async def _within(made: Child, seconds: float) -> None:
    """Wait for a process to end, but no longer."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(made.wait(), seconds)


def free_port() -> int:
    """Return a port below those that connections are given by themselves: it must stay free
    while nobody listens.
    """
    for port in random.sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind(("127.0.0.1", port))
            return port
    raise RunError("no port from 20000 to 29999 is free")


# What must be true of a run that has ended.


def compare(folder: Path, got: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise RunError unless a run came to what the simulation came to."""
    for name in KEPT:
        if got[name] != wanted[name]:
            raise RunError(
                f"{folder}: {name} is {got[name]}, that of the simulation {wanted[name]}"
            )


def check_counts(
    folder: Path, agents: int, rounds: int, all_counted: bool = True
) -> int:
    """Return how many answers were counted; raises RunError for one that was lost, doubled,
    or counted but never stored.

    all_counted: nobody's answer was given up.
    """
    from fedlearn.server.journal import Journal

    answers, counted = Counter[str](), Counter[str]()
    with closing(Journal(folder / "run" / "journal")) as journal:
        for meta, entry in journal.records():
            if meta["kind"] == "answer":
                answers[meta["key"]] += 1
            elif meta["kind"] == "closed":
                _, round, kind, call = meta["key"].split("/")
                counted.update(
                    f"{client}/{round}/{kind}/{int(call) - 1}"
                    for client in json.loads(journal.read(entry))
                )
    if twice := sorted(
        key
        for key, times in (answers + counted).items()
        if max(answers[key], counted[key]) > 1
    ):
        raise RunError(f"{folder}: stored or counted twice: {', '.join(twice)}")
    if never := sorted(counted.keys() - answers.keys()):
        raise RunError(f"{folder}: counted and never stored: {', '.join(never)}")
    wanted = {
        f"{client}/{round}/train/0"
        for client in range(agents)
        for round in range(1, rounds + 1)
    }
    if all_counted and counted.keys() != wanted:
        raise RunError(
            f"{folder}: not counted: {', '.join(sorted(wanted - counted.keys()))}"
        )
    for state in (folder / "agents").iterdir():
        _check_promises(state, answers)
    return counted.total()


def _check_promises(state: Path, answers: Counter[str]) -> None:
    """Raise RunError when what was acknowledged to an agent is not in the journal, or was asked
    for again.
    """
    stored = set[str]()
    for line in (state / "ledger").read_text().splitlines():
        what, _, key = line.partition(" ")
        if what == "stored" and not answers[f"{state.name}/{key}"]:
            raise RunError(f"{state}: {key} was acknowledged and is not in the journal")
        if what == "begin" and key in stored:
            raise RunError(f"{state}: {key} was acknowledged and asked for again")
        if what == "stored":
            stored.add(key)


# What is run.


def at_random(chaos: Chaos, command: str) -> str:
    """Arm an agent, or the process that works for it, at any point; a coordinator is killed by
    the clock.
    """
    if command != "agent" or not chaos.given.patience:
        return ""
    # The point is drawn before the count: a run's seed stands for both, in this order.
    point = chaos.random.choice(failpoints.AGENT + failpoints.TRAINER)
    count = chaos.random.randint(1, chaos.given.patience)
    return f"{point}=kill@{count}"


def every_point() -> list[str]:
    """Return all points that --failpoints knows."""
    from fedlearn.server import journal

    return [
        *failpoints.AGENT,
        *failpoints.TRAINER,
        *failpoints.COORDINATOR,
        *journal.POINTS,
        *FAILING,
    ]


async def _once(
    given: argparse.Namespace, nursery: Nursery, number: int, simulated: dict[str, Any]
) -> dict[str, Any]:
    """Return what was done to a run; raises RunError for one that is not what it should be."""
    begun, folder = time.perf_counter(), given.out / f"run-{number}"
    draw = random.Random(given.seed + number)
    chaos = Chaos(folder, given, nursery, draw, at_random)
    leaving = draw.sample(range(given.agents), round(given.leave * given.agents))
    chaos.leaving = {
        client: draw.randint(1, max(1, given.rounds - 1)) for client in leaving
    }
    summary = await chaos.run()
    if leaving:
        chaos.did["left"] = len(chaos.left)
        simulated = await _simulate(
            nursery,
            given.out,
            "survivors",
            [str(folder / "run"), str(folder / "survivors")],
            folder / "survivors",
        )
    compare(folder, summary, simulated)
    counted = check_counts(folder, given.agents, given.rounds, not leaving)
    told = {
        "seconds": round(time.perf_counter() - begun, 1),
        "counted": counted,
        **chaos.happened(),
    }
    return {**told, "model_sha256": summary["model_sha256"]}


async def _strike(
    given: argparse.Namespace,
    nursery: Nursery,
    number: int,
    entry: str,
    simulated: dict[str, Any],
) -> dict[str, Any]:
    """Strike at a point until it was often enough; returns what it took."""
    begun, (point, _, action) = time.perf_counter(), entry.partition("=")
    left, life = given.times, 0

    def arming(chaos: Chaos, command: str) -> str:
        if (command == "agent") != point.startswith("agent.") or chaos.struck()[
            point
        ] >= left:
            return ""
        if (
            point == "journal.recovery" and chaos.did["coordinators"] == 0
        ):  # there is nothing yet to recover
            return "coordinator.after-closed=kill@1"
        return f"{point}={action or 'kill'}@{1 if point in ONCE else chaos.random.randint(1, 2)}"

    while left > 0:
        life += 1
        if life > LIVES:
            raise RunError(
                f"{entry} struck {given.times - left} times in {LIVES} runs; "
                f"{given.times} were wanted"
            )
        folder = given.out / f"point-{number}-{life}"
        chaos = Chaos(
            folder, given, nursery, random.Random(given.seed + number), arming
        )
        compare(folder, await chaos.run(), simulated)
        check_counts(folder, given.agents, given.rounds)
        left -= chaos.struck()[point]
        _clean(given, folder)
    return {
        "point": entry,
        "struck": given.times - left,
        "runs": life,
        "seconds": round(time.perf_counter() - begun, 1),
    }


async def _simulate(
    nursery: Nursery, out: Path, command: str, arguments: Sequence[str], folder: Path
) -> dict[str, Any]:
    with open(out / "simulated.log", "ab") as log, open(os.devnull, "rb") as nothing:
        made = start(
            nursery.address,
            command,
            arguments,
            (nothing.fileno(), log.fileno(), log.fileno()),
        )
    if code := await made.wait():
        raise RunError(
            f"the simulation ended with code {code}; see {out}/simulated.log"
        )
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def _clean(given: argparse.Namespace, folder: Path) -> None:
    if not given.keep:
        shutil.rmtree(folder)


async def _all(given: argparse.Namespace, nursery: Nursery) -> None:
    out: Path = given.out
    (out / "chaos.toml").write_text(CONFIG.format(**vars(given)))
    simulated = await _simulate(
        nursery,
        out,
        "simulate",
        [str(out / "chaos.toml"), "--quiet", "--out", str(out / "simulated")],
        out / "simulated",
    )
    if given.failpoints is not None:
        for number, entry in enumerate(given.failpoints):
            _tell(out, await _strike(given, nursery, number, entry, simulated))
        return
    for number in range(1, given.runs + 1):
        _tell(out, {"run": number, **await _once(given, nursery, number, simulated)})
        _clean(given, out / f"run-{number}")


def _tell(out: Path, happened: dict[str, Any]) -> None:
    line = json.dumps(happened)
    with open(out / "runs.jsonl", "a") as file:
        file.write(line + "\n")
    print(line, flush=True)


IMPORTED = (
    "fedlearn.clients.agent.agent",
    "fedlearn.clients.agent.work",
    "fedlearn.commands.agent",
    "fedlearn.commands.serve",
    "fedlearn.commands.simulate",
    "fedlearn.engine.pool",
    "fedlearn.experiments.benchmarks.survivors",
    "fedlearn.experiments.benchmarks.unruly",
    "fedlearn.reporting.page",
    "fedlearn.reporting.plots",
    "fedlearn.runs.serving",
    "fedlearn.runs.simulation",
    "numpy.ma",
)
"""What the processes of a fleet would each import for a second or two.

By name: import statements of names that nothing uses are taken away by whoever tidies up.
"""


def warm() -> None:
    """Set a nursery up for processes of a fleet."""
    os.environ |= {
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "GRPC_VERBOSITY": "NONE",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    for name in IMPORTED:
        import_module(name)


COMMANDS = ("serve", "simulate", "agent", "work", "survivors")


def run_command(name: str, arguments: list[str]) -> int:
    """Be a process of the fleet."""
    from fedlearn.clients.agent import work
    from fedlearn.commands import simulate
    from fedlearn.experiments.benchmarks import survivors, unruly

    if name == "work":
        return work.main()
    commands: dict[str, Callable[[list[str]], int]] = {
        "serve": unruly.serve,
        "simulate": simulate.main,
        "agent": unruly.attend,
        "survivors": survivors.main,
    }
    return commands[name](arguments)


def _run(given: argparse.Namespace) -> None:
    given.out = given.out.absolute()
    given.out.mkdir(parents=True, exist_ok=True)
    small = given.failpoints is not None
    given.agents, given.rounds = (
        given.agents or (3 if small else 20),
        given.rounds or (8 if small else 30),
    )
    given.deadline_s = 1.0 if given.leave else 3600.0
    if small:
        given.kills = given.cut = given.agent_kills = given.unruly = 0
    nursery = Nursery({name: partial(run_command, name) for name in COMMANDS}, warm)
    try:
        if small:
            known = every_point()
            given.failpoints = given.failpoints or known
            for entry in given.failpoints:
                if entry.partition("=")[0] not in known:
                    raise ConfigError(
                        f"--failpoints: there is no point '{entry}'.{nearest(entry, known)}"
                    )
        asyncio.run(_all(given, nursery))
    finally:
        nursery.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code, 3 when a run is not what it should be."""
    parser = Parser(
        prog="python -m fedlearn.experiments.benchmarks.chaos",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument(
        "out", type=Path, help="an empty folder for the runs, their logs and runs.jsonl"
    )
    parser.add_argument("--agents", type=int, help="(default: 20; 3 with --failpoints)")
    parser.add_argument("--rounds", type=int, help="(default: 30; 8 with --failpoints)")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of what is done to the runs (their timing is the machine's)",
    )
    parser.add_argument(
        "--cut",
        type=float,
        default=0.3,
        help="share of the connections cut in each round (default: 0.3)",
    )
    parser.add_argument(
        "--agent-kills",
        type=float,
        default=0.05,
        help="share of the agents killed in each round (default: 0.05)",
    )
    parser.add_argument(
        "--patience",
        type=int,
        default=30,
        help=(
            "an agent's life ends at the 1st to so many-th time that it reaches a "
            "point; 0: never (default: 30)"
        ),
    )
    parser.add_argument(
        "--kill-s",
        type=float,
        default=2.0,
        help="seconds that a coordinator lives once it listens (default: 2)",
    )
    parser.add_argument(
        "--kills",
        type=float,
        default=float("inf"),
        help="coordinators that are killed at most (default: no limit)",
    )
    parser.add_argument(
        "--spread-s",
        type=float,
        default=1.0,
        help="seconds over which a round's cuts and kills fall (default: 1)",
    )
    parser.add_argument(
        "--unruly",
        type=float,
        default=0.1,
        help="share of frames that come twice or in the wrong order (default: 0.1)",
    )
    parser.add_argument(
        "--chunk-bytes",
        type=int,
        default=16,
        help="of the smallest chunks: payloads are small here (default: 16)",
    )
    parser.add_argument(
        "--leave",
        type=float,
        default=0.0,
        help="share of the agents that leave for ever (default: 0)",
    )
    parser.add_argument(
        "--limit-s",
        type=float,
        default=1800.0,
        help="seconds after which a run counts as hung (default: 1800)",
    )
    parser.add_argument(
        "--up", default="ef+eden1", help="codec of updates (default: ef+eden1)"
    )
    parser.add_argument(
        "--down", default="eden1", help="codec of models (default: eden1)"
    )
    parser.add_argument(
        "--failpoints",
        nargs="*",
        metavar="POINT",
        help="strike at these points, one after another (default: at all)",
    )
    parser.add_argument(
        "--times",
        type=int,
        default=10,
        help="how often each of them strikes at least (default: 10)",
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the folders of runs that went well"
    )
    given = parser.parse_args(argv)
    return ended(lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
