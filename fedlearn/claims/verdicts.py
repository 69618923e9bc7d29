"""Whether claims hold: from the runs of each seed to one figure, its band, a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlearn.claims.sections import Claim
from fedlearn.claims.source import platform_of
from fedlearn.claims.words import band_text, claim_text, limits_text, paper_text
from fedlearn.records.reading import RunRecord, number
from fedlearn.reporting.results import accuracy_curve, crossing, results

# Verdicts, as tables show them.
HOLDS = "holds"
MISSED = "missed"
KNOWN = "known miss"
SKIPPED = "skipped"

# Hex digits of a model's hash that a person compares.
_HASH_DIGITS = 12

# (variant, seed) → its run; one that failed is not there.
Runs = Mapping[tuple[str, int], RunRecord]

# A claim's figure or hash for each seed; None: there is none, or it is not finite.
SeedValues = tuple[float | str | None, ...]


@dataclass(frozen=True)
class Judgement:
    """What came of a claim, in words.

    The names of the fields are keys in the files of results. values: one per seed; None:
    there is none, or the target was not reached. point: the paper's figure as (round,
    accuracy).
    """

    claim: str
    wanted: str
    paper: str
    ours: str
    verdict: str
    why: str = ""
    values: SeedValues = ()
    point: tuple[float, float] | None = None
    target: float | None = None
    variants: tuple[str, ...] = ()


def judge(
    claim: Claim,
    runs: Runs,
    seeds: Sequence[int],
    failed: Mapping[tuple[str, int], str],
) -> Judgement:
    """Return the judgement of a claim.

    failed: (variant, seed) → why that run gave no result.
    """
    failures = [
        f"{name}, seed {seed}: {failed[name, seed]}"
        for name in claim.variants
        for seed in seeds
        if (name, seed) in failed
    ]
    if failures:
        # Missed even where a miss is known: nothing of it was seen.
        return _judgement(claim, "-", MISSED, f"a run failed ({failures[0]})")
    if claim.what == "hash":
        return _judge_hash(claim, runs, seeds)
    values = [_figure(claim, runs, seed) for seed in seeds]
    # Of "each" the median is shown, and every seed is judged.
    middle = _middle(claim.by, values)
    if claim.by == "each":
        met = all(_within(claim, value) for value in values)
    else:
        met = _within(claim, middle)
    ours = band_text(claim, values, middle)
    # JSON has no infinite numbers.
    finite = tuple(value if math.isfinite(value) else None for value in values)
    return _judgement(claim, ours, _verdict(claim, met), values=finite)


def _within(claim: Claim, value: float) -> bool:
    """Tell whether a value is within a claim's limits; NaN is within none."""
    if math.isnan(value):
        return False
    if claim.at_least is not None and value < claim.at_least:
        return False
    return claim.at_most is None or value <= claim.at_most


def _figure(claim: Claim, runs: Runs, seed: int) -> float:
    """Return a claim's figure for one seed; NaN: there is none."""
    value = measure(claim, runs[claim.of, seed])
    if claim.minus:
        return value - measure(claim, runs[claim.minus, seed])
    if not claim.over:
        return value
    # A ratio to nothing is no figure.
    divisor = measure(claim, runs[claim.over, seed])
    return value / divisor if divisor else math.nan


def measure(claim: Claim, run: RunRecord) -> float:
    """Return what a claim asks of a run.

    Infinite: the target is not reached. NaN: the round was not evaluated.
    """
    if claim.target is not None:
        in_rounds = claim.what == "rounds"
        return _to_target(run, claim.target, in_rounds)
    if claim.what == "bytes":
        return results(run).bytes_total
    if claim.what == "best_accuracy":
        return _best_accuracy(run, claim.round)
    lines = [line for line in run.lines if claim.round in (None, line["round"])]
    evaluated = [number(line, claim.what) for line in lines]
    values = [float(value) for value in evaluated if value is not None]
    # A median of fewer evaluations would be another figure than was claimed.
    if len(values) < claim.last:
        return math.nan
    return statistics.median(values[-claim.last :])


