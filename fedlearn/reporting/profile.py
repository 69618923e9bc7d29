"""Where the time of a run's rounds goes.

That is: its phases, the share of the machine's peak, the slowest round and the slowest client.
The phases are those of metrics.jsonl. What only a run with ``--profile`` knows, it leaves in
profile.json.
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
from fedlearn.records.reading import RunRecord, amount, finite, section

# The phases that we know, in the order of a round. `OTHER` is what none of them accounts for.
PHASES = ("prepare", "train", "encode", "aggregate", "evaluate", "record")
OTHER = "other"


@dataclass(frozen=True)
class RoundTraining:
    """What was measured of a round's local training."""

    round: int
    # Processes that shared the clients.
    workers: int
    # Wall time, summed over the round's clients and attempts.
    training_s: float = 0.0
    # None where clients run code of their own, whose steps are not known.
    flops: float | None = None
    # The client that trained longest, and its wall time.
    slowest_client: int | None = None
    slowest_s: float = 0.0


@dataclass(frozen=True)
class TrainingMeasurements:
    """What profile.json has beyond metrics.jsonl."""

    rounds: tuple[RoundTraining, ...] = ()
    # The fields of `fedlearn.devices.peak.Peak`, where it was measured.
    peak: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PhaseTime:
    """One phase over all rounds.

    Seconds that clients spend are summed over them and divided by the workers.
    """

    name: str
    seconds: float
    # Of the rounds' wall time; a share of 1.
    share: float
    # Of one round: in the middle of all rounds, and in the slowest.
    median_s: float
    worst_s: float
    worst_round: int


@dataclass(frozen=True)
class TrainingRates:
    """Local training against the peak; rates in GFLOP/s of all workers in use together."""

    # Those of which the operations are known, and all their operations.
    rounds: int
    flops: float
    # While clients train, and over whole rounds.
    gflops: float
    rounds_gflops: float
    # What as many processes reach in products of matrices; None: not measured.
    peak_gflops: float | None
    # Of the peak, the shares (of 1) that the two rates are.
    peak_share: float | None
    rounds_peak_share: float | None


@dataclass(frozen=True)
class RunProfile:
    """Where a run's time went; docs/report.md says how each figure is told."""

    rounds: int
    # Wall time of the rounds, without the first model's evaluation.
    seconds: float
    # In the order of a round, `OTHER` last.
    phases: tuple[PhaseTime, ...]
    # By how much the phases exceed the rounds, where some go on at the same time.
    overlap_s: float
    slowest_round: int
    slowest_round_s: float
    # The round with the slowest client.
    slowest: RoundTraining | None
    # Processes in use.
    workers: int | None
    training: TrainingRates | None
    measured: TrainingMeasurements

    def share(self, phase: str) -> float:
        """Return a phase's share of the rounds' wall time, 0 for one that there is not."""
        for time in self.phases:
            if time.name == phase:
                return time.share
        return 0.0

    def plain(self) -> dict[str, Any]:
        """Return what profile.json holds; docs/report.md has its keys."""
        table = asdict(self)
        measured = table.pop("measured")
        slowest = table.pop("slowest")
        # Null where there is none; its key stands before the last two.
        table["slowest_client"] = slowest and {
            "client": slowest["slowest_client"],
            "round": slowest["round"],
            "seconds": slowest["slowest_s"],
        }
        table["peak"] = measured["peak"]
        table["by_round"] = list(measured["rounds"])
        return table


def profile_of(run: RunRecord, measured: TrainingMeasurements) -> RunProfile | None:
    """Return the profile of a run, finished or not; None where no round has been trained."""
    lines = timed_lines(run)
    if not lines:
        return None
    wall_s = {line["round"]: amount(line, "seconds") for line in lines}
    slowest_round = max(wall_s, key=lambda number: wall_s[number])
    # A resumed run may have measured rounds that were repeated since, or dropped.
    trainings = [training for training in measured.rounds if training.round in wall_s]
    workers = _workers(run, trainings)
    return RunProfile(
        rounds=len(lines),
        seconds=sum(wall_s.values()),
        phases=_phase_times(lines),
        overlap_s=sum(_overlap_s(line) for line in lines),
        slowest_round=slowest_round,
        slowest_round_s=wall_s[slowest_round],
        slowest=_slowest(trainings),
        workers=workers,
        training=_training_rates(trainings, wall_s, measured.peak, workers or 1),
        measured=TrainingMeasurements(tuple(trainings), measured.peak),
    )


def timed_lines(run: RunRecord) -> list[Line]:
    """Return the lines of trained rounds whose wall time is known."""
    return [line for line in run.trained if amount(line, "seconds") > 0]


def _workers(run: RunRecord, trainings: Sequence[RoundTraining]) -> int | None:
    """Return the workers in use: as measured in the last round, else as configured."""
    if trainings:
        return trainings[-1].workers
    configured = finite(section(run.manifest, "engine"), "workers")
    return None if configured is None else int(configured)


def _slowest(trainings: Sequence[RoundTraining]) -> RoundTraining | None:
    with_client = [
        training for training in trainings if training.slowest_client is not None
    ]
    return max(with_client, key=lambda training: training.slowest_s, default=None)


