"""Agents as processes of this machine, for a try of a fleet: `fedlearn serve --local-agents`."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fedlearn.clients.agent import identity as agent_identity
from fedlearn.errors import ConfigError, RunError
from fedlearn.exchange.addresses import bare_host, is_everywhere
from fedlearn.server import identity
from fedlearn.system import files
from fedlearn.system.own_path import environment

# This machine, by the names that a server's certificate may have.
LOOPBACKS = ("127.0.0.1", "localhost", "::1")

# How long an agent may take to end by itself.
_PATIENCE_S = 5.0


def dialled_host(host: str, pki: Path | None) -> str:
    """Return the host at which agents of this machine reach a coordinator.

    host: where it listens. pki: the authority's folder; None: without TLS. Raises
    ConfigError for a host that the server's certificate does not name.
    """
    bare = bare_host(host)
    # "All addresses" is none that anybody could connect to, or that a certificate names.
    choices = LOOPBACKS if is_everywhere(bare) else (bare,)
    if pki is None:
        return choices[0]
    names = identity.server_names(pki)
    for choice in choices:
        if choice in names:
            return choice
    raise ConfigError(
        f"--host {host}: local agents would not trust it, for the certificate in '{pki}' "
        f"names {', '.join(names)} alone; "
        f"fedlearn pki server --pki {shlex.quote(str(pki))} --name {bare}"
    )


class LocalAgents:
    """The agents 0 to N-1 of one run; each has a folder with its state and its log."""

    def __init__(self, folder: Path, pki: Path | None) -> None:
        """Take the folder for theirs. pki: the authority's folder; None: without TLS."""
        self.folder = folder
        self.pki = pki
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        coordinator: str,
        count: int,
        allowed: Sequence[str],
        apps: Sequence[str] = (),
    ) -> None:
        """Start the agents.

        allowed: the names that they may import for the run. apps: the Flower apps that they
        may run. The user who runs this gave those names, on this machine.
        """
        words = [word for name in allowed for word in ("--allow", name)]
        words += [word for name in apps for word in ("--apps", name)]
        files.make_folder(self.folder)
        for client in range(count):
            state = self.folder / str(client)
            if self.pki is not None:
                self._enroll(client, state, self.pki)
            files.make_folder(state)
            command = self._command(coordinator, client, state, words)
            with open(state / "agent.log", "ab", opener=files.private) as log:
                # In a session of its own, because Ctrl-C is ours to pass on.
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=environment(),
                )
            self._processes.append(process)

    def check(self) -> None:
        """Raise RunError when an agent has ended."""
        for client, process in enumerate(self._processes):
            if process.poll() is not None:
                raise RunError(
                    f"local agent {client} ended with code {process.returncode}; "
                    f"see {self.folder}/{client}/agent.log"
                )

    def close(self, over: bool) -> None:
        """Wait for the agents to end. over: the run is; otherwise they are told to."""
        for process in self._processes:
            assert process.stdin is not None
            try:
                # An agent ends with its input; of a run that is over, it has gone already.
                if not over:
                    process.stdin.close()
                # It may be in the middle of a step, which it gives up within seconds.
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdin.close()

    def _command(
        self, coordinator: str, client: int, state: Path, allowances: list[str]
    ) -> list[str]:
        command = [sys.executable, "-m", "fedlearn.agent"]
        command += ["--coordinator", coordinator]
        command += ["--client", str(client), "--state", str(state)]
        if self.pki is None:
            command.append("--insecure")
        command += allowances
        # It ends when we do, even if we are killed.
        command.append("--end-with-input")
        return command

    def _enroll(self, client: int, state: Path, pki: Path) -> None:
        """Give an agent its certificate, unless it has one from an earlier start."""
        if agent_identity.read_identity(state) is not None:
            return
        # As a real agent does it: the key never leaves its folder.
        request = agent_identity.make_key_and_csr(state)
        certificate = identity.sign(pki, client, request)
        authority = identity.server_credentials(pki).ca
        expiry = identity.expiry(certificate)
        agent_identity.store(state, client, certificate, authority, expiry)
