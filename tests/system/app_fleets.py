"""A coordinator of a Flower app and its agents as processes, over mutual TLS, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedlearn.clients.agent import identity as agent_identity
from fedlearn.server import identity
from tests.system.fleets import ROOT, free_port, kill

SAMPLES = ROOT / "tests" / "apps" / "samples"


class AppFleet:
    """Processes in one folder; whoever is killed by a failpoint is started again, without."""

    def __init__(self, folder: Path, name: str, *options: Any) -> None:
        self.folder = folder
        self.app = SAMPLES / name
        self.options = options
        self.run = folder / "run"
        self.pki = folder / "pki"
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        identity.make(self.pki, ["localhost"])
        self.kills = 0
        self._coordinator: subprocess.Popen[bytes]
        self._agents: dict[int, subprocess.Popen[bytes]] = {}
        self._settings: dict[int, str] = {}
        # Called with the state folder of an agent before it starts again.
        self.before_restart: Callable[[Path], None] = lambda state: None

    def serve(self, points: str = "", resume: bool = False) -> None:
        place = ["--pki", str(self.pki), "--port", str(self.port), "--log", "text"]
        words = [*place, "--out", str(self.run)]
        words += ["--resume"] if resume else [str(self.app), *map(str, self.options)]
        self._coordinator = self._start("serve", words, points, "coordinator")

    def attend(self, client: int, points: str = "", settings: str = "") -> None:
        """Start an agent; settings: more of its agent.ini."""
        state = self.folder / f"state{client}"
        if not state.exists():
            self._enroll(client, state)
        self._settings[client] = settings
        ini = self.folder / f"agent{client}.ini"
        ini.write_text(f"[agent]\n{settings}")
        place = ["--coordinator", f"localhost:{self.port}", "--state", str(state)]
        words = [*place, "--settings", str(ini)]
        self._agents[client] = self._start("agent", words, points, f"agent{client}")

    def wait(self, seconds: float = 240.0) -> dict[str, Any]:
        """Wait for the run's end, and return its summary."""
        deadline = time.monotonic() + seconds
        while (code := self._coordinator.poll()) is None or code == -signal.SIGKILL:
            assert time.monotonic() < deadline, self.log("coordinator")
            if code is not None:
                self.kills += 1
                self.serve(resume=True)
            for client, agent in list(self._agents.items()):
                if agent.poll() == -signal.SIGKILL:
                    self.kills += 1
                    self.before_restart(self.folder / f"state{client}")
                    self.attend(client, "", self._settings[client])
            time.sleep(0.05)
        self.code = code
        assert code in (0, 3), self.log("coordinator")
        return json.loads((self.run / "summary.json").read_text())

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def end(self) -> None:
        for process in (self._coordinator, *self._agents.values()):
            if process.poll() is None:
                kill(process)
            process.wait()

    def _enroll(self, client: int, state: Path) -> None:
        # As a real agent does it: the key never leaves its folder.
        request = agent_identity.make_key_and_csr(state)
        certificate = identity.sign(self.pki, client, request)
        authority = identity.server_credentials(self.pki).ca
        expiry = identity.expiry(certificate)
        agent_identity.store(state, client, certificate, authority, expiry)

    def _start(
        self, command: str, words: list[str], points: str, name: str
    ) -> subprocess.Popen[bytes]:
        # What is installed at an agent is on its path.
        path = os.pathsep.join([str(ROOT), str(self.app)])
        environment = {**os.environ, "PYTHONPATH": path}
        if points:
            environment["FEDLEARN_FAILPOINTS"] = points
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "fedlearn", command, *words],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
