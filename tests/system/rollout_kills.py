"""Real fleets that install releases while their processes are killed.

`python -m tests.system.rollout_kills 1000 [SEED]` kills so many agents and coordinators
(SIGKILL, with all that they started), at failpoints and at any time. Meanwhile one release
after another is rolled out: good ones, ones whose golden outputs are others, and ones that a
stranger signed. After each kill:
- what the device's record names is whole, and serves verified bytes of a good release;
- it has a model, as every device had before the first kill.
In the end nobody is killed any more, and every device takes the last release.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from fedlearn.clients.device.slots import InstallDisk
from fedlearn.system import failpoints
from tests.system.rollout_fleet import Fleet

DEVICES = 4
LONGEST_LIFE_S = 8.0
ENDED = ("done", "withdrawn", "aborted")


class Killing:
    """A fleet whose processes live for seconds."""

    def __init__(self, folder: Path, seed: int):
        self.fleet = Fleet(folder, DEVICES, starts=20, serves=False)
        self.random = Random(seed)
        self.happened: Counter[str] = Counter()
        self.deaths: dict[str, float] = {}
        self.good: set[str] = set()
        self.counter = 0

    def run(self, kills: int) -> None:
        """Kill so many processes, and see what is left of each."""
        self.install_first()
        while sum(self.happened[kind] for kind in ("agents", "coordinators")) < kills:
            for name, process in list(self.fleet.processes.items()):
                # A failpoint killed it, or its time is up.
                if process.poll() is not None or time.monotonic() > self.deaths[name]:
                    self.kill(name)
            self.roll_on()
            time.sleep(0.05)

    def install_first(self) -> None:
        """Give every device its first model."""
        fleet = self.fleet
        for name in ("fleet", *fleet.devices):
            self.deaths[name] = time.monotonic()
            fleet.start(name)
        store = fleet.folder / "fleet" / "rollouts.sqlite"
        fleet.wait(store.exists, "the store")
        fleet.wait(lambda: len(fleet.status()["devices"]) == DEVICES, "reports")
        self.roll_out("good")
        fleet.wait_for("done")

    def start(self, name: str) -> None:
        environment = {}
        if name != "fleet" and self.random.random() < 0.5:
            point = self.random.choice(failpoints.INSTALLATION)
            environment[failpoints.VARIABLE] = (
                f"{point}=kill@{self.random.randint(1, 3)}"
            )
            environment[failpoints.LOG] = str(self.fleet.folder / "struck")
        life_s = self.random.uniform(0.2, LONGEST_LIFE_S)
        self.deaths[name] = time.monotonic() + life_s
        self.fleet.start(name, **environment)

    def kill(self, name: str) -> None:
        self.fleet.kill(name)
        self.happened["coordinators" if name == "fleet" else "agents"] += 1
        if name != "fleet":
            self.check(name)
        self.start(name)

    def check(self, name: str) -> None:
        """Look at a device that has no process."""
        disk = InstallDisk(self.fleet.folder / name / "state" / "releases")
        record = disk.read()
        assert disk.intact(record) == set(record.contents), (
            f"{name}: a slot is not whole"
        )
        log = (self.fleet.folder / f"{name}.out").read_text()[-1000:]
        assert record.active is not None, f"{name} is without a model: {record}; {log}"
        self.happened["on trial" if record.trial else "committed"] += 1
        digest = record.contents[record.active].release.digest
        assert digest in self.good, f"{name} serves what nobody may"

    def roll_on(self) -> None:
        """Roll the next release out once the last one has ended."""
        status = self.fleet.status()
        if status["phase"] not in ENDED:
            return
        self.happened[f"{status['phase']} {status['reason'] or ''}"] += 1
        self.roll_out(self.random.choices(("good", "golden", "signer"), (6, 1, 1))[0])

    def roll_out(self, kind: str) -> None:
        self.counter += 1
        signer = "strangers" if kind == "signer" else "keys"
        package = self.fleet.package(self.counter, kind != "golden", signer)
        if kind == "good":
            self.good.add(digest_of(package))
        self.fleet.roll_out(package, signer)

    def settle(self) -> None:
        """Let every process live, and bring one more release to every device."""
        for name in ("fleet", *self.fleet.devices):
            self.fleet.kill(name)
            self.fleet.start(name)
        self.fleet.wait(
            lambda: self.fleet.status()["phase"] in ENDED, "the last rollout"
        )
        self.roll_out("good")
        self.fleet.wait_for("done")
        for name in self.fleet.devices:
            self.fleet.kill(name)
            record = InstallDisk(self.fleet.folder / name / "state" / "releases").read()
            assert record.committed is not None, f"{name} has committed nothing"
            assert record.committed.counter == self.counter, (
                f"{name}: {record.committed}"
            )


def digest_of(package: Path) -> str:
    from fedlearn.package import content

    return content.read(package).sha256


def main(kills: int, seed: int = 0) -> Counter[str]:
    """Kill so many processes; returns the counts of what happened."""
    with tempfile.TemporaryDirectory() as name:
        killing = Killing(Path(name), seed)
        try:
            killing.run(kills)
            killing.settle()
        finally:
            killing.fleet.end()
        struck = Path(name) / "struck"
        if struck.exists():
            killing.happened["failpoints"] = len(struck.read_text().splitlines())
        killing.happened["releases"] = killing.counter
        return killing.happened


if __name__ == "__main__":
    counts = main(*map(int, sys.argv[1:]))
    print(*(f"{n:7} {name}" for name, n in sorted(counts.items())), sep="\n")
