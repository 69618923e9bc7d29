"""A wearable: a renewed model over 1 kbit/s, and a bad one taken back without any link.

A watch names the exercise that its wearer does. Its link carries 125 bytes a second. It has
release 1 from its maker, where the link is fast; release 2 comes as a difference.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.package.parts import DELTAS_FOLDER
from fedlearn.release import rollouts
from fedlearn.scenarios import timeline
from fedlearn.scenarios.asking import Asker, DeviceAnswer, QuestionSet, accuracy
from fedlearn.scenarios.players import Player, Troupe, free_port
from fedlearn.scenarios.radio import Radio, RadioThread
from fedlearn.scenarios.scene import PICTURE_FILE, Outcome, Say, check

SUMMARY = "a renewed model over 1 kbit/s, and a bad one taken back offline"

NAME = "exercise"
CLASSES = 7

# Of the watch's link, bits a second, and of the one at its maker's.
RATE = 1000.0
FAST_RATE = 100e6

# Bytes that arrive at a time: at 1 kbit/s an eighth of a second.
_PIECE_BYTES = 16

# Of the first training, and of the one that goes on from it.
ROUNDS = (50, 10)

CONFIG = """\
[experiment]
name = "exercise"
rounds = {rounds}
seed = {seed}
[data]
name = "watch-mini"
[data.partition]
kind = "natural_id"
partition_by = "client"
[model]
name = "lstm-sensor"
{weights}
[train]
epochs = 1
batch_size = 16
lr = 1.0
momentum = 0.6
clip_norm = 1.0
[strategy]
name = "fedavg"
fraction_train = 0.5
[engine]
kind = "serial"
"""

SETTINGS = """\
[agent]
coordinator = 127.0.0.1:{coordinator}
client = 0
insecure = yes
state = watch

[releases]
accept = {name}
keys = keys/release.pem
watch_s = {watch_s}
serve = --port {port} --name {name}

