"""Install releases on a real disk and kill -9 the process, at failpoints and at random moments.

`python -m tests.clients.device.install_kills 1000 [SEED]` kills so many processes. Each one
goes on where the last one was killed: it installs the next release, and next, and commits most.
After every kill the record names what is whole, and there is a model to serve.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from fedlearn.system import failpoints

# Before what reaches the points is imported: see `failpoints.arm`.
failpoints.arm("")

from fedlearn.clients.device.slots import InstallDisk  # noqa: E402
from fedlearn.clients.install_actions import (  # noqa: E402
    FetchRelease,
    InspectSlot,
    ServeSlot,
    StageRelease,
    TellInstalled,
    TryRelease,
    VerifyRelease,
    WriteRecord,
)
from fedlearn.clients.install_stages import InstallStage  # noqa: E402
from fedlearn.clients.installation import Installation  # noqa: E402
from fedlearn.clients.installed import WatchTerms, record_at_boot  # noqa: E402
from fedlearn.exchange.releases import (  # noqa: E402
    WantedRelease,
    WatchFigures,
    WatchLimits,
)
from fedlearn.package import content  # noqa: E402
from tests.clients.device import releases  # noqa: E402

TERMS = WatchTerms(0.0, 60.0, 3, WatchLimits(1, errors=0.05))
BAD = WatchFigures(100, 0.5)

# Releases that lie ready for a process: more than it can install before it is killed.
READY = 12


class Installer:
    """A process that installs without end: the real machine on the real disk."""

    def __init__(self, folder: Path, shelf: Path, seed: int):
        self.disk = InstallDisk(folder)
        self.disk.sweep()
        self.shelf = shelf
        self.random = Random(seed)
        self.machine: Any = Installation(self.disk.read())
        self.serving: Any = None

    def run(self):
        """Install the releases of the shelf, one after another."""
        machine = self.machine
        self.perform(machine.booted(self.disk.intact(machine.record), 0.0))
        counter = machine.record.committed.counter if machine.record.committed else 0
        # A release that failed is passed over.
        if machine.record.failure is not None:
            counter = max(counter, machine.record.failure.release.counter)
        while (self.shelf / str(counter + 1)).exists():
            counter += 1
            self.package = content.read(self.shelf / str(counter))
            wanted = WantedRelease(counter, releases.name_of(self.package))
            self.perform(machine.want(wanted, 0.0))
            if machine.stage is InstallStage.WATCHING:
                self.watch()

    def watch(self):
        machine = self.machine
        self.perform(machine.serving(machine.record.active, 0.0))
        if self.random.random() < 0.25:
            self.perform(machine.observed(BAD, 0.0))
        else:
            self.perform(machine.tick(0.0))

    def perform(self, actions):
        for action in actions:
            self.perform(self.do(action))

    def do(self, action):
        machine = self.machine
        match action:
            case WriteRecord(record):
                self.disk.write(record)
                return machine.written(0.0)
            case FetchRelease(wanted):
                return machine.worked(InstallStage.FETCHING, wanted, None, 0.0)
            case VerifyRelease(wanted, _):
                return machine.worked(InstallStage.VERIFYING, wanted, None, 0.0)
            case StageRelease(wanted, slot):
                self.disk.stage(self.package, slot, wanted)
                return machine.worked(InstallStage.STAGING, wanted, None, 0.0)
            case TryRelease(wanted, _):
                return machine.tried(wanted, None, TERMS, 0.0)
            case InspectSlot(wanted, slot):
                objection = self.disk.objection(slot, wanted)
                return machine.worked(InstallStage.INSPECTING, wanted, objection, 0.0)
            case ServeSlot(slot, _):
                self.serving = slot
            case TellInstalled():
                pass
        return []


def check(folder: Path, happened: Counter[str]) -> int:
    """Look at what a killed process left; returns the counter that serves next."""
    disk = InstallDisk(folder)
    record = disk.read()
    assert not (folder / "record.damaged.json").exists(), "the record is damaged"
    assert disk.intact(record) == set(record.contents), "a named slot is not whole"
    assert record.active in record.contents, "no model"
    happened["on trial" if record.trial else "committed"] += 1
    if record.trial is not None:
        assert record.trial.back in record.contents, "no way back"
    serving = record_at_boot(record, disk.intact(record)).serving
    assert serving is not None, "no model after the next start"
    return serving.counter


def install_first(folder: Path, shelf: Path) -> None:
    """Give the device its first model."""
    releases.write(shelf / "1", 1)
    installer = Installer(folder, shelf, 0)
    installer.random.random = lambda: 1.0  # type: ignore[method-assign]
    installer.run()
    assert installer.machine.record.committed is not None


def killed(folder: Path, shelf: Path, seed: int) -> str:
    """Run a process until it is killed; returns by what."""
    draw = Random(seed)
    point = draw.choice((*failpoints.INSTALLATION, "a random moment"))
    child = os.fork()
    if child == 0:
        try:
            if point in failpoints.INSTALLATION:
                failpoints.arm(f"{point}=kill@{draw.randint(1, 6)}")
            Installer(folder, shelf, seed).run()
            # It installed all there is: killed at rest.
            signal.pause()
        finally:
            os._exit(1)
    if point == "a random moment":
        time.sleep(draw.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
    else:
        # Where the shelf ends before the point strikes.
        signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
        signal.alarm(10)
    _, status = os.waitpid(child, 0)
    signal.alarm(0)
    assert os.WIFSIGNALED(status), f"a process ended by itself at {point}"
    return point


def main(kills: int, first_seed: int = 0) -> Counter[str]:
    """Kill so many processes; returns the counts of what happened."""
    happened: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder, shelf = Path(name, "device"), Path(name, "shelf")
        shelf.mkdir()
        install_first(folder, shelf)
        ready, highest = 1, 1
        for seed in range(first_seed, first_seed + kills):
            while ready < highest + READY:
                ready += 1
                releases.write(shelf / str(ready), ready)
            happened[killed(folder, shelf, seed)] += 1
            highest = max(highest, check(folder, happened))
            failure = InstallDisk(folder).read().failure
            if failure is not None:
                highest = max(highest, failure.release.counter)
        happened["releases"] = highest
    return happened


if __name__ == "__main__":
    counts = main(*map(int, sys.argv[1:]))
    print(*(f"{n:7} {name}" for name, n in sorted(counts.items())), sep="\n")
