"""A wearable: a renewed model over 1 kbit/s, and a bad one taken back without any link.

A watch names the exercise that its wearer does. Its link is that of a narrow radio: 125 bytes
a second. It has release 1 from its maker; release 2 comes as a difference.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlearn.release import rollouts
from fedlearn.scenarios import timeline
from fedlearn.scenarios.asking import Asker, Questions, accuracy
from fedlearn.scenarios.link import SlowLink
from fedlearn.scenarios.processes import Processes, free_port, processes
from fedlearn.scenarios.scene import PICTURE_FILE, Outcome, Say, check

SUMMARY = "a renewed model over 1 kbit/s, and a bad one taken back offline"

NAME = "exercise"
CLASSES = 7
BITS_A_S = 1000.0

# Once the maker has signed release 1, and again for release 2.
ROUNDS = (10, 4)

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
_WATCH_S = 10


@dataclass
class Watch:
    """The watch, its link, and what happened so far. marks: (at_s, text)."""

    group: Processes
    link: SlowLink
    asker: Asker
    say: Say
    began_s: float = field(default_factory=time.monotonic)
    marks: list[tuple[float, str]] = field(default_factory=list)

    def tell(self, text: str) -> None:
        """Say what happens, with the seconds since the begin."""
        self.say(f"{time.monotonic() - self.began_s:5.0f} s  {text}")

    def mark(self, text: str) -> None:
        """Note a moment for the picture."""
        self.marks.append((time.monotonic(), text))

    def version(self) -> str:
        """Return what the watch serves; "" for nothing."""
        return str(self.asker.status().get("version", ""))

    def is_done(self, number: int, phase: str) -> bool:
        """Tell whether a rollout is in some phase, and the watch where it should be."""
        value = rollouts.status(self.group.folder / "fleet")
        if (value.get("rollout"), value.get("phase")) != (number, phase):
            return False
        return not value["unsettled"]

    def roll_out(self, package: str) -> None:
        """Offer a release to the watch."""
        words = ("--fleet", "fleet", "--shares", "1", "--devices", "0")
        self.group.run("rollout", "start", package, *words)


def play(folder: Path, seed: int, say: Say) -> Outcome:
    """Play the story in a folder. Raises RunError for a claim that does not hold."""
    with processes(folder) as group:
        began_s = time.monotonic()
        say("    0 s  two federated trainings over 20 wrists, one from the other")
        _releases(group, seed)
        port = _coordinator(group)
        link = SlowLink(port)
        asker = Asker(0, free_port(), NAME, _questions(seed))
        try:
            return _acts(Watch(group, link, asker, say, began_s))
        finally:
            link.close()
            asker.stop()


def _acts(watch: Watch) -> Outcome:
    _install(watch)
    facts = _renew(watch)
    facts |= _take_back(watch)
    watch.asker.stop()
    answers = watch.asker.answers
    failed = sum(answer.status != 200 for answer in answers)
    check(failed == 0, f"every question is answered ({failed} were not)")
    facts |= {"requests": len(answers), "failed_requests": failed}
    picture = watch.group.folder / PICTURE_FILE
    passed = watch.link.passed
    timeline.draw_link(picture, "a release over 1 kbit/s", passed, answers, watch.marks)
    return Outcome(_lines(facts), picture, facts)


# Before the watch


def _releases(group: Processes, seed: int) -> None:
    """Train twice, and make release 1, release 2 as a difference from it, and a bad one."""
    folder = group.folder
    group.run("sign", "--new-key", "keys")
    weights = ""
    for number, rounds in enumerate(ROUNDS, 1):
        config = folder / f"run-{number}.toml"
        config.write_text(CONFIG.format(rounds=rounds, seed=seed, weights=weights))
        place = f"run-{number}"
        group.run("simulate", config.name, "--out", place, "--quiet")
        weights = f'weights = "{folder / place}"'
        words = ("--registry", "registry", "--name", NAME, "--out", f"release-{number}")
        group.run("release", place, *words)
    # The same weights, and every name one class too far: signed all the same.
    wrong = ",".join(str((label + 1) % CLASSES) for label in range(CLASSES))
    words = ("--out", "release-3", "--counter", "3", "--labels", wrong)
    group.run("package", "release-2", "--config", "run-2.toml", "--name", NAME, *words)
    for number in (1, 2, 3):
        group.run("sign", f"release-{number}", "--key", "keys/release.key")


def _coordinator(group: Processes) -> int:
    """Start the coordinator; returns where it listens."""
    group.start("coordinator", "fleet", "fleet", "--insecure")
    address = group.folder / "fleet" / "address.json"
    group.wait(address.exists, "the fleet listens")
    port: int = json.loads(address.read_text())["port"]
    return port


def _questions(seed: int) -> Questions:
    """Return the held-out windows of the data, with the names of their classes."""
    from fedlearn.data import population

    by_client = {"kind": "natural_id", "partition_by": "client"}
    test = population("watch-mini", {}, by_client, seed).test
    return Questions(test.x, [str(label) for label in test.y])


# Acts


def _install(watch: Watch) -> None:
    """Bring release 1 to the watch at its maker's, where the link is fast."""
    group = watch.group
    text = SETTINGS.format(
        coordinator=watch.link.port, name=NAME, watch_s=_WATCH_S, port=watch.asker.port
    )
    (group.folder / "watch.ini").write_text(text)
    group.start("watch", "agent", "--settings", "watch.ini")
    watch.roll_out("release-1")
    group.wait(watch.asker.status, "the watch serves")
    watch.asker.start()
    group.wait(lambda: watch.is_done(1, "done"), "release 1 is committed")
    watch.tell("release 1 is on the watch; from now on its link has 1 kbit/s")


