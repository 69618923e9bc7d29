"""Predictive maintenance: bearings wear, the fleet learns again, and a bad release is recalled.

Three owners have machines, each with a device that trains on its owner's windows and answers
with the released model. Nobody's windows leave the device.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.release import rollouts
from fedlearn.scenarios import timeline
from fedlearn.scenarios.asking import Asker, DeviceAnswer, QuestionSet, accuracy
from fedlearn.scenarios.players import Troupe, free_port
from fedlearn.scenarios.scene import PICTURE_FILE, Outcome, Say, check
from fedlearn.scenarios.vibration import BANDS, CLASSES, Machines, windows

SUMMARY = "bearings wear, a fleet learns again, a bad release is recalled"

OWNERS = (Machines(22.0), Machines(25.0), Machines(29.0))
WEAR = 0.5

# Windows of an owner to train on, and to be held out or asked.
_TRAINING = 400
_TESTING = 200

NAME = "spindle"

# What a device is asked before it serves.
NOTHING = QuestionSet(np.empty((0, BANDS), np.float32), ())

CONFIG = """\
[experiment]
name = "{name}"
rounds = {rounds}
seed = {seed}
[data]
name = "dir"
path = "{data}"
classes = {classes}
[data.partition]
kind = "natural_id"
[model]
name = "2nn"
width = 32
[train]
epochs = 4
batch_size = 20
lr = 0.1
[strategy]
fraction_train = 1.0
[fleet]
min_agents = 3
[engine]
kind = "serial"
"""

SETTINGS = """\
[agent]
coordinator = 127.0.0.1:{coordinator}
client = {device}
insecure = yes
state = device-{device}
data = owner-{device}.npz

[releases]
accept = {name}
keys = keys/release.pem
watch_s = 8
serve = --port {port} --name {name}

[rules]
hot_c = 120
cool_c = 119
battery_percent = 0
memory_mb = 0
memory_low_mb = 0
metered = yes
"""

LEARN = """\
[learn]
fleet = "fleet"
config = "worn.toml"
registry = "registry"
key = "keys/release.key"
clients = "fleet"
[triggers]
drift = 0.25
share = 0.5
rest_h = 0.0
[rollout]
shares = [0.3, 1.0]
"""


@dataclass
class Story:
    """What happened so far. at_s: of `time.monotonic`.

    drifts: (at_s, device, index) as the devices measured it. marks: (at_s, text).
    """

    troupe: Troupe
    say: Say
    began_s: float = field(default_factory=time.monotonic)
    askers: list[Asker] = field(default_factory=list)
    drifts: list[tuple[float, int, float]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)

    @property
    def fleet(self) -> Path:
        """Return the coordinator's folder."""
        return self.troupe.folder / "fleet"

    def tell(self, text: str) -> None:
        """Say what happens, with the seconds since the begin."""
        self.say(f"{time.monotonic() - self.began_s:5.0f} s  {text}")

    def mark(self, text: str) -> None:
        """Note a moment for the picture."""
        self.marks.append((time.monotonic(), text))

    def answers(self) -> list[DeviceAnswer]:
        """Return all answers, in the order in which they came."""
        every = [answer for asker in self.askers for answer in asker.answers]
        return sorted(every, key=lambda answer: answer.at_s)

    def versions(self) -> list[str]:
        """Return what each device serves now; "" for nothing."""
        return [str(asker.status().get("version", "")) for asker in self.askers]

    def look(self) -> None:
        """Note how far each device's inputs are from what its model was tested on."""
        for asker in self.askers:
            observed = asker.status().get("observed", {})
            index = observed.get("drift", {}).get("inputs")
            if index is not None:
                self.drifts.append((time.monotonic(), asker.device, index))

    def rollout(self, number: int, phase: str) -> bool:
        """Tell whether a rollout is in some phase, and every device where it should be."""
        self.look()
        value = rollouts.status(self.fleet)
        if (value.get("rollout"), value.get("phase")) != (number, phase):
            return False
        return not value["unsettled"]


def play(folder: Path, seed: int, say: Say) -> Outcome:
    """Play the story in a folder. Raises RunError for a claim that does not hold."""
    draw = np.random.default_rng(seed)
    new = _data(folder, "new", OWNERS, draw)
    (folder / "run.toml").write_text(_config(folder, "new", 6, seed))
    with Troupe(folder) as troupe:
        story = Story(troupe, say)
        try:
            return _acts(story, new, draw, seed)
        finally:
            for asker in story.askers:
                asker.stop()


