"""Three short runs, whose file calls go wrong one at a time, and what must come of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fedlearn.errors import RunError
from fedlearn.experiments.benchmarks import unruly
from fedlearn.experiments.benchmarks.chaos import KEPT, check_counts
from fedlearn.experiments.benchmarks.nursery import Child, Nursery, start
from fedlearn.records.names import MODEL_FILE
from fedlearn.records.writing import read_lines
from tests.system.sweep.shim import VARIABLE, Plan

# A life of any process that takes longer has hung.
LIMIT_S = 90.0

# How long an agent may take to end once the run is over.
GOODBYE_S = 1.0

# Of the environment: a process with it draws no pictures, which take most of a short run's time.
NO_PICTURES = "FEDLEARN_SWEEP_NO_PICTURES"

# Lives of a run: one that a fault ends, and as many as it may take to go on.
LIVES = 3

_PORTS = itertools.cycle(random.sample(range(30_000, 32_700), 2_700))

ROUNDS = 2
AGENTS = 2

CONFIG = """\
[experiment]
name = "sweep"
rounds = {rounds}
checkpoint_every = 1
[data]
name = "digits"
[data.partition]
kind = "iid"
clients = {clients}
[model]
name = "logistic"
[train]
lr = 0.5
[strategy]
name = "fedavg"
fraction_train = 1.0
[codec]
up = "ef+eden1"
down = "eden1"
downlink = "shadow"
[engine]
kind = "{engine}"
workers = 1
[fleet]
deadline_s = 3600
min_agents = {clients}
"""


@dataclass(frozen=True)
class Trial:
    """What came of one fault; call: where it struck, "" where it did not.

    ended: "same" for the simulation's result at once, "resumed" for the same after a new start,
    "told" for that of the clients whose disks did not fail. problem: "" when all is right.
    """

    scene: str
    fault: str
    at: int
    call: str
    ended: str = ""
    problem: str = ""


@dataclass
class Lab:
    """Where trials are made: a folder, and what starts processes."""

    out: Path
    nursery: Nursery
    simulated: dict[str, Any] = field(default_factory=dict)

    async def prepare(self) -> None:
        """Simulate without faults, and make what the trials copy."""
        for engine in ("pool", "serial"):
            text = CONFIG.format(rounds=ROUNDS, clients=AGENTS, engine=engine)
            (self.out / f"{engine}.toml").write_text(text)
        folder = self.out / "simulated"
        begun = self.run_of(folder, "serial")
        code, text = await self.life("simulate", begun, self.out / "simulated.log")
        if code:
            raise RunError(f"the simulation ended with code {code}: {text}")
        self.simulated = json.loads((folder / "run" / "summary.json").read_text())
        _enroll(self.out / "enrolled")

    def run_of(self, folder: Path, engine: str) -> list[str]:
        """Return the arguments of a run in a trial's folder."""
        config = self.out / f"{engine}.toml"
        run = folder / "run"
        # As a person would: there is nothing to resume before the config is there.
        resume = ["--resume"] if (run / "config.toml").exists() else []
        return [str(config), "--quiet", "--out", str(run), *resume]

    def start(
        self,
        command: str,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
    ) -> Child:
        """Start a process whose output goes to a log."""
        with log.open("ab") as file, open(os.devnull, "rb") as nothing:
            files = (nothing.fileno(), file.fileno(), file.fileno())
            return start(self.nursery.address, command, arguments, files, environment)

    async def life(
        self,
        command: str,
        arguments: Sequence[str],
        log: Path,
        plan: Plan | None = None,
    ) -> tuple[int, str]:
        """Run a process to its end; return its code, and what it said."""
        log.unlink(missing_ok=True)
        environment = _environment(plan)
        if plan is None:
            environment[NO_PICTURES] = "1"
        child = self.start(command, arguments, log, environment)
        try:
            code = await asyncio.wait_for(child.wait(), LIMIT_S)
        except asyncio.TimeoutError:
            raise RunError(f"it hangs after {log.read_text()!r}") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        return code, log.read_text()

    async def lives(
        self, command: str, arguments: Callable[[], list[str]], log: Path, plan: Plan
    ) -> int:
        """Run until it ends well; return the number of lives. Raises RunError."""
        ends = []
        present: Plan | None = plan
        for number in range(1, LIVES + 1):
            code, text = await self.life(command, arguments(), log, present)
            check_end(code, text)
            if code == 0:
                return number
            ends.append(f"{code}: {text.strip()}")
            # With pictures where they were struck: a new start has to draw them.
            drawing = any("/plots" in call or ".html" in call for call in plan.calls)
            unarmed = Plan.write(log.with_name("unarmed"), log.with_name("nowhere"))
            present = unarmed if drawing else None
        raise RunError(f"it does not go on: {ends}")

    def compare(self, folder: Path) -> None:
        """Raise RunError unless a run came to what the simulation came to."""
        summary = json.loads((folder / "run" / "summary.json").read_text())
        for name in KEPT:
            if summary[name] != self.simulated[name]:
                raise RunError(f"{name} is {summary[name]}, not {self.simulated[name]}")
        undisturbed = self.out / "simulated" / "run"
        for file in sorted(undisturbed.iterdir()):
            if file.is_file() and not (folder / "run" / file.name).exists():
                raise RunError(f"{file.name} is missing")
        model = (folder / "run" / MODEL_FILE).read_bytes()
        if model != (undisturbed / MODEL_FILE).read_bytes():
            raise RunError(f"{MODEL_FILE} is not the summary's")
        rounds = [line["round"] for line in read_lines(folder / "run")]
        if rounds != list(range(ROUNDS + 1)):
            raise RunError(f"the lines of the rounds are {rounds}")


