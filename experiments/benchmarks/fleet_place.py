"""A fleet of this machine for benchmarks: an authority, a release key, a coordinator, devices.

The coordinator is the command ``fedlearn fleet`` over mutual TLS, in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fedlearn
from fedlearn.errors import RunError
from fedlearn.experiments.benchmarks.exchange import Place, place
from fedlearn.package import content, signature
from fedlearn.records.names import ADDRESS_FILE
from fedlearn.release import rollouts
from fedlearn.release.rollouts import RolloutOptions
from fedlearn.server.release import ReleaseKey, make_pair

SOURCES = Path(fedlearn.__file__).absolute().parents[1]

# How often something is looked for, and for how long.
LOOK_S = 0.02
PATIENCE_S = 900.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition. Raises RunError where it never holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise RunError(f"in {PATIENCE_S:g} s there came no {what}")
        time.sleep(LOOK_S)


@dataclass
class FleetPlace:
    """A fleet's folder, and the processes that run in it."""

    place: Place
    key: ReleaseKey
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Return the coordinator's folder."""
        return self.place.path / "fleet"

    @property
    def public_key(self) -> Path:
        """Return the file of the key that devices accept."""
        return self.place.path / "keys" / "release.pem"

    def start(
        self, *words: object, python: str = sys.executable
    ) -> subprocess.Popen[bytes]:
        """Start a command of ours, which ends with this fleet."""
        command = [python, "-m", "fedlearn", *map(str, words)]
        process = subprocess.Popen(
            command,
            cwd=self.place.path,
            # Another Python has the sources from here, and its own packages.
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.processes.append(process)
        return process

    def coordinator(self) -> int:
        """Start the coordinator; returns the port where agents attend."""
        process = self.start("fleet", self.folder, "--pki", self.place.pki)
        path = self.folder / ADDRESS_FILE

        def is_there() -> bool:
            # Told at once: one that ended would be waited for in vain.
            if process.poll() is not None:
                raise RunError(f"the coordinator ended with code {process.returncode}")
            return path.exists()

        until(is_there, "coordinator")
        port: int = json.loads(path.read_text())["port"]
        return port

    def signed(self, package: Path) -> Path:
        """Return a signed copy of a package."""
        copy = self.place.path / f"{package.name}-signed"
        # A copy: the package may be another's, and have no signature.
        shutil.copytree(package, copy)
        plain = content.read(copy)
        lines = signature.sign(plain, self.key.sign, self.key.public_pem)
        content.write_signatures(copy, [lines])
        return copy

    def roll_out(self, package: Path, devices: int) -> None:
        """Write down a rollout to all devices at once."""
        # In one wave: what is measured is the link, and not the gate between waves.
        options = RolloutOptions(
            devices=tuple(range(devices)), shares=(1.0,), key=self.key.public_pem
        )
        rollouts.start(self.folder, package, options)

    def wait_until_done(self) -> None:
        """Wait for the rollout's end. Raises RunError where it is not done."""
        ends = ("done", "withdrawn", "aborted")
        until(lambda: self._phase() in ends, "end of the rollout")
        if self._phase() != "done":
            raise RunError(f"the rollout is {rollouts.status(self.folder)}")

    def _phase(self) -> str:
        return str(rollouts.status(self.folder)["phase"])

    def end(self) -> None:
        """End all processes, agents first: each ends what it serves with."""
        for process in reversed(self.processes):
            process.terminate()
            process.wait()


@contextlib.contextmanager
def fleet() -> Iterator[FleetPlace]:
    """Yield a new fleet, whose coordinator is not started."""
    with place() as ground:
        one = FleetPlace(ground, make_pair(ground.path / "keys"))
        try:
            yield one
        finally:
            one.end()
