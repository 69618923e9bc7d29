"""Traffic counting: a folder as camera, and counts by class that no kill makes wrong.

Eight owners of cameras train one model without showing a picture. At a crossing it counts
what passes: `fedlearn infer` follows a folder, and `fedlearn collect` takes the counts from
a broker. In the midst of it `fedlearn infer` is killed. The twin that counts are held
against is a batch: the same pictures, computed once more without a kill.
"""

from __future__ import annotations

import csv
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedlearn.errors import RunError
from fedlearn.scenarios import broker, crossing_plot, roads
from fedlearn.scenarios.crossing import BEGINS, Passage, passages
from fedlearn.scenarios.crossing_plot import CountWindow
from fedlearn.scenarios.players import Player, Troupe
from fedlearn.scenarios.runs import trained
from fedlearn.scenarios.scene import PICTURE_FILE, Outcome, Say, check
from fedlearn.system import files

SUMMARY = "traffic: a folder as camera, counts by class over MQTT"

TOPIC = "city/crossing-7/counts"
PICTURES = "crossing"
COUNTS = "counts.jsonl"
ANSWERS = "answers.csv"

CONFIG = """\
[experiment]
name = "traffic"
about = "eight owners of cameras learn to tell vehicles apart, and show nobody a picture"
rounds = {rounds}
seed = {seed}

[data]
name = "fedlearn.scenarios.roads:load"

[data.partition]
kind = "natural_id"

[model]
name = "cnn-small"

[train]
epochs = 2
batch_size = 16
lr = 0.03
momentum = 0.9
schedule = "cosine"

[strategy]
name = "fedavg"
fraction_train = 1.0
"""

# Share of the pictures after which the counting process is killed.
_KILL_AT = 0.4
# Until it is started again, as a supervisor would.
_AWAY_S = 1.5

_START_S = 60.0
# For all vehicles to pass, or their counts to arrive: a busy machine is slow.
_PATIENCE_S = 120.0
_LOOK_S = 0.05

# The column of a batch's answers: sample, version, label, ….
_LABEL = 2


@dataclass(frozen=True)
class TrafficSize:
    """How long the scenario is. rate: vehicles a second."""

    rounds: int = 6
    vehicles: int = 240
    rate: float = 20.0


@dataclass(frozen=True)
class Counted:
    """What came of the counting process.

    over: "mqtt", or "file" without a broker. came_twice: messages that the collector had
    already. began_s: of the camera, since 1970. killed_s: since then.
    """

    over: str
    came_twice: int
    began_s: float
    killed_s: float


def play(folder: Path, seed: int, say: Say) -> Outcome:
    """Play it; raises RunError for a process that fails, or a claim that does not hold."""
    return play_sized(folder, seed, say, TrafficSize())


def play_sized(folder: Path, seed: int, say: Say, size: TrafficSize) -> Outcome:
    """Play it in another length."""
    files.make_folder(folder)
    passing = passages(size.vehicles, size.rate, seed)
    with Troupe(folder, say) as troupe:
        text = CONFIG.format(rounds=size.rounds, seed=seed)
        accuracy = trained(troupe, "traffic", text, roads.CLASSES)
        counted = Crossing(troupe, say).count(size, seed)
        answers = _batch(troupe)
    windows = read_windows(folder / COUNTS)
    facts = _facts(passing, windows, answers)
    facts["accuracy_held_out"] = accuracy
    facts["came_twice"] = counted.came_twice
    facts["over"] = counted.over
    check_counts(facts, windows, answers)
    picture = folder / PICTURE_FILE
    crossing_plot.draw(picture, passing, windows, counted.began_s, counted.killed_s)
    return Outcome(_lines(facts), picture, facts)