async def simulate(lab: Lab, folder: Path, plan: Plan) -> str:
    """Simulate with a pool; what its processes write and read is below folder/out."""
    out = folder / "out"
    log = folder / "log"
    lives = await lab.lives("simulate", partial(lab.run_of, out, "pool"), log, plan)
    lab.compare(out)
    return _ended(lives)


async def serve(lab: Lab, folder: Path, plan: Plan) -> str:
    """Serve two agents; what the coordinator writes and reads is below folder/out."""
    out = folder / "out"
    fleet = Fleet(lab, folder)
    return await fleet.run(out, serving=plan)


async def work(lab: Lab, folder: Path, plan: Plan) -> str:
    """Work for a coordinator; what the first agent's two processes use is below folder/out."""
    fleet = Fleet(lab, folder)
    return await fleet.run(folder / "coordinator", working=plan)


SCENES = {"simulate": simulate, "serve": serve, "work": work}


class Fleet:
    """Two agents and a coordinator, each started again until it ends well."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.port = _next_port()
        self.children: set[Child] = set()
        # The state of the agent that may be struck lies where the plan counts.
        shutil.copytree(lab.out / "enrolled" / "agents", folder / "agents")
        (folder / "out").mkdir()
        (folder / "agents" / "0").rename(folder / "out" / "0")

    async def run(
        self, out: Path, serving: Plan | None = None, working: Plan | None = None
    ) -> str:
        """Run to the end, and return how it ended. Raises RunError."""
        out.mkdir(exist_ok=True)
        shutil.copytree(self.lab.out / "enrolled" / "pki", out / "pki")
        attending = [
            asyncio.create_task(self._attend(self.folder / "out" / "0", working)),
            asyncio.create_task(self._attend(self.folder / "agents" / "1", None)),
        ]
        try:
            lives = await self._coordinate(out, serving)
            # One that was not there at the end is not told of it, and waits for a next run.
            done, _ = await asyncio.wait(attending, timeout=GOODBYE_S)
            for task in done:
                task.result()
        finally:
            for task in attending:
                task.cancel()
            await asyncio.gather(*attending, return_exceptions=True)
            for child in self.children:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        for log in self.folder.glob("agent-*.log"):
            if "Traceback" in log.read_text():
                raise RunError(f"{log.name}: {log.read_text()[-1000:]}")
        return await self._judged(out, lives)

    async def _coordinate(self, out: Path, plan: Plan | None) -> int:
        pki = str(out / "pki")

        def arguments() -> list[str]:
            run = self.lab.run_of(out, "serial")
            return [*run, "--pki", pki, "--port", str(self.port)]

        nothing = Plan.write(self.folder / "no-plan", self.folder / "nowhere")
        log = self.folder / "log"
        return await self.lab.lives("serve", arguments, log, plan or nothing)

    async def _attend(self, state: Path, plan: Plan | None) -> None:
        """Keep an agent until it is told that the run is over."""
        arguments = ["--coordinator", f"127.0.0.1:{self.port}", "--state", str(state)]
        # Beside the state: the ledger is this test's, and no file of the agent's.
        ledger = self.folder / f"ledger-{state.name}"
        ledger.touch()
        log = self.folder / f"agent-{state.name}.log"
        settings = unruly.Settings(str(ledger), self.lab.nursery.address, 0.0, 4096)
        variables = {unruly.VARIABLE: json.dumps(asdict(settings))}
        while True:
            environment = variables | _environment(plan)
            child = self.lab.start("agent", arguments, log, environment)
            self.children.add(child)
            code = await child.wait()
            if code == 0:
                return
            if plan is None and code != -signal.SIGKILL:
                raise RunError(f"agent {state.name}: code {code}, {log.read_text()}")
            plan = None

    async def _judged(self, out: Path, lives: int) -> str:
        """Return how the run ended. Raises RunError for answers that are lost or doubled."""
        ledgers = {"0": self.folder / "out" / "0", "1": self.folder / "agents" / "1"}
        (out / "agents").mkdir(exist_ok=True)
        for client in ledgers:
            state = out / "agents" / client
            state.mkdir(exist_ok=True)
            shutil.copy(self.folder / f"ledger-{client}", state / "ledger")
        summary = json.loads((out / "run" / "summary.json").read_text())
        check_counts(out, AGENTS, ROUNDS, summary["failed"] == 0)
        if summary["failed"] == 0:
            self.lab.compare(out)
            return _ended(lives)
        # A device whose disk failed has lost its round, and said so.
        self._check_reasons(out)
        survivors = self.folder / "survivors"
        arguments = [str(out / "run"), str(survivors)]
        code, text = await self.lab.life("survivors", arguments, self.folder / "log")
        if code:
            raise RunError(f"the survivors' simulation: {code}, {text}")
        expected = json.loads((survivors / "summary.json").read_text())
        if expected["model_sha256"] != summary["model_sha256"]:
            raise RunError("the model is not that of those who were counted")
        return "told"

    def _check_reasons(self, out: Path) -> None:
        lines = (out / "run" / "metrics.jsonl").read_text().splitlines()
        for line in lines:
            for client, reason in json.loads(line)["failures"].items():
                if client != "0" or "disk" not in reason:
                    raise RunError(f"client {client} failed: {reason}")


def _next_port() -> int:
    """Return a free port that no other trial of this sweep has.

    It must stay free while its coordinator is down, so it is below those that the system gives
    away, and beyond those that other tests draw.
    """
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RunError("no port is free")


def _ended(lives: int) -> str:
    return "same" if lives == 1 else "resumed"


def check_end(code: int, text: str) -> None:
    """Raise RunError for an end that is neither a kill, nor right, nor told in one line."""
    if code == -signal.SIGKILL:
        return
    lines = text.strip().splitlines()
    if "Traceback" in text or len(lines) > 1:
        raise RunError(f"code {code} and {text[-800:]!r}")
    if code and not lines:
        raise RunError(f"code {code} without a word")


def _environment(plan: Plan | None) -> dict[str, str]:
    return plan.environment if plan else {VARIABLE: ""}


def _enroll(folder: Path) -> None:
    """Make an authority, and the state folders of agents that it knows."""
    from fedlearn.clients.agent import identity as agents
    from fedlearn.server import identity

    pki = folder / "pki"
    identity.make(pki, ["127.0.0.1"])
    ca = identity.server_credentials(pki).ca
    for client in range(AGENTS):
        state = folder / "agents" / str(client)
        certificate = identity.sign(pki, client, agents.make_key_and_csr(state))
        expires = identity.expiry(certificate)
        agents.store(state, client, certificate, ca, expires)