def _overlap_s(line: Line) -> float:
    """Return by how many seconds a round's phases exceed its wall time."""
    phases_s = sum(phases(line).values())
    wall_s = amount(line, "seconds")
    return max(0.0, phases_s - wall_s)


def phases(line: Line) -> dict[str, float]:
    """Return the seconds of a round's phases, with `OTHER`: the wall time that they leave."""
    recorded = section(line, "seconds_by_phase")
    # A clock that is set back may have made a phase negative.
    seconds = {name: max(0.0, amount(recorded, name)) for name in recorded}
    if not seconds:
        # A run of a version that recorded no phases.
        seconds = {"train": max(0.0, amount(line, "seconds_training"))}
    rest_s = amount(line, "seconds") - sum(seconds.values())
    return seconds | {OTHER: max(0.0, rest_s)}


def order(rounds: Iterable[Mapping[str, float]]) -> list[str]:
    """Return the names of all phases in some rounds' `phases`.

    They stand in the order of a round, then those that we do not know, `OTHER` last.
    """
    names: set[str] = set()
    for seconds in rounds:
        names.update(seconds)
    names.discard(OTHER)
    in_order = [name for name in PHASES if name in names]
    # Another version of fedlearn may have had phases of its own.
    unknown = sorted(names - set(PHASES))
    return [*in_order, *unknown, OTHER]


def _phase_times(lines: Sequence[Line]) -> tuple[PhaseTime, ...]:
    rounds = [phases(line) for line in lines]
    numbers = [line["round"] for line in lines]
    wall_s = sum(amount(line, "seconds") for line in lines)
    times: list[PhaseTime] = []
    for name in order(rounds):
        # A round without the phase counts: its share is of all rounds.
        seconds = [round_phases.get(name, 0.0) for round_phases in rounds]
        total_s = sum(seconds)
        worst_s = max(seconds)
        # Of equally slow rounds, the first.
        worst_round = numbers[seconds.index(worst_s)]
        time = PhaseTime(
            name=name,
            seconds=total_s,
            share=total_s / wall_s,
            median_s=statistics.median(seconds),
            worst_s=worst_s,
            worst_round=worst_round,
        )
        times.append(time)
    return tuple(times)


def _training_rates(
    trainings: Sequence[RoundTraining],
    wall_s: Mapping[int, float],
    peak: Mapping[str, Any] | None,
    workers: int,
) -> TrainingRates | None:
    """Return the rates over the rounds whose operations are known; None without any."""
    counted = [training for training in trainings if training_gflops(training)]
    if not counted:
        return None
    flops = sum(training.flops or 0.0 for training in counted)
    # Seconds are summed over clients; divided by the workers they are wall time.
    busy_s = sum(training.training_s / training.workers for training in counted)
    rounds_s = sum(wall_s[training.round] for training in counted)
    gflops = 1e-9 * flops / busy_s
    rounds_gflops = 1e-9 * flops / rounds_s
    peak_gflops = _peak_of(peak or {}, workers)
    return TrainingRates(
        rounds=len(counted),
        flops=flops,
        gflops=gflops,
        rounds_gflops=rounds_gflops,
        peak_gflops=peak_gflops,
        peak_share=_share(gflops, peak_gflops),
        rounds_peak_share=_share(rounds_gflops, peak_gflops),
    )


def _share(gflops: float, peak_gflops: float | None) -> float | None:
    if not peak_gflops:
        return None
    return gflops / peak_gflops


def training_gflops(training: RoundTraining) -> float | None:
    """Return a round's rate in GFLOP/s of all its workers; None where it is not known."""
    if not training.flops or training.training_s <= 0:
        return None
    # The seconds of all clients are summed, and as many of them pass at once as there are workers.
    gflop = 1e-9 * training.flops
    return gflop * training.workers / training.training_s


def _peak_of(peak: Mapping[str, Any], workers: int) -> float | None:
    """Return the peak of so many workers in GFLOP/s; None where it was not measured.

    More workers than processes were measured with share the same cores.
    """
    processes = finite(peak, "processes")
    together = finite(peak, "all_gflops")
    if not processes or not together:
        return None
    if workers == 1:
        return finite(peak, "one_gflops")
    return together * min(1.0, workers / processes)


def read_measurements(folder: Path) -> TrainingMeasurements:
    """Return what a run folder's profile.json holds.

    Nothing where there is none, or it cannot be read.
    """
    try:
        table = json.loads((folder / PROFILE_FILE).read_text(encoding="utf-8"))
        peak = table["peak"]
        rounds = tuple(_round_training(row) for row in table["by_round"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        # The file is an extra of --profile: without it the phases are still known.
        return TrainingMeasurements()
    if not isinstance(peak, Mapping):
        peak = None
    return TrainingMeasurements(rounds, peak)


def _round_training(row: Mapping[str, Any]) -> RoundTraining:
    client = finite(row, "slowest_client")
    return RoundTraining(
        round=int(row["round"]),
        workers=max(1, int(row["workers"])),
        training_s=finite(row, "training_s") or 0.0,
        flops=finite(row, "flops"),
        slowest_client=None if client is None else int(client),
        slowest_s=finite(row, "slowest_s") or 0.0,
    )
