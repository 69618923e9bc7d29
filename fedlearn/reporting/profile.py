"""Where the time of a run's rounds goes: phases, the share of the machine's peak, the slowest round and client.

The phases are those of metrics.jsonl. What only a run with ``--profile`` knows, it leaves in profile.json.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedlearn.records.line import Line
from fedlearn.records.names import PROFILE_FILE
from fedlearn.records.reading import RunRecord, finite, section

OTHER = "other"
PHASES = ("prepare", "train", "encode", "aggregate", "evaluate", "record")
"""In the order of a round. `OTHER` is what none of them accounts for."""


@dataclass(frozen=True)
class RoundTraining:
    """What was seen of a round's local training; seconds are wall-clock, summed over its clients and attempts."""

    round: int
    workers: int  # that shared the clients
    training_s: float = 0.0
    flops: float | None = (
        None  # None: the clients run code of their own, whose steps are not known
    )
    slowest_client: int | None = None
    slowest_s: float = 0.0


@dataclass(frozen=True)
class TrainingMeasurements:
    """What profile.json tells beyond metrics.jsonl. peak: the fields of `fedlearn.devices.peak.Peak`, where it was measured."""

    rounds: tuple[RoundTraining, ...] = ()
    peak: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Phase:
    """One phase over all rounds. Seconds that clients spend are summed over them and divided by the workers."""

    name: str
    seconds: float
    share: float  # of the rounds' wall time
    median_s: float  # of a round
    worst_s: float
    worst_round: int


@dataclass(frozen=True)
class Training:
    """Local training against the peak; rates in GFLOP/s of all workers in use together."""

    rounds: int  # of which the operations are known
    flops: float
    gflops: float  # while clients train
    rounds_gflops: float  # over the whole rounds
    peak_gflops: float | None  # of as many processes as there are workers in use
    peak_share: float | None
    rounds_peak_share: float | None


@dataclass(frozen=True)
class RunProfile:
    """Where a run's time went. overlap_s: by how much the phases exceed the rounds, where they go on at the same time."""

    rounds: int
    seconds: float  # of the rounds, without the first model's evaluation
    phases: tuple[Phase, ...]  # in the order of a round, OTHER last
    overlap_s: float
    slowest_round: int
    slowest_round_s: float
    slowest: RoundTraining | None  # the round with the slowest client
    workers: int | None
    training: Training | None
    measured: TrainingMeasurements

    def share(self, phase: str) -> float:
        """Return a phase's share of the rounds' wall time."""
        return next((p.share for p in self.phases if p.name == phase), 0.0)

    def plain(self) -> dict[str, Any]:
        """Return profile.json; docs/report.md has its keys."""
        told = asdict(self)
        measured = told.pop("measured")
        slowest = told.pop("slowest")
        told["slowest_client"] = slowest and {
            "client": slowest["slowest_client"],
            "round": slowest["round"],
            "seconds": slowest["slowest_s"],
        }
        return told | {"peak": measured["peak"], "by_round": list(measured["rounds"])}


def profile_of(run: RunRecord, measured: TrainingMeasurements) -> RunProfile | None:
    """Return the profile of a run, finished or not; None where no round has been trained."""
    lines = [line for line in run.trained if (finite(line, "seconds") or 0.0) > 0]
    if not lines:
        return None
    wall = [finite(line, "seconds") or 0.0 for line in lines]
    slow = max(range(len(lines)), key=lambda i: wall[i])
    rounds = {line["round"] for line in lines}
    seen = [row for row in measured.rounds if row.round in rounds]
    configured = finite(section(run.manifest, "engine"), "workers")
    workers = (
        seen[-1].workers if seen else None if configured is None else int(configured)
    )
    spent = [phases(line) for line in lines]
    return RunProfile(
        rounds=len(lines),
        seconds=sum(wall),
        phases=tuple(_phase(name, spent, lines, sum(wall)) for name in order(spent)),
        overlap_s=sum(
            max(0.0, sum(each.values()) - total)
            for each, total in zip(spent, wall, strict=True)
        ),
        slowest_round=lines[slow]["round"],
        slowest_round_s=wall[slow],
        slowest=max(
            (row for row in seen if row.slowest_client is not None),
            key=lambda row: row.slowest_s,
            default=None,
        ),
        workers=workers,
        training=_training(
            seen,
            dict(zip((line["round"] for line in lines), wall, strict=True)),
            measured.peak,
            workers or 1,
        ),
        measured=TrainingMeasurements(tuple(seen), measured.peak),
    )


def phases(line: Line) -> dict[str, float]:
    """Return the seconds of a round's phases, with `OTHER`: the wall time that they leave."""
    recorded = section(line, "seconds_by_phase")
    found = {name: max(finite(recorded, name) or 0.0, 0.0) for name in recorded}
    if not found:
        found = {"train": finite(line, "seconds_training") or 0.0}
    return found | {
        OTHER: max(0.0, (finite(line, "seconds") or 0.0) - sum(found.values()))
    }


def order(spent: Iterable[Mapping[str, float]]) -> list[str]:
    """Return the names of all phases: in the order of a round, then those we do not know, `OTHER` last."""
    found = {name for each in spent for name in each} - {OTHER}
    return [
        *(name for name in PHASES if name in found),
        *sorted(found - set(PHASES)),
        OTHER,
    ]


def _phase(
    name: str, spent: Sequence[Mapping[str, float]], lines: Sequence[Line], wall: float
) -> Phase:
    each = [found.get(name, 0.0) for found in spent]
    worst = max(range(len(each)), key=lambda i: each[i])
    return Phase(
        name,
        sum(each),
        sum(each) / wall,
        statistics.median(each),
        each[worst],
        lines[worst]["round"],
    )


def _training(
    seen: Sequence[RoundTraining],
    wall: Mapping[int, float],
    peak: Mapping[str, Any] | None,
    workers: int,
) -> Training | None:
    known = [row for row in seen if row.flops and row.training_s > 0]
    flops, busy = (
        sum(row.flops or 0.0 for row in known),
        sum(row.training_s / row.workers for row in known),
    )
    if not known:
        return None
    rates = 1e-9 * flops / busy, 1e-9 * flops / sum(wall[row.round] for row in known)
    top = _peak_of(peak or {}, workers)
    shares = (rates[0] / top, rates[1] / top) if top else (None, None)
    return Training(len(known), flops, *rates, top, *shares)


def _peak_of(peak: Mapping[str, Any], workers: int) -> float | None:
    """Return the peak of so many workers: more of them than processes measured share the same cores."""
    processes, together = finite(peak, "processes"), finite(peak, "all_gflops")
    if not processes or not together:
        return None
    return (
        finite(peak, "one_gflops")
        if workers == 1
        else together * min(1.0, workers / processes)
    )


def read_measurements(folder: Path) -> TrainingMeasurements:
    """Return what a run folder's profile.json holds; nothing where there is none, or it cannot be read."""
    try:
        found = json.loads((folder / PROFILE_FILE).read_text(encoding="utf-8"))
        peak = found["peak"]
        rows = tuple(_seen(row) for row in found["by_round"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return TrainingMeasurements()
    return TrainingMeasurements(rows, peak if isinstance(peak, Mapping) else None)


def _seen(row: Mapping[str, Any]) -> RoundTraining:
    client = finite(row, "slowest_client")
    return RoundTraining(
        int(row["round"]),
        max(1, int(row["workers"])),
        finite(row, "training_s") or 0.0,
        finite(row, "flops"),
        None if client is None else int(client),
        finite(row, "slowest_s") or 0.0,
    )
