"""Answers over MQTT while everything is killed: each comes exactly once, duplicates are counted.

Mosquitto, with its defaults, `fedlearn collect` and, with ``--device``, `fedlearn infer` too are
killed by SIGKILL at random moments and started again. Twin in the reader's hand: sample N of
the table is the row (N, 0, 0), and the model doubles it.

    python -m tests.clients.infer.mqtt_kills --count 2000
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients.infer import graphs
from tests.clients.messages.brokers import Mosquitto

TOPIC = "site/line-1/answers"

# Seconds without a kill after which everything must have come.
PATIENCE_S = 90.0


@dataclass
class Fleet:
    """The three processes, and how often each was killed."""

    folder: Path
    broker: Mosquitto
    log: Path
    kills: Counter[str] = field(default_factory=Counter)
    device: subprocess.Popen | None = None
    collector: subprocess.Popen | None = None

    def run(self, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "fedlearn", *arguments]
        command += ["--broker", f"127.0.0.1:{self.broker.port}"]
        with open(self.log, "ab") as log:
            return subprocess.Popen(command, stderr=log)

    def infer(self, *more: str) -> None:
        source = f"csv:{self.folder / 'rows.csv'}"
        state = str(self.folder / "state")
        model = str(self.folder / "m.onnx")
        self.device = self.run(
            *("infer", model, "--source", source, "--to", f"mqtt:{TOPIC}"),
            *("--state", state, "--wait", "600", "--batch", "8"),
            *more,
        )

    def collect(self) -> None:
        out = str(self.folder / "out.jsonl")
        self.collector = self.run("collect", "--from", "mqtt:site/#", "--to", out)

    def strike(self, name: str) -> None:
        """Kill a process and start it again."""
        self.kills[name] += 1
        if name == "broker":
            self.broker.kill()
            self.broker.start()
            return
        process = self.collector if name == "subscriber" else self.device
        assert process is not None
        process.kill()
        process.wait()
        if name == "subscriber":
            self.collect()
        else:
            self.infer()

    def end(self) -> None:
        for process in (self.device, self.collector):
            if process is not None:
                process.kill()
                process.wait()
        self.broker.kill()


def attack(fleet: Fleet, names: list[str], kills: int, chance: random.Random) -> None:
    """Kill at random moments while answers go out, and then wait for the device's end."""
    for _ in range(kills):
        # Starting Python takes some tenths of a second: kills strike then, too.
        time.sleep(chance.uniform(0.05, 1.5))
        assert fleet.device is not None
        if fleet.device.poll() is not None:
            break
        fleet.strike(chance.choice(names))
    assert fleet.device is not None
    fleet.device.wait(PATIENCE_S)


def report(fleet: Fleet, count: int) -> tuple[int, int, str]:
    """Return how many answers are lost and how many are there twice, and a line for people."""
    lines = (fleet.folder / "out.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    for answer in answers:
        assert answer["output"] == [2.0 * int(answer["sample"]), 0.0, 0.0], answer
    samples = Counter(answer["sample"] for answer in answers)
    lost = count - len(samples)
    twice = len(answers) - len(samples)
    kills = ", ".join(f"{name} {n}" for name, n in sorted(fleet.kills.items()))
    line = f"{count} answers: {lost} lost, {twice} twice in the file; killed: {kills}"
    return lost, twice, line


def prepared(count: int, folder: Path) -> Fleet:
    """Return a broker that runs, a model, and a table of ``count`` rows."""
    graphs.scaled(folder / "m.onnx", labels=False)
    rows = "".join(f"{number},0,0\n" for number in range(count))
    (folder / "rows.csv").write_text(rows)
    broker = Mosquitto(folder)
    broker.start()
    return Fleet(folder, broker, folder / "log.txt")


def trusting(count: int, folder: Path) -> tuple[int, int, str]:
    """Keep answers until PUBACK alone: the subscriber is away, and the broker is killed once."""
    fleet = prepared(count, folder)
    try:
        # It has a session, for which the broker keeps what comes.
        fleet.collect()
        assert fleet.collector is not None
        while b"collects" not in fleet.log.read_bytes():
            time.sleep(0.1)
        fleet.collector.kill()
        fleet.collector.wait()
        fleet.infer("--until", "puback")
        assert fleet.device is not None
        assert fleet.device.wait(PATIENCE_S) == 0, fleet.log.read_text()
        fleet.strike("broker")
        fleet.collect()
        time.sleep(5.0)
        fleet.collector.terminate()
        fleet.collector.wait(PATIENCE_S)
    finally:
        fleet.end()
    return report(fleet, count)


def run(count: int, kills: int, names: list[str], seed: int, folder: Path):
    """Let ``count`` answers go out under kills; returns what `report` does."""
    fleet = prepared(count, folder)
    try:
        fleet.collect()
        fleet.infer()
        attack(fleet, names, kills, random.Random(seed))
        # In order, so that it says what it has counted.
        assert fleet.collector is not None
        fleet.collector.terminate()
        fleet.collector.wait(PATIENCE_S)
    finally:
        fleet.end()
    return report(fleet, count)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--device", action="store_true", help="kill the device too")
    parser.add_argument(
        "--puback", action="store_true", help="believe the broker, which is killed once"
    )
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    names = ["broker", "subscriber", *(["device"] if arguments.device else [])]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if arguments.puback:
            lost, twice, line = trusting(arguments.count, place)
        else:
            lost, twice, line = run(
                arguments.count, arguments.kills, names, arguments.seed, place
            )
        log = (Path(folder) / "log.txt").read_text()
    print(log.splitlines()[-1])
    print(line)
    return 1 if lost or twice else 0


if __name__ == "__main__":
    sys.exit(main())