def _to_target(run: RunRecord, target: float, in_rounds: bool) -> float:
    """Return the rounds or bytes of a run until an accuracy; infinite: never reached."""
    curve = accuracy_curve(run.lines)
    axis = curve.rounds if in_rounds else curve.bytes_total
    crossed = crossing(axis, curve.accuracy, target)
    return math.inf if crossed is None else crossed


def _best_accuracy(run: RunRecord, last: int | None) -> float:
    """Return the best accuracy up to a round, or of the whole run."""
    curve = accuracy_curve(run.lines)
    until = last or results(run).rounds
    points = zip(curve.rounds, curve.accuracy, strict=True)
    accuracies = [accuracy for position, accuracy in points if position <= until]
    return max(accuracies, default=math.nan)


def _middle(by: str, values: Sequence[float]) -> float:
    """Return the mean, or else the median, of the seeds' figures; NaN if one is NaN."""
    # `statistics` would put NaN anywhere in the order.
    if any(map(math.isnan, values)):
        return math.nan
    if by == "mean":
        return statistics.fmean(values)
    return statistics.median(values)


def _judge_hash(claim: Claim, runs: Runs, seeds: Sequence[int]) -> Judgement:
    """Return the judgement of a claim about the final models' hashes."""
    hashes = [results(runs[claim.of, seed]).model_sha256 for seed in seeds]
    # The first seed stands for all: tables have room for one.
    ours = hashes[0][:_HASH_DIGITS]
    if claim.same_as:
        twins = [results(runs[claim.same_as, seed]).model_sha256 for seed in seeds]
        why = _differences(seeds, hashes, twins)
    else:
        # The bits of a model are the same on one platform only.
        platform = platform_of(runs[claim.of, seeds[0]])
        recorded = claim.sha256.get(platform)
        if recorded is None:
            why = f"no hash is recorded for {platform}"
            return _judgement(claim, ours, SKIPPED, why, tuple(hashes))
        why = ""
        if hashes[0] != recorded:
            why = f"on {platform} it is {recorded[:_HASH_DIGITS]}"
    return _judgement(claim, ours, _verdict(claim, not why), why, tuple(hashes))


def _differences(
    seeds: Sequence[int], hashes: Sequence[str], twins: Sequence[str]
) -> str:
    """Return the seeds whose two hashes differ, in words; "" when none do."""
    differences = [
        f"seed {seed}: {ours[:_HASH_DIGITS]} and {twin[:_HASH_DIGITS]}"
        for seed, ours, twin in zip(seeds, hashes, twins, strict=True)
        # Two runs without a hash are not the same model.
        if ours != twin or not ours
    ]
    return "; ".join(differences)


def _verdict(claim: Claim, met: bool) -> str:
    """Return the verdict of a claim that could be judged."""
    if met:
        return HOLDS
    if claim.known:
        return KNOWN
    return MISSED


def _judgement(
    claim: Claim, ours: str, verdict: str, why: str = "", values: SeedValues = ()
) -> Judgement:
    """Return a judgement, with what the claim itself says of it."""
    if verdict == KNOWN:
        # What was seen now, then what is known of it.
        why = "; ".join(filter(None, (why, claim.known)))
    elif verdict == HOLDS and claim.known:
        why = "it was known as a miss, and holds: take known out of the claim"
    return Judgement(
        claim=claim_text(claim),
        wanted=limits_text(claim),
        paper=paper_text(claim),
        ours=ours,
        verdict=verdict,
        why=why,
        values=values,
        point=_point(claim),
        target=claim.target,
        variants=tuple(dict.fromkeys(claim.variants)),
    )


def _point(claim: Claim) -> tuple[float, float] | None:
    """Return the paper's figure as a point of accuracy over rounds; None: it is none."""
    # A difference or a ratio of two variants is no accuracy of one.
    if isinstance(claim.paper, str) or claim.minus or claim.over:
        return None
    if claim.what == "rounds" and claim.target is not None:
        return claim.paper, claim.target
    if claim.what == "accuracy" and claim.round:
        return float(claim.round), claim.paper
    return None