class Crossing:
    """A camera, a process that counts, and whoever collects."""

    def __init__(self, troupe: Troupe, say: Say) -> None:
        """Take the processes' folder, in which the package ``traffic`` is, and who is told."""
        self._troupe = troupe
        self._say = say
        self._pictures = troupe.folder / PICTURES
        self._counts = troupe.folder / COUNTS
        self._collector: Player | None = None
        self._target = [f"file:{COUNTS}"]

    def count(self, size: TrafficSize, seed: int) -> Counted:
        """Let all vehicles pass, with a kill in between, and return what came of it."""
        files.make_folder(self._pictures)
        self._begin_to_collect()
        counting = self._infer("infer")
        camera = self._camera(size, seed)
        began_s = float(camera.wait_for(BEGINS, _START_S).split()[-1])
        first = int(_KILL_AT * size.vehicles)
        self._until(lambda: self._passed() >= first, camera, "pass")
        # As a power cut: nothing is closed, and nothing is sent.
        counting.kill()
        killed_s = time.time() - began_s
        self._say(f"kill -9 of fedlearn infer after {self._passed()} vehicles")
        time.sleep(_AWAY_S)
        counting = self._infer("infer-again")
        camera.finish(_PATIENCE_S)
        self._until(
            lambda: total(self._counts) >= size.vehicles, counting, "be counted"
        )
        counting.end()
        return Counted(
            "mqtt" if self._collector else "file", self._came_twice(), began_s, killed_s
        )

    def _begin_to_collect(self) -> None:
        """Start a broker and who takes counts from it; without one, counts go to a file."""
        reason = broker.missing()
        if reason:
            self._say(f"{reason}: counts go to a file, without a broker")
            return
        address = ["--broker", broker.started(self._troupe)]
        self._target = [f"mqtt:{TOPIC}", *address]
        self._collector = self._troupe.fedlearn(
            *("collect", "collect", "--from", "mqtt:city/+/counts"),
            *("--to", COUNTS, *address),
        )
        self._collector.wait_for("collects", _START_S)

    def _infer(self, name: str) -> Player:
        counting = self._troupe.fedlearn(
            *(name, "infer", "traffic", "--source", f"folder:{PICTURES}", "--follow"),
            *("--post", "softmax,count:1", "--state", "state"),
            *("--to", *self._target),
        )
        counting.wait_for("answers folder:", _START_S)
        return counting

    def _camera(self, size: TrafficSize, seed: int) -> Player:
        module = [sys.executable, "-m", "fedlearn.scenarios.crossing", PICTURES]
        values = [seed, size.vehicles, size.rate]
        return self._troupe.start("camera", [*module, *map(str, values)])

    def _passed(self) -> int:
        return sum(1 for _ in self._pictures.glob("[0-9]*.png"))

    def _until(self, is_so: Callable[[], bool], player: Player, what: str) -> None:
        """Wait until something is so; raises RunError if the process ends before."""
        end_s = time.monotonic() + _PATIENCE_S
        while not is_so():
            # A camera that is done has seen all: it is looked at once more.
            player.check()
            if time.monotonic() > end_s:
                raise RunError(f"vehicles do not {what} within {_PATIENCE_S:.0f} s")
            time.sleep(_LOOK_S)

    def _came_twice(self) -> int:
        """End the collector, and return how many messages it had already."""
        if self._collector is None:
            return 0
        self._collector.end()
        numbers = re.findall(r"(\d+) came twice", self._collector.said())
        return int(numbers[-1])


def total(path: Path) -> int:
    """Return how many vehicles a file of counts has so far."""
    if not path.exists():
        return 0
    return sum(sum(window.counts.values()) for window in read_windows(path))


def read_windows(path: Path) -> list[CountWindow]:
    """Return the counts of a file in the order of their time."""
    # The last line may be half there.
    complete = path.read_text(encoding="utf-8").rpartition("\n")[0]
    values = [json.loads(line) for line in complete.splitlines()]
    windows = [
        CountWindow(crossing_plot.seconds(value["time"]), value["count"])
        for value in values
    ]
    # What was sent again comes late.
    return sorted(windows, key=lambda window: window.at_s)


def _batch(troupe: Troupe) -> Counter[str]:
    """Return how many pictures a batch without a kill gives each class."""
    troupe.run(
        *("batch", "infer", "traffic", "--source", f"folder:{PICTURES}"),
        *("--to", f"csv:{ANSWERS}"),
    )
    with open(troupe.folder / ANSWERS, newline="", encoding="utf-8") as file:
        return Counter(row[_LABEL] for row in csv.reader(file))


def _facts(
    passing: list[Passage], windows: list[CountWindow], answers: Counter[str]
) -> dict[str, float | int | str]:
    counts = _sums(windows)
    truth = Counter(roads.CLASSES[passage.label] for passage in passing)
    facts: dict[str, float | int | str] = {}
    for name in roads.CLASSES:
        facts[f"passed_{name}"] = truth[name]
        facts[f"counted_{name}"] = counts[name]
    facts["passed"] = len(passing)
    facts["counted"] = counts.total()
    # Differences of counters leave out what is below 0.
    facts["lost"] = (answers - counts).total()
    facts["counted_twice"] = (counts - answers).total()
    facts["miscounted"] = sum(abs(truth[name] - counts[name]) for name in roads.CLASSES)
    return facts


def _sums(windows: list[CountWindow]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for window in windows:
        counts.update(window.counts)
    return counts


def check_counts(
    facts: Mapping[str, float | int | str],
    windows: list[CountWindow],
    answers: Counter[str],
) -> None:
    """Raise RunError for a claim that does not hold."""
    counts = _sums(windows)
    check(
        counts == answers,
        f"counts by class over a kill, {dict(counts)}, are those of a batch without one, "
        f"{dict(answers)}",
    )
    check(
        facts["counted"] == facts["passed"],
        f"all {facts['passed']} vehicles are counted once; {facts['counted']} are",
    )


def _lines(facts: dict[str, float | int | str]) -> list[str]:
    lines = [
        f"{facts['passed']} vehicles passed, {facts['counted']} are counted: "
        f"{facts['lost']} lost, {facts['counted_twice']} twice; "
        f"{facts['came_twice']} messages came twice"
    ]
    lines += [
        f"{name:<8} {facts[f'passed_{name}']:>4} passed {facts[f'counted_{name}']:>4} counted"
        for name in roads.CLASSES
    ]
    share = float(facts["accuracy_held_out"])
    lines.append(f"the model is right about {share:.1%} of held-out pictures")
    return lines
