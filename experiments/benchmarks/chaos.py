"""Whether a fleet that is torn at from all sides still gives the model of an undisturbed simulation, bit for bit.

python -m fedlearn.experiments.benchmarks.chaos OUT [--agents N] [--rounds N] [--runs N] [--seed N]

Real processes on this machine, behind mutual TLS and a TCP proxy of this file. While a run goes on
- the coordinator is killed (SIGKILL) every few seconds, counted from the moment it listens, and started again with --resume;
- of every round a share of the connections is cut, each at a moment of its own, in whatever they were sending;
- of every round a share of the agents is killed, the agent or the process that trains for it, and started again.
Deadlines are long, so nobody's answer is given up: then the model must be that of the simulation. One line per run tells what
was done to it. The coordinator is forked from a process that has its imports, or it would spend its life on them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlearn.arguments import Parser, ended
from fedlearn.errors import RunError

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
deadline_s = 3600
min_agents = 1
"""
KEPT = ("model_sha256", "bytes_up", "bytes_down", "accuracy")
"""What of a summary must be the same as in the simulation."""


class Stable:
    """A process with everything imported, of which coordinators are forked: `start` one, `wait` for its exit code."""

    def __init__(self) -> None:
        """Fork it, from a process that has no thread and no event loop yet."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # each message by itself
        self.pid = os.fork()
        if not self.pid:
            ours.close()
            _stable(theirs)
        theirs.close()
        ours.setblocking(False)
        self.socket = ours

    async def start(self, command: str, arguments: Sequence[str], log: Path) -> int:
        """Start a command, and return its process id."""
        await asyncio.get_running_loop().sock_sendall(self.socket, json.dumps([command, *arguments, str(log)]).encode())
        return int(await self._told())

    async def wait(self) -> int:
        """Return the exit code of what was started; minus the signal that ended it."""
        return int(await self._told())

    async def _told(self) -> str:
        told = (await asyncio.get_running_loop().sock_recv(self.socket, 64)).decode()
        if not told:
            raise RunError("the process that starts coordinators has ended")
        return told

    def close(self) -> None:
        """End it."""
        self.socket.close()
        os.waitpid(self.pid, 0)


def _stable(orders: socket.socket) -> None:
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    import fedlearn.engine.serving
    import fedlearn.reporting.page
    import fedlearn.reporting.plots  # noqa: F401  # for the children
    from fedlearn import serve, simulate

    while order := orders.recv(65536):
        command, *arguments, log = json.loads(order)
        child = os.fork()
        if not child:
            code = 3
            try:
                orders.close()
                os.setsid()
                file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.dup2(file, 1)
                os.dup2(file, 2)
                code = {"serve": serve.main, "simulate": simulate.main}[command](arguments)
            finally:
                os._exit(code)
        orders.send(str(child).encode())
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if select.select([orders], [], [], 0.02)[0]:  # nothing comes meanwhile but the end of who gives the orders
                os.kill(child, signal.SIGKILL)
                os._exit(3)
        orders.send(str(os.waitstatus_to_exitcode(ended[1])).encode())
    os._exit(0)


@dataclass
class Proxy:
    """Hands bytes on between the agents and the coordinator, until it cuts a connection."""

    to: int  # the coordinator's port
    port: int = 0
    live: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = field(default_factory=set)

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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.transport.abort()
            return
        pair = writer, back
        self.live.add(pair)
        pumps = [asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))]
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


@dataclass
class Chaos:
    """One run, and what is done to it."""

    folder: Path
    given: argparse.Namespace
    stable: Stable
    random: random.Random
    did: Counter[str] = field(default_factory=Counter)
    agents: dict[int, asyncio.subprocess.Process] = field(default_factory=dict)
    killed: dict[int, int] = field(default_factory=dict)  # client → the round in which its trainer was killed
    coordinator: int = 0  # its process id, while it runs
    over: bool = False

    async def run(self, simulated: dict[str, Any]) -> dict[str, Any]:
        """Return what happened; raises RunError when the run fails, hangs, or ends with another model."""
        begun = time.perf_counter()
        self.folder.mkdir(parents=True)
        port = _free_port()
        states = self._enrol()
        self.proxy = Proxy(port)
        server = await self.proxy.start()
        tasks = [asyncio.create_task(self._keep_agent(client, state)) for client, state in states.items()]
        tasks.append(asyncio.create_task(self._disturb()))
        try:
            await asyncio.wait_for(self._coordinate(port), self.given.limit_s)
        except asyncio.TimeoutError:
            raise RunError(f"{self.folder}: not done after {self.given.limit_s:g} s, after {self._rounds()} rounds") from None
        finally:
            self.over = True
            if self.coordinator:
                os.kill(self.coordinator, signal.SIGKILL)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for process in self.agents.values():
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            server.close()
        summary = json.loads((self.folder / "run" / "summary.json").read_text())
        for name in KEPT:
            if summary[name] != simulated[name]:
                raise RunError(f"{self.folder}: {name} is {summary[name]}, that of the simulation {simulated[name]}")
        return {"seconds": round(time.perf_counter() - begun, 1), **dict(sorted(self.did.items())), "model_sha256": summary["model_sha256"]}

    def _enrol(self) -> dict[int, Path]:
        from fedlearn.clients import identity as agents
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
        arguments = [str(self.folder.parent / "chaos.toml"), "--quiet", "--out", str(run), "--pki", str(self.folder / "pki")]
        while True:
            resume = ["--resume"] if (run / "config.toml").exists() else []
            command = [*arguments, "--port", str(port), *resume]
            pid = self.coordinator = await self.stable.start("serve", command, self.folder / "coordinator.log")
            self.did["coordinators"] += 1
            ending = asyncio.create_task(self.stable.wait())
            if self.did["coordinator_kills"] < self.given.kills:
                await self._until_it_listens(port, ending)
                await asyncio.wait([ending], timeout=self.given.kill_s)
                if not ending.done() and self._rounds() <= self.given.rounds:  # the report at the end may take longer than it lives
                    os.kill(pid, signal.SIGKILL)
                    self.did["coordinator_kills"] += 1
            code = await ending
            self.coordinator = 0
            if code == 0:
                return
            if code != -signal.SIGKILL:
                raise RunError(f"the coordinator ended with code {code}; see {self.folder}/coordinator.log")

    async def _until_it_listens(self, port: int, ending: asyncio.Task[int]) -> None:
        while not ending.done():
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)

    async def _keep_agent(self, client: int, state: Path) -> None:
        command = [sys.executable, "-m", "fedlearn.agent", "--coordinator", f"127.0.0.1:{self.proxy.port}", "--state", str(state)]
        command.append("--end-with-input")  # none outlives this process
        while not self.over:
            with open(state / "agent.log", "ab") as log:
                made = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=log, stderr=log)
            self.agents[client] = made
            code = await made.wait()
            if code == 0:
                return  # the run is over
            if code != -signal.SIGKILL:
                raise RunError(f"agent {client} ended with code {code}; see {state}/agent.log")

    async def _disturb(self) -> None:
        """Of each round, cut a share of the connections and kill a share of the agents."""
        seen = -1
        while True:
            await asyncio.sleep(0.02)
            if (now := self._rounds()) == seen:
                continue
            seen = now
            for pair in list(self.proxy.live):
                if self.random.random() < self.given.cut:
                    asyncio.get_running_loop().call_later(self.random.random() * self.given.spread_s, self._cut, pair)
            for client in list(self.agents):
                if self.random.random() < self.given.agent_kills:
                    asyncio.get_running_loop().call_later(self.random.random() * self.given.spread_s, self._kill, client)

    def _cut(self, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.did["cuts"] += self.proxy.cut(pair)

    def _kill(self, client: int) -> None:
        if self.over:
            return
        pid = self.agents[client].pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        with contextlib.suppress(OSError, ProcessLookupError):
            working = [int(child) for child in children.read_text().split()]
            # Once a round: work whose process dies again and again is given up, and then the client is missing.
            alone = working and self.killed.get(client) != self._rounds() and self.random.random() < 0.5
            if alone:
                self.killed[client] = self._rounds()
            os.kill(working[0] if alone else pid, signal.SIGKILL)
            self.did["trainer_kills" if alone else "agent_kills"] += 1

    def _rounds(self) -> int:
        try:
            return (self.folder / "run" / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0


def _free_port() -> int:
    """Return a port below those that connections are given by themselves: it must stay free while nobody listens."""
    for port in random.sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind(("127.0.0.1", port))
            return port
    raise RunError("no port from 20000 to 29999 is free")


async def _simulate(stable: Stable, out: Path) -> dict[str, Any]:
    await stable.start("simulate", [str(out / "chaos.toml"), "--quiet", "--out", str(out / "simulated")], out / "simulated.log")
    if code := await stable.wait():
        raise RunError(f"the simulation ended with code {code}; see {out}/simulated.log")
    summary: dict[str, Any] = json.loads((out / "simulated" / "summary.json").read_text())
    return summary


async def _runs(given: argparse.Namespace, stable: Stable) -> None:
    out: Path = given.out
    (out / "chaos.toml").write_text(CONFIG.format(**vars(given)))
    simulated = await _simulate(stable, out)
    for number in range(1, given.runs + 1):
        folder = out / f"run-{number}"
        happened = await Chaos(folder, given, stable, random.Random(given.seed + number)).run(simulated)
        line = json.dumps({"run": number, **happened})
        with open(out / "runs.jsonl", "a") as file:
            file.write(line + "\n")
        print(line, flush=True)
        if not given.keep:
            shutil.rmtree(folder)


def _run(given: argparse.Namespace) -> None:
    given.out = given.out.absolute()
    given.out.mkdir(parents=True, exist_ok=True)
    stable = Stable()
    try:
        asyncio.run(_runs(given, stable))
    finally:
        stable.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code, 3 when a run ends with another model."""
    parser = Parser(prog="python -m fedlearn.experiments.benchmarks.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="an empty folder for the runs, their logs and runs.jsonl")
    parser.add_argument("--agents", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of what is done to the runs (their timing is the machine's)")
    parser.add_argument("--cut", type=float, default=0.3, help="share of the connections cut in each round (default: 0.3)")
    parser.add_argument("--agent-kills", type=float, default=0.05, help="share of the agents killed in each round (default: 0.05)")
    parser.add_argument("--kill-s", type=float, default=2.0, help="seconds that a coordinator lives once it listens (default: 2)")
    parser.add_argument("--kills", type=float, default=float("inf"), help="coordinators that are killed at most (default: no limit)")
    parser.add_argument("--spread-s", type=float, default=1.0, help="seconds over which a round's cuts and kills fall (default: 1)")
    parser.add_argument("--limit-s", type=float, default=1800.0, help="seconds after which a run counts as hung (default: 1800)")
    parser.add_argument("--up", default="ef+eden1", help="codec of updates (default: ef+eden1)")
    parser.add_argument("--down", default="eden1", help="codec of models (default: eden1)")
    parser.add_argument("--keep", action="store_true", help="keep the folders of runs that went well")
    given = parser.parse_args(argv)
    return ended(lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