def _acts(
    story: Story, new: Sequence[QuestionSet], draw: np.random.Generator, seed: int
) -> Outcome:
    facts: dict[str, float | int | str] = {}
    _train(story)
    _first_release(story, new)
    facts["accuracy_new"] = _settled_accuracy(story)
    worn = _wear(story, draw, seed)
    facts |= _learn_again(story, worn)
    facts |= _bad_release(story)
    facts["accuracy_recalled"] = _settled_accuracy(story)
    for asker in story.askers:
        asker.stop()
    facts |= _requests(story)
    picture = story.troupe.folder / PICTURE_FILE
    timeline.draw_fleet(
        picture, "bearings wear", story.answers(), story.drifts, story.marks
    )
    return Outcome(_lines(facts), picture, facts)


# Data


def _data(
    folder: Path, name: str, owners: Sequence[Machines], draw: np.random.Generator
) -> list[QuestionSet]:
    """Write what each owner has, and what is held out; return what the devices are asked."""
    questions = []
    held_out = []
    training = []
    for owner, machines in enumerate(owners):
        x, y = windows(machines, _TRAINING, draw)
        np.savez(folder / f"owner-{owner}.npz", x=x, y=y)
        training.append((x, y))
        held_out.append(windows(machines, _TESTING, draw))
        asked, classes = windows(machines, _TESTING, draw)
        names = [CLASSES[label] for label in classes]
        questions.append(QuestionSet(asked, names))
    np.savez(
        folder / f"{name}.npz",
        x_train=np.concatenate([x for x, _ in training]),
        y_train=np.concatenate([y for _, y in training]),
        x_test=np.concatenate([x for x, _ in held_out]),
        y_test=np.concatenate([y for _, y in held_out]),
        client_train=np.repeat(np.arange(len(owners)), _TRAINING),
    )
    return questions


def _config(folder: Path, data: str, rounds: int, seed: int) -> str:
    return CONFIG.format(
        name=NAME,
        rounds=rounds,
        seed=seed,
        data=folder.absolute() / f"{data}.npz",
        classes=len(CLASSES),
    )


# Acts


def _train(story: Story) -> None:
    """Start coordinator and devices, and have the devices train the first model."""
    troupe = story.troupe
    folder = troupe.folder
    story.tell(f"3 owners, {3 * _TRAINING} windows of {BANDS} bands; the fleet starts")
    troupe.run("key", "sign", "--new-key", "keys")
    troupe.fedlearn("coordinator", "fleet", "fleet", "--insecure")
    address = story.fleet / "address.json"
    troupe.wait(address.exists, "the fleet listens")
    port = json.loads(address.read_text())["port"]
    for device in range(len(OWNERS)):
        serving = free_port()
        text = SETTINGS.format(coordinator=port, device=device, name=NAME, port=serving)
        settings = folder / f"device-{device}.ini"
        settings.write_text(text)
        troupe.fedlearn(f"agent-{device}", "agent", "--settings", settings.name)
        story.askers.append(Asker(device, serving, NAME, NOTHING))
    troupe.run(
        "fleet-run", "fleet", "run", "run.toml", "--fleet", "fleet", "--out", "run"
    )
    troupe.wait((folder / "run" / "summary.json").exists, "the first run")
    story.tell("the three devices trained a model; no window left its device")


def _first_release(story: Story, questions: Sequence[QuestionSet]) -> None:
    """Package, sign and roll out the model, and have clients ask every device."""
    troupe = story.troupe
    _package(story, "run", "release-1", 1, CLASSES)
    _roll_out(story, "release-1", "--shares", "1", "--devices", "0,1,2")
    for asker, question_set in zip(story.askers, questions, strict=True):
        asker.change(question_set)
        troupe.wait(asker.status, f"device {asker.device} serves")
        asker.start()
    troupe.wait(lambda: story.rollout(1, "done"), "release 1 is on all devices")
    story.tell("release 1 is committed on all devices")


def _wear(story: Story, draw: np.random.Generator, seed: int) -> list[QuestionSet]:
    """Have the bearings wear: other windows from now on, to learn from and to be asked."""
    folder = story.troupe.folder
    worn = [machines.worn(WEAR) for machines in OWNERS]
    questions = _data(folder, "worn", worn, draw)
    (folder / "worn.toml").write_text(_config(folder, "worn", 4, seed + 1))
    (folder / "learn.toml").write_text(LEARN)
    for asker, question_set in zip(story.askers, questions, strict=True):
        asker.change(question_set)
    story.mark("wear")
    story.tell("the bearings wear: their ringing is lower, the floor of noise higher")
    return questions