[rules]
hot_c = 120
cool_c = 119
battery_percent = 0
memory_mb = 0
memory_low_mb = 0
metered = yes
"""

# How long a release serves on trial.
WATCH_S = 10

# On a slow link a report takes a while, too: how long the watch stays away from it.
_AWAY_S = 3.0

Facts = dict[str, float | int | str]


@dataclass
class WornWatch:
    """The watch, its link, and what happened so far. marks: (at_s, text)."""

    troupe: Troupe
    link: RadioThread
    agent: Player
    asker: Asker
    say: Say
    began_s: float
    marks: list[tuple[float, str]] = field(default_factory=list)

    def tell(self, text: str) -> None:
        """Say what happens, with the seconds since the begin."""
        self.say(f"{time.monotonic() - self.began_s:5.0f} s  {text}")

    def mark(self, text: str) -> float:
        """Note a moment for the picture, and return it."""
        now = time.monotonic()
        self.marks.append((now, text))
        return now

    def version(self) -> str:
        """Return what the watch serves; "" for nothing."""
        return str(self.asker.status().get("version", ""))

    def is_settled(self, number: int, phase: str) -> bool:
        """Tell whether a rollout is in some phase, and the watch where it should be."""
        value = rollouts.status(self.troupe.folder / "fleet")
        if (value.get("rollout"), value.get("phase")) != (number, phase):
            return False
        return not value["unsettled"]

    def roll_out(self, package: str) -> None:
        """Offer a release to the watch."""
        fleet = ("--fleet", "fleet", "--key", "keys/release.pem")
        wave = ("--shares", "1", "--devices", "0")
        words = ("rollout", "start", package, *fleet, *wave)
        self.troupe.run(f"rollout-{package}", *words)

    def came_since(self, at_s: float) -> int:
        """Return the bytes that came over the link since a moment."""
        return sum(
            size for moment, size in list(self.link.radio.came) if moment >= at_s
        )


def play(folder: Path, seed: int, say: Say) -> Outcome:
    """Play the story in a folder. Raises RunError for a claim that does not hold."""
    began_s = time.monotonic()
    with Troupe(folder) as troupe:
        say("    0 s  two federated trainings over 20 wrists, one from the other")
        _make_releases(troupe, seed)
        link = RadioThread(Radio(_coordinator(troupe), 0.0, _PIECE_BYTES))
        asker = Asker(0, free_port(), NAME, _questions(seed))
        try:
            agent = _agent(troupe, link.port, asker.port)
            return _acts(WornWatch(troupe, link, agent, asker, say, began_s))
        finally:
            asker.stop()
            link.close()


def _acts(watch: WornWatch) -> Outcome:
    _install(watch)
    facts = _renew(watch)
    facts |= _take_back(watch)
    watch.asker.stop()
    answers = watch.asker.answers
    facts |= _requests(answers)
    picture = watch.troupe.folder / PICTURE_FILE
    begin_s = watch.marks[0][0]
    came = watch.link.radio.came
    title = "a release over 1 kbit/s, and one back without a link"
    timeline.draw_link(picture, title, came, answers, watch.marks, begin_s)
    return Outcome(_lines(facts), picture, facts)


# Before the watch


def _make_releases(troupe: Troupe, seed: int) -> None:
    """Train twice, and make release 1, release 2 with a difference from it, and a bad one."""
    folder = troupe.folder
    troupe.run("key", "sign", "--new-key", "keys")
    weights = ""
    for number, rounds in enumerate(ROUNDS, 1):
        config = f"run-{number}.toml"
        text = CONFIG.format(rounds=rounds, seed=seed, weights=weights)
        (folder / config).write_text(text)
        run = f"run-{number}"
        troupe.run(f"simulate-{number}", "simulate", config, "--out", run, "--quiet")
        weights = f'weights = "{folder / run}"'
        words = ("--registry", "registry", "--name", NAME, "--out", f"release-{number}")
        troupe.run(f"make-{number}", "release", run, *words)
    # The same weights, and every name one class too far: signed all the same.
    wrong = ",".join(str((label + 1) % CLASSES) for label in range(CLASSES))
    names = ("--name", NAME, "--counter", "3", "--labels", wrong)
    package = ("release-2", "--config", "run-2.toml", "--out", "release-3")
    troupe.run("make-3", "package", *package, *names)
    for number in (1, 2, 3):
        place = f"release-{number}"
        troupe.run(f"sign-{number}", "sign", place, "--key", "keys/release.key")


def _coordinator(troupe: Troupe) -> int:
    """Start the coordinator; returns where it listens."""
    troupe.fedlearn("coordinator", "fleet", "fleet", "--insecure")
    address = troupe.folder / "fleet" / "address.json"
    troupe.wait(address.exists, "the fleet listens")
    port: int = json.loads(address.read_text())["port"]
    return port


def _agent(troupe: Troupe, coordinator: int, port: int) -> Player:
    """Start the watch's agent. coordinator: where its link begins. port: where it serves."""
    values = {"coordinator": coordinator, "port": port}
    text = SETTINGS.format(name=NAME, watch_s=WATCH_S, **values)
    (troupe.folder / "watch.ini").write_text(text)
    return troupe.fedlearn("watch", "agent", "--settings", "watch.ini")


def _questions(seed: int) -> QuestionSet:
    """Return the held-out windows of the data, with the names of their classes."""
    # Here: a list of scenarios needs no data.
    from fedlearn.data import population

    by_client = {"kind": "natural_id", "partition_by": "client"}
    test = population("watch-mini", {}, by_client, seed).test
    return QuestionSet(test.x.astype(np.float32), [str(label) for label in test.y])


# Acts


def _install(watch: WornWatch) -> None:
    """Bring release 1 to the watch at its maker's, where the link is fast."""
    watch.link.radio.rate = FAST_RATE
    watch.roll_out("release-1")
    # Nobody is asked before there is a model: every answer has to be one.
    watch.troupe.wait(watch.asker.status, "the watch serves")
    watch.asker.start()
    watch.troupe.wait(lambda: watch.is_settled(1, "done"), "release 1 is committed")
    watch.tell("release 1 is on the watch; from now on its link has 1 kbit/s")


