"""Agriculture: a batch of readings, and answers that come from elsewhere as the link dies.

Eight farms train a small model and a larger one on their own sensors. A table of readings is
computed in one go. Then a device asks for its fields while the link to the larger model is
good, falls, dies and comes back: T = min(T_trans + T_cloud, T_edge), as measured.

The small model reads hour after hour, so it has few weights and takes long. The larger one
reads all hours at once: it has four times the weights, and is done sooner.
"""

from __future__ import annotations

import asyncio
import csv
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import RunError
from fedlearn.scenarios import fields, valley_plot
from fedlearn.scenarios.players import Player, Troupe
from fedlearn.scenarios.radio import Radio
from fedlearn.scenarios.runs import trained
from fedlearn.scenarios.scene import PICTURE_FILE, Outcome, Say, check
from fedlearn.scenarios.valley import (
    BACK,
    CENTRE,
    DEAD,
    EDGE,
    FALLING,
    GOOD,
    TURN_S,
    FieldAnswer,
    Valley,
    is_all,
)
from fedlearn.system import files

SUMMARY = "agriculture: a batch of readings, computed elsewhere as the link dies"

READINGS = "readings.csv"
ANSWERS = "answers.csv"

CONFIG = """\
[experiment]
name = "{name}"
about = "eight farms learn which fields to irrigate, and keep their readings"
rounds = {rounds}
seed = {seed}

[data]
name = "fedlearn.scenarios.fields:load"

[data.partition]
kind = "natural_id"

[model]
{model}

[train]
epochs = 2
batch_size = 16
lr = {lr}
momentum = 0.6
clip_norm = 1.0
schedule = "cosine"

[strategy]
name = "fedavg"
fraction_train = 1.0
"""

_SMALL = 'name = "lstm-sensor"\nwidth = 64'
_LARGE = 'name = "2nn"\nwidth = 200'

_START_S = 60.0

# Samples that may wait, some requests: when a link comes back, those that it held come, too.
_QUEUE = ["--queue", "8192"]

# The columns of a batch's answers: sample, version, label, score, error, ….
_LABEL = 2
_ERROR = 4

# In facts, and for people.
_PHASES = {"good": GOOD, "falling": FALLING, "dead": DEAD, "back": BACK}

# What is seen of the last answers of a phase.
_LAST = 3


@dataclass(frozen=True)
class SoilSize:
    """How long the scenario is. rows: fields of a request. phase_s: the shortest phase."""

    rounds: int = 8
    readings: int = 600
    rows: int = 512
    phase_s: float = 4.0


def play(folder: Path, seed: int, say: Say) -> Outcome:
    """Play it; raises RunError for a process that fails, or a claim that does not hold."""
    return play_sized(folder, seed, say, SoilSize())


def play_sized(folder: Path, seed: int, say: Say, size: SoilSize) -> Outcome:
    """Play it in another length."""
    files.make_folder(folder)
    x, y = fields.samples(size.readings, np.random.default_rng([seed, 4]))
    with Troupe(folder, say) as troupe:
        accuracy = _trained(troupe, seed, size.rounds)
        facts = _batch(troupe, x, y)
        valley = _placed(troupe, x, size, say)
    facts |= accuracy | _facts(valley, y)
    check_places(valley)
    picture = folder / PICTURE_FILE
    valley_plot.draw(picture, valley.answers, valley.edge_s)
    return Outcome(_lines(facts), picture, facts)


Facts = dict[str, float | int | str]


def _trained(troupe: Troupe, seed: int, rounds: int) -> Facts:
    """Train both models; returns their accuracies on held-out readings."""
    facts: Facts = {}
    for name, model, lr, version in (
        ("small", _SMALL, 0.5, EDGE),
        ("large", _LARGE, 0.05, CENTRE),
    ):
        text = CONFIG.format(
            name=f"soil-{name}", rounds=rounds, seed=seed, model=model, lr=lr
        )
        facts[f"accuracy_{name}"] = trained(
            troupe, name, text, fields.CLASSES, int(version)
        )
    return facts


def _batch(troupe: Troupe, x: fields.Series, y: NDArray[np.int64]) -> Facts:
    """Compute a table of readings in one go; raises RunError for a row that has no answer."""
    write_readings(troupe.folder / READINGS, x)
    troupe.run(
        *("batch", "infer", "small", "--source", f"csv:{READINGS}"),
        *("--to", f"csv:{ANSWERS}"),
    )
    with open(troupe.folder / ANSWERS, newline="", encoding="utf-8") as file:
        answers = list(csv.reader(file))
    good = [row for row in answers if not row[_ERROR]]
    check(
        len(answers) == len(good) == len(x),
        f"each of {len(x)} readings has its answer; {len(good)} have",
    )
    labels = [row[_LABEL] for row in answers]
    right = sum(
        label == fields.CLASSES[number] for label, number in zip(labels, y, strict=True)
    )
    # Who always says "leave" is often right.
    check(
        right > np.bincount(y).max(),
        f"the model is right more often ({right}) than one that always says the same",
    )
    facts: Facts = {"readings": len(labels), "batch_accuracy": right / len(labels)}
    return facts | {f"batch_{name}": labels.count(name) for name in fields.CLASSES}


