"""A profile in words: the table that a terminal shows, and what a user can change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlearn.errors import UserError
from fedlearn.records.reading import RunRecord, finite, section
from fedlearn.reporting.profile import OTHER, RunProfile, profile_of, read_measurements
from fedlearn.reporting.table import plain
from fedlearn.reporting.units import time_text

MATTERS = 0.05
"""Share of the rounds' time below which a cost is not worth a word."""

STRAGGLER = 0.6
"""Share of the rounds' time above which one client holds up its round."""


def of_run(run: RunRecord) -> str:
    """Return a run's profile as text; raises UserError when no round has been trained."""
    found = profile_of(run, read_measurements(run.folder))
    if found is None:
        raise UserError(
            f"'{run.folder}' has no trained round, and so nothing to profile; let the run go on first"
        )
    return text(found, run)


def text(found: RunProfile, run: RunRecord) -> str:
    """Return the profile as a table and a few sentences, each line with its end."""
    rows = [["phase", "seconds", "share", "median ms", "worst ms", "in round"]]
    for p in found.phases:
        rows.append(
            [
                p.name,
                f"{p.seconds:.2f}",
                f"{100 * p.share:.1f} %",
                _ms(p.median_s),
                _ms(p.worst_s),
                str(p.worst_round),
            ]
        )
    said = [
        line
        for line in (
            _shared(found),
            _overlap(found),
            _training(found),
            _slowest(found),
            _broken(advice(found, run)),
        )
        if line
    ]
    title = f"Where the time goes: {found.rounds} round{'s' * (found.rounds > 1)}, {time_text(found.seconds)}"
    return f"{title}\n\n{plain(rows)}\n" + "".join(f"{line}\n" for line in said)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def _broken(sentence: str | None) -> str | None:
    """Return a sentence on two lines: it is long."""
    return sentence and sentence.replace("; ", ";\n  ", 1)


def _shared(found: RunProfile) -> str:
    if not found.workers or found.workers == 1:
        return "other: what no phase accounts for, such as messages and the strategy's own work"
    return (
        f"train, encode: summed over clients, divided by {found.workers} workers; other: what no phase accounts for, such as workers "
        "that wait"
    )


def _overlap(found: RunProfile) -> str:
    if found.overlap_s < 0.01 * found.seconds:
        return ""
    return f"phases that go on at the same time count twice: {time_text(found.overlap_s)} in all"


def _training(found: RunProfile) -> str:
    training = found.training
    if training is None:
        return ""
    said = f"local training: {training.gflops:.3g} GFLOP/s while clients train, {training.rounds_gflops:.3g} over whole rounds"
    if training.rounds < found.rounds:
        said += f" (of {training.rounds} rounds)"
    if (
        training.peak_gflops is None
        or training.peak_share is None
        or training.rounds_peak_share is None
    ):
        return said
    of = (
        "one process reaches"
        if found.workers == 1
        else f"{found.workers} processes reach"
    )
    shares = f"{100 * training.peak_share:.1f} % and {100 * training.rounds_peak_share:.1f} %"
    return f"{said};\n  {shares} of the {training.peak_gflops:.3g} GFLOP/s that {of} in products of matrices"


def _slowest(found: RunProfile) -> str:
    said = f"slowest round: {found.slowest_round}, {time_text(found.slowest_round_s)}"
    slow = found.slowest
    return (
        f"{said}; slowest client: {slow.slowest_client} in round {slow.round}, {time_text(slow.slowest_s)}"
        if slow
        else said
    )


def advice(found: RunProfile, run: RunRecord) -> str | None:
    """Return one sentence on the largest cost outside training that a user can do something about; None: there is none."""
    for phase in sorted(found.phases, key=lambda p: -p.share):
        change = _change(phase.name, found, run) if phase.share >= MATTERS else None
        if change:
            return f"largest cost outside training that you can change: {phase.name}, {100 * phase.share:.1f} %; {change}"
    cores = finite(found.measured.peak or {}, "cores")
    if (
        found.workers
        and cores
        and found.workers < cores
        and _clients(run) > found.workers
    ):
        return f'{found.workers} of {cores:.0f} cores train; engine.kind = "pool" with engine.workers = 0 takes all, for the same result'
    return None


def _change(phase: str, found: RunProfile, run: RunRecord) -> str | None:
    settings, codec = section(run.config, "experiment"), section(run.manifest, "codec")
    if phase == "evaluate":
        if section(run.config, "evaluate").get("clients"):
            return "[evaluate] max_clients asks fewer of them"
        return _less_often("evaluate_every", settings, "scores the model less often")
    if phase == "record":
        return _less_often(
            "checkpoint_every",
            settings,
            "writes fewer checkpoints, and a kill costs more rounds",
        )
    if phase in ("encode", "aggregate") and codec.get("up") not in (None, "raw32"):
        return f'a plainer codec.up than "{codec["up"]}", such as "f16" or "raw32", takes less time and more bytes'
    if phase == "prepare" and codec.get("down") not in (None, "raw32"):
        return f'a plainer codec.down than "{codec["down"]}", such as "f16" or "raw32", takes less time and more bytes'
    if phase == OTHER and _held_up(found) >= STRAGGLER and (found.workers or 1) > 1:
        return "rounds wait for their slowest client; train.steps gives all clients the same work, which is another algorithm"
    return None


def _less_often(key: str, settings: Mapping[str, Any], what: str) -> str | None:
    now, rounds = finite(settings, key), finite(settings, "rounds")
    if now is None or not rounds or max(1, now) >= rounds:
        return None
    now = max(1, now)  # 0 is each round
    return f"experiment.{key} = {min(10 * now, rounds):.0f} (now {now:.0f}) {what}"


def _held_up(found: RunProfile) -> float:
    """Return the share of the rounds' time for which the slowest client of each trained."""
    seen = found.measured.rounds
    return sum(row.slowest_s for row in seen) / found.seconds if seen else 0.0


def _clients(run: RunRecord) -> float:
    return max((finite(line, "clients") or 0.0 for line in run.trained), default=0.0)