def _renew(watch: WornWatch) -> Facts:
    """Bring release 2 to the watch, over 1 kbit/s."""
    troupe = watch.troupe
    watch.link.radio.rate = RATE
    begin_s = watch.mark("release 2 is offered")
    watch.roll_out("release-2")
    troupe.wait(lambda: watch.version() == "2", "release 2 serves on trial")
    trial_s = watch.mark("on trial")
    # All that the link carried: heartbeats and acknowledgements are among it.
    came_bytes = watch.came_since(begin_s)
    fetch_s = trial_s - begin_s
    whole_bytes = _whole_bytes(troupe.folder / "release-2")
    whole_s = 8 * whole_bytes / RATE
    watch.tell(f"release 2 serves: {came_bytes:,} bytes in {fetch_s:.0f} s")
    watch.tell(f"the whole files have {whole_bytes:,}, and take {whole_s:.0f} s")
    troupe.wait(lambda: watch.is_settled(2, "done"), "release 2 is committed")
    share = accuracy([each for each in watch.asker.answers if each.version == "2"])
    watch.tell(f"it is committed: {100 * share:.1f} % of its answers are right")
    claim = f"a fifth of the time ({fetch_s:.0f} of {whole_s:.0f} s)"
    check(fetch_s < whole_s / 5, claim)
    [difference] = (troupe.folder / "release-2" / DELTAS_FOLDER).glob("*.fl")
    return {
        "difference_bytes": difference.stat().st_size,
        "came_bytes": came_bytes,
        "fetch_s": fetch_s,
        "whole_bytes": whole_bytes,
        "whole_s": whole_s,
        "accuracy": share,
    }


def _take_back(watch: WornWatch) -> Facts:
    """Offer a bad release, cut the link, and see the watch return by itself."""
    troupe = watch.troupe
    watch.mark("release 3 is offered")
    watch.roll_out("release-3")
    troupe.wait(lambda: watch.version() == "3", "release 3 serves on trial")
    # No connection ends: both ends hear silence, as out of a radio's reach.
    watch.link.radio.rate = 0.0
    cut_s = watch.mark("link cut")
    watch.tell("release 3, whose names are wrong, serves; the link is cut")
    troupe.wait(lambda: watch.version() == "2", "the watch is back on release 2")
    back_s = watch.mark("back") - cut_s
    reason = watch.agent.said().split("is not kept: ")[-1].splitlines()[0]
    watch.tell(f"it is back on release 2 without a link: {reason}")
    # It decided alone: no word of it has left the watch.
    is_unknown = not watch.is_settled(3, "withdrawn")
    check(is_unknown, "the coordinator cannot know yet that release 3 failed")
    time.sleep(_AWAY_S)
    watch.link.radio.rate = RATE
    watch.mark("link up")
    troupe.wait(lambda: watch.is_settled(3, "withdrawn"), "the coordinator hears of it")
    watch.tell("the link is there again, and the coordinator has heard of it")
    check(back_s < WATCH_S, f"it is back within its watch ({back_s:.1f} s)")
    return {"back_s": back_s, "back_because": reason}


# What is claimed


def _whole_bytes(package: Path) -> int:
    """Return the bytes of a package's files, without those of differences."""
    files = [path for path in package.rglob("*") if path.is_file()]
    # Manifest and signatures count: without a difference they would travel, too.
    whole = [path for path in files if path.parent.name != DELTAS_FOLDER]
    return sum(path.stat().st_size for path in whole)


def _requests(answers: list[DeviceAnswer]) -> Facts:
    failed = sum(answer.status != 200 for answer in answers)
    check(failed == 0, f"every question is answered ({failed} were not)")
    return {"requests": len(answers), "failed_requests": failed}


def _lines(facts: dict[str, Any]) -> list[str]:
    return [
        f"weights  a difference of {facts['difference_bytes']:,} bytes",
        f"fetched  {facts['came_bytes']:,} bytes in {facts['fetch_s']:.0f} s at 1 kbit/s; "
        f"whole files {facts['whole_bytes']:,} bytes, {facts['whole_s']:.0f} s",
        f"offline  back after {facts['back_s']:.1f} s: {facts['back_because']}",
        f"requests {facts['requests']}, of which {facts['failed_requests']} failed",
    ]