def _learn_again(
    story: Story, questions: Sequence[QuestionSet]
) -> dict[str, float | int | str]:
    """Have the drift start a learning, whose release goes out by a canary."""
    troupe = story.troupe
    worn_s = time.monotonic()
    arguments = ("learn.toml", "--rollout", "--pause-s", "0.5")
    learning = troupe.fedlearn("learn", "learn", *arguments)

    def has_begun() -> bool:
        story.look()
        return "learning 1 begins" in learning.said()

    troupe.wait(has_begun, "the drift starts a learning")
    story.mark("learns")
    drift = max(index for _, _, index in story.drifts)
    worn = accuracy(_since(story.answers(), worn_s))
    cause = learning.said().split("begins from ")[1].splitlines()[0]
    story.tell(f"learning 1 begins from {cause}")
    troupe.wait(lambda: story.rollout(2, "done"), "release 2 is on all devices")
    learning.end()
    story.mark("learned")
    learned = _settled_accuracy(story)
    story.tell(
        f"release 2 is committed on all devices: {100 * learned:.1f} % are right"
    )
    check(drift > 0.25, f"the drift is seen, above 0.25 (it was {drift:.2f})")
    return {"drift": drift, "accuracy_worn": worn, "accuracy_learned": learned}


def _bad_release(story: Story) -> dict[str, float | int | str]:
    """Release the same model with its labels sorted by the alphabet, which is a mistake."""
    troupe = story.troupe
    _package(story, "fleet/learn/runs/1", "release-3", 3, sorted(CLASSES))
    before_s = time.monotonic()
    _roll_out(story, "release-3", "--shares", "0.3,1")
    story.mark("mistake")
    story.tell("release 3 goes out: somebody has sorted the names of its classes")
    troupe.wait(lambda: story.rollout(3, "withdrawn"), "release 3 is recalled")
    troupe.wait(lambda: story.versions() == ["2"] * len(OWNERS), "all serve release 2")
    reason = rollouts.status(story.fleet)["reason"]
    story.tell(f"it is withdrawn: {reason}")
    answers = [answer for answer in story.answers() if answer.version == "3"]
    devices = {answer.device for answer in answers}
    check(len(devices) == 1, f"one device ran release 3 (it was {len(devices)})")
    served_s = answers[-1].at_s - answers[0].at_s
    return {
        "bad_devices": len(devices),
        "bad_answers": len(answers),
        "bad_s": served_s,
        "recalled_s": time.monotonic() - before_s,
        "recalled_because": reason,
    }


def _package(
    story: Story, run: str, place: str, counter: int, labels: Sequence[str]
) -> None:
    troupe = story.troupe
    words = ["--name", NAME, "--counter", str(counter), "--labels", ",".join(labels)]
    troupe.run(f"package-{counter}", "package", run, "--out", place, *words)
    troupe.run(f"sign-{counter}", "sign", place, "--key", "keys/release.key")


def _roll_out(story: Story, place: str, *words: str) -> None:
    fleet = ("--fleet", "fleet", "--key", "keys/release.pem")
    story.troupe.run(f"rollout-{place}", "rollout", "start", place, *fleet, *words)


# What is claimed


def _settled_accuracy(story: Story) -> float:
    """Return the accuracy of the next two seconds, on all devices."""
    now = time.monotonic()
    time.sleep(2.0)
    story.look()
    return accuracy(_since(story.answers(), now))


def _since(answers: Sequence[DeviceAnswer], at_s: float) -> list[DeviceAnswer]:
    return [answer for answer in answers if answer.at_s >= at_s]


def _requests(story: Story) -> dict[str, float | int | str]:
    answers = story.answers()
    failed = sum(answer.status != 200 for answer in answers)
    check(failed == 0, f"every request is answered ({failed} were not)")
    return {"requests": len(answers), "failed_requests": failed}


def _lines(facts: dict[str, Any]) -> list[str]:
    check(
        facts["accuracy_new"] > 0.9 > facts["accuracy_worn"] + 0.05,
        f"wear costs accuracy ({facts['accuracy_new']:.2f}, {facts['accuracy_worn']:.2f})",
    )
    check(
        facts["accuracy_learned"] > facts["accuracy_worn"] + 0.1,
        f"learning brings it back ({facts['accuracy_learned']:.2f})",
    )
    return [
        f"accuracy {100 * facts['accuracy_new']:.1f} %, worn "
        f"{100 * facts['accuracy_worn']:.1f} %, after learning again "
        f"{100 * facts['accuracy_learned']:.1f} %",
        f"drift    {facts['drift']:.2f}; 0.25 starts a learning",
        f"recall   {facts['bad_devices']} of 3 devices ran the bad release, for "
        f"{facts['bad_s']:.1f} s",
        f"requests {facts['requests']}, of which {facts['failed_requests']} failed",
    ]