def _renew(watch: Watch) -> dict[str, float | int | str]:
    """Bring release 2 to the watch, over 1 kbit/s."""
    group = watch.group
    watch.link.slow(BITS_A_S)
    watch.mark("release 2 is offered")
    began_s = time.monotonic()
    watch.roll_out("release-2")
    group.wait(lambda: watch.version() == "2", "release 2 serves on trial")
    fetch_s = time.monotonic() - began_s
    fetched = watch.link.bytes_since(began_s)
    watch.mark("on trial")
    whole = _bytes_of(group.folder / "release-2", lambda path: "deltas" not in path)
    [delta] = (group.folder / "release-2" / "deltas").glob("*.fl")
    whole_s = 8 * whole / BITS_A_S
    watch.tell(f"release 2 serves: {fetched:,} bytes in {fetch_s:.0f} s")
    watch.tell(f"the whole package has {whole:,}, and would have taken {whole_s:.0f} s")
    group.wait(lambda: watch.is_done(2, "done"), "release 2 is committed")
    share = accuracy([a for a in watch.asker.answers if a.version == "2"])
    watch.tell(f"it is committed: {100 * share:.1f} % of its answers are right")
    check(
        fetch_s < whole_s / 5, f"a fifth of the time ({fetch_s:.0f} of {whole_s:.0f} s)"
    )
    return {
        "difference_bytes": delta.stat().st_size,
        "fetched_bytes": fetched,
        "fetch_s": fetch_s,
        "whole_bytes": whole,
        "whole_s": whole_s,
        "accuracy": share,
    }


def _take_back(watch: Watch) -> dict[str, float | int | str]:
    """Offer a bad release, cut the link, and see the watch return by itself."""
    group = watch.group
    watch.mark("release 3 is offered")
    watch.roll_out("release-3")
    group.wait(lambda: watch.version() == "3", "release 3 serves on trial")
    watch.link.cut()
    cut_s = time.monotonic()
    watch.mark("cut")
    watch.tell("release 3, whose labels are wrong, serves; the link is cut")
    group.wait(lambda: watch.version() == "2", "the watch is back on release 2")
    back_s = time.monotonic() - cut_s
    watch.mark("back")
    reason = group.log("watch").split("is not kept: ")[-1].splitlines()[0]
    watch.tell(f"it is back on release 2 without a link: {reason}")
    is_unknown = not watch.is_done(3, "withdrawn")
    check(is_unknown, "the coordinator cannot know yet that release 3 failed")
    time.sleep(3.0)
    watch.link.slow(None)
    watch.link.mend()
    watch.mark("mended")
    group.wait(lambda: watch.is_done(3, "withdrawn"), "the coordinator hears of it")
    watch.tell("the link is there again, and the coordinator has heard of it")
    check(back_s < _WATCH_S, f"it is back within its watch ({back_s:.1f} s)")
    return {"back_s": back_s, "back_because": reason}


def _bytes_of(package: Path, counts: Any) -> int:
    """Return the bytes of a package's files, of those that count by their path."""
    paths = [path for path in package.rglob("*") if path.is_file()]
    names = {path: str(path.relative_to(package)) for path in paths}
    return sum(path.stat().st_size for path, name in names.items() if counts(name))


def _lines(facts: dict[str, Any]) -> list[str]:
    return [
        f"weights  a difference of {facts['difference_bytes']:,} bytes",
        f"fetched  {facts['fetched_bytes']:,} bytes in {facts['fetch_s']:.0f} s at 1 kbit/s; "
        f"whole {facts['whole_bytes']:,} bytes, {facts['whole_s']:.0f} s",
        f"offline  back after {facts['back_s']:.1f} s: {facts['back_because']}",
        f"requests {facts['requests']}, of which {facts['failed_requests']} failed",
    ]
