"""A profile in words: the table that a terminal shows, and what a user can change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlearn.errors import UserError
from fedlearn.records.reading import RunRecord, amount, finite, section
from fedlearn.reporting.profile import OTHER, RunProfile, profile_of, read_measurements
from fedlearn.reporting.table import plain
from fedlearn.reporting.units import time_text

# Share of the rounds' time below which a cost is not worth a word.
MATTERS = 0.05

# Share of the rounds' time above which one client holds up its round.
STRAGGLER = 0.6

# Overlap of phases, as a share of the rounds' time, that chance and clocks make.
NO_OVERLAP = 0.01

# How many times more seldom a step is advised to be done.
LESS_OFTEN = 10


def of_run(run: RunRecord) -> str:
    """Return a run's profile as text; raises UserError when no round has been trained."""
    profile = profile_of(run, read_measurements(run.folder))
    if profile is None:
        raise UserError(
            f"'{run.folder}' has no trained round, and so nothing to profile; "
            "let the run go on first"
        )
    return text(profile, run)


def text(profile: RunProfile, run: RunRecord) -> str:
    """Return the profile as a table and a few sentences, each line with its end."""
    plural = "s" if profile.rounds > 1 else ""
    title = (
        f"Where the time goes: {profile.rounds} round{plural}, "
        f"{time_text(profile.seconds)}"
    )
    sentences = (
        _other_text(profile),
        _overlap_text(profile),
        _training_text(profile),
        _slowest_text(profile),
        _broken(advice(profile, run)),
    )
    shown = "".join(f"{sentence}\n" for sentence in sentences if sentence)
    return f"{title}\n\n{_table(profile)}\n{shown}"


def _table(profile: RunProfile) -> str:
    rows = [["phase", "seconds", "share", "median ms", "worst ms", "in round"]]
    for phase in profile.phases:
        rows.append(
            [
                phase.name,
                f"{phase.seconds:.2f}",
                f"{100 * phase.share:.1f} %",
                f"{1000 * phase.median_s:.1f}",
                f"{1000 * phase.worst_s:.1f}",
                str(phase.worst_round),
            ]
        )
    return plain(rows)


def _broken(sentence: str | None) -> str:
    """Return a sentence on two lines: it is long."""
    if sentence is None:
        return ""
    return sentence.replace("; ", ";\n  ", 1)


def _other_text(profile: RunProfile) -> str:
    if not profile.workers or profile.workers == 1:
        return (
            "other: what no phase accounts for, "
            "such as messages and the strategy's own work"
        )
    return (
        f"train, encode: summed over clients, divided by {profile.workers} workers; "
        "other: what no phase accounts for, such as workers that wait"
    )


def _overlap_text(profile: RunProfile) -> str:
    if profile.overlap_s < NO_OVERLAP * profile.seconds:
        return ""
    overlap = time_text(profile.overlap_s)
    return f"phases that go on at the same time count twice: {overlap} in all"


def _training_text(profile: RunProfile) -> str:
    training = profile.training
    if training is None:
        return ""
    rates = (
        f"local training: {training.gflops:.3g} GFLOP/s while clients train, "
        f"{training.rounds_gflops:.3g} over whole rounds"
    )
    if training.rounds < profile.rounds:
        rates += f" (of {training.rounds} rounds)"
    peak = training.peak_gflops
    share = training.peak_share
    rounds_share = training.rounds_peak_share
    if peak is None or share is None or rounds_share is None:
        return rates
    processes = f"{profile.workers} processes reach"
    if profile.workers == 1:
        processes = "one process reaches"
    shares = f"{100 * share:.1f} % and {100 * rounds_share:.1f} %"
    reach = f"the {peak:.3g} GFLOP/s that {processes} in products of matrices"
    return f"{rates};\n  {shares} of {reach}"


def _slowest_text(profile: RunProfile) -> str:
    sentence = (
        f"slowest round: {profile.slowest_round}, {time_text(profile.slowest_round_s)}"
    )
    training = profile.slowest
    if training is None:
        return sentence
    return (
        f"{sentence}; slowest client: {training.slowest_client} "
        f"in round {training.round}, {time_text(training.slowest_s)}"
    )


def advice(profile: RunProfile, run: RunRecord) -> str | None:
    """Return one sentence on the largest cost outside training that a user can do something about.

    None: there is none.
    """
    by_share = sorted(profile.phases, key=lambda phase: -phase.share)
    for phase in by_share:
        if phase.share < MATTERS:
            break
        change = _change(phase.name, profile, run)
        if change:
            return (
                "largest cost outside training that you can change: "
                f"{phase.name}, {100 * phase.share:.1f} %; {change}"
            )
    return _more_workers(profile, run)


def _more_workers(profile: RunProfile, run: RunRecord) -> str | None:
    """Return the advice to train on all cores, where clients wait for some and cores are free."""
    workers = profile.workers
    cores = finite(profile.measured.peak or {}, "cores")
    if not workers or not cores or workers >= cores:
        return None
    most_clients = max((amount(line, "clients") for line in run.trained), default=0.0)
    if most_clients <= workers:
        return None
    return (
        f'{workers} of {cores:.0f} cores train; engine.kind = "pool" '
        "with engine.workers = 0 takes all, for the same result"
    )


def _change(phase: str, profile: RunProfile, run: RunRecord) -> str | None:
    """Return what a user can change about a phase; None: nothing."""
    settings = section(run.config, "experiment")
    if phase == "evaluate":
        if section(run.config, "evaluate").get("clients"):
            return "[evaluate] max_clients asks fewer of them"
        return _less_often("evaluate_every", settings, "scores the model less often")
    if phase == "record":
        effect = "writes fewer checkpoints, and a kill costs more rounds"
        return _less_often("checkpoint_every", settings, effect)
    # Clients encode what goes up, and to aggregate is to decode it.
    if phase in ("encode", "aggregate"):
        return _plainer_codec("up", run)
    # To prepare a round is to encode what goes down.
    if phase == "prepare":
        return _plainer_codec("down", run)
    if phase == OTHER and _waits_for_slowest(profile):
        return (
            "rounds wait for their slowest client; train.steps gives all clients "
            "the same work, which is another algorithm"
        )
    return None


def _plainer_codec(direction: str, run: RunRecord) -> str | None:
    codec = section(run.manifest, "codec").get(direction)
    if codec in (None, "raw32"):
        return None
    return (
        f'a plainer codec.{direction} than "{codec}", such as "f16" or "raw32", '
        "takes less time and more bytes"
    )


def _less_often(key: str, settings: Mapping[str, Any], effect: str) -> str | None:
    """Return the advice to do something every ten times as many rounds, where there are more."""
    configured = finite(settings, key)
    rounds = finite(settings, "rounds")
    if configured is None or not rounds:
        return None
    # 0 is each round.
    every = max(1, configured)
    if every >= rounds:
        return None
    less_often = min(LESS_OFTEN * every, rounds)
    return f"experiment.{key} = {less_often:.0f} (now {every:.0f}) {effect}"


def _waits_for_slowest(profile: RunProfile) -> bool:
    """Return whether the slowest client of each round holds up several workers."""
    if (profile.workers or 1) <= 1:
        return False
    trainings = profile.measured.rounds
    slowest_s = sum(training.slowest_s for training in trainings)
    return slowest_s / profile.seconds >= STRAGGLER