def write_readings(path: Path, x: fields.Series) -> None:
    """Write readings (N, H, F) as a table: a row of H × F numbers for each."""
    names = [
        f"{channel}_{hour}"
        for hour in range(fields.HOURS)
        for channel in fields.CHANNELS
    ]
    lines = [",".join(names)]
    lines += [",".join(map(str, row)) for row in x.reshape(len(x), -1).tolist()]
    files.replace(path, ("\n".join(lines) + "\n").encode())


def _placed(troupe: Troupe, x: fields.Series, size: SoilSize, say: Say) -> Valley:
    """Ask a device for its fields while its link dies, and return what was answered."""
    centre = troupe.fedlearn(
        *("centre", "infer", "large", "--name", "fields", "--port", "0"), *_QUEUE
    )

    async def story() -> Valley:
        radio = Radio(_port(centre), TURN_S)
        far = await radio.open()
        url = f"http://127.0.0.1:{far}/v2/models/fields"
        device = troupe.fedlearn(
            *("device", "infer", "small", "--name", "device", "--port", "0"),
            *("--upstream", url, *_QUEUE),
        )
        # In a thread, as the device looks for the centre already.
        port = await asyncio.to_thread(_port, device)
        valley = Valley(port, radio, x, size.rows, size.phase_s, say)
        try:
            await valley.play()
        finally:
            radio.close()
        device.check()
        return valley

    valley = asyncio.run(story())
    centre.check()
    return valley


def _port(server: Player) -> int:
    """Return where a server listens, once it does."""
    line = server.wait_for("serves on", _START_S)
    match = re.search(r":(\d+)\s*$", line)
    if match is None:
        raise RunError(f"{server.name} does not serve: {line}")
    return int(match[1])


def _facts(valley: Valley, y: NDArray[np.int64]) -> Facts:
    answers = valley.answers
    facts: Facts = {
        "requests": len(answers),
        "edge_ms": 1000 * valley.edge_s,
        "good_mbps": max(answer.rate for answer in answers) / 1e6,
    }
    for name, phase in _PHASES.items():
        part = valley.of(phase)
        facts[f"{name}_ms"] = 1000 * median(answer.latency_s for answer in part)
        facts[f"{name}_centre"] = _share(part, CENTRE)
        facts[f"{name}_requests"] = len(part)
    facts["slowest_dead_ms"] = 1000 * max(a.latency_s for a in valley.of(DEAD))
    for name, version in (("edge", EDGE), ("centre", CENTRE)):
        facts[f"right_{name}"] = _right(answers, version, y)
    return facts


def _share(answers: list[FieldAnswer], version: str) -> float:
    return sum(answer.version == version for answer in answers) / len(answers)


def _right(answers: list[FieldAnswer], version: str, y: NDArray[np.int64]) -> float:
    """Return the share of rows that one model was right about; NaN if it had none."""
    rows = [a.classes == y[a.rows] for a in answers if a.version == version]
    return float(np.mean(np.concatenate(rows))) if rows else float("nan")


def check_places(valley: Valley) -> None:
    """Raise RunError for a claim that does not hold."""
    for phase, version, place in (
        (GOOD, CENTRE, "the centre"),
        (FALLING, EDGE, "the device"),
        (DEAD, EDGE, "the device"),
        (BACK, CENTRE, "the centre"),
    ):
        last = valley.of(phase)[-_LAST:]
        versions = [answer.version for answer in last]
        check(
            bool(last) and is_all(last, version),
            f"'{phase}' ends at {place}, version {version}; the last are of {versions}",
        )


def _lines(facts: Facts) -> list[str]:
    """Return what was seen, for people."""
    lines = [
        f"batch: {facts['readings']} readings, {facts['batch_irrigate']} fields to irrigate, "
        f"{facts['batch_flush']} to flush, {facts['batch_accuracy']:.1%} right",
        f"{facts['requests']} requests, all answered; "
        f"the device alone takes {facts['edge_ms']:.0f} ms",
    ]
    lines += [
        f"{phase:<11} {facts[f'{name}_ms']:>5.0f} ms, "
        f"{facts[f'{name}_centre']:>4.0%} of {facts[f'{name}_requests']} at the centre"
        for name, phase in _PHASES.items()
    ]
    lines.append(
        f"right: {facts['right_edge']:.1%} on the device, "
        f"{facts['right_centre']:.1%} at the centre"
    )
    return lines
