"""Whether claims hold: from the runs of each seed to one figure, its band, and a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedlearn.claims.reading import PLAIN, Claim
from fedlearn.claims.source import platform_of
from fedlearn.records.reading import RunRecord, number
from fedlearn.reporting.results import accuracy_curve, crossing, results
from fedlearn.reporting.units import bytes_text, number_text, percent_text

HOLDS, MISSED, KNOWN, SKIPPED = "holds", "missed", "known miss", "skipped"

Runs = Mapping[tuple[str, int], RunRecord]
"""(variant, seed) → its run; one that failed is not there."""


@dataclass(frozen=True)
class Judged:
    """What came of a claim, in words. values: one per seed; None: there is none, or the target was not reached."""

    claim: str
    wanted: str
    paper: str
    ours: str
    verdict: str
    why: str = ""
    values: tuple[float | str | None, ...] = ()
    point: tuple[float, float] | None = None  # the paper's, as (round, accuracy)
    target: float | None = None
    variants: tuple[str, ...] = ()


def judge(
    claim: Claim,
    runs: Runs,
    seeds: Sequence[int],
    failed: Mapping[tuple[str, int], str],
) -> Judged:
    """Return the verdict of a claim. failed: (variant, seed) → why that run gave no result."""
    lost = [
        f"{name}, seed {seed}: {failed[name, seed]}"
        for name in claim.variants
        for seed in seeds
        if (name, seed) in failed
    ]
    if lost:
        return replace(
            _told(claim, "-", False), verdict=MISSED, why=f"a run failed ({lost[0]})"
        )  # of no known miss: nothing was seen
    if claim.what == "hash":
        return _hashes(claim, runs, seeds)
    values = [_figure(claim, runs, seed) for seed in seeds]
    known = tuple(value if math.isfinite(value) else None for value in values)
    summed = values if claim.by == "each" else [_middle(claim.by, values)]
    return _told(
        claim,
        _band(claim, values),
        all(_within(claim, value) for value in summed),
        values=known,
    )


def _figure(claim: Claim, runs: Runs, seed: int) -> float:
    """Return a claim's figure for one seed; NaN: there is none."""
    first = measured(claim, runs[claim.of, seed])
    if claim.minus:
        return first - measured(claim, runs[claim.minus, seed])
    if claim.over:
        below = measured(claim, runs[claim.over, seed])
        return first / below if below else math.nan
    return first


def measured(claim: Claim, run: RunRecord) -> float:
    """Return what a claim asks of a run; infinite: the target is not reached, NaN: the round was not evaluated."""
    curve, found = accuracy_curve(run.lines), results(run)
    if claim.target is not None:
        reached = crossing(
            curve.rounds if claim.what == "rounds" else curve.bytes_total,
            curve.accuracy,
            claim.target,
        )
        return math.inf if reached is None else reached
    if claim.what == "bytes":
        return found.bytes_total
    if claim.what == "best_accuracy":
        last = claim.round or found.rounds
        return max(
            (a for r, a in zip(curve.rounds, curve.accuracy, strict=True) if r <= last),
            default=math.nan,
        )
    values = [
        float(value)
        for line in run.lines
        if claim.round in (None, line["round"])
        and (value := number(line, claim.what)) is not None
    ]
    return (
        statistics.median(values[-claim.last :])
        if len(values) >= claim.last
        else math.nan
    )


def _middle(by: str, values: Sequence[float]) -> float:
    if any(map(math.isnan, values)):
        return math.nan
    return statistics.median(values) if by == "median" else statistics.fmean(values)


def _within(claim: Claim, value: float) -> bool:
    low = -math.inf if claim.at_least is None else claim.at_least
    high = math.inf if claim.at_most is None else claim.at_most
    return low <= value <= high


def _hashes(claim: Claim, runs: Runs, seeds: Sequence[int]) -> Judged:
    found = [results(runs[claim.of, seed]).model_sha256 for seed in seeds]
    if claim.same_as:
        twins = [results(runs[claim.same_as, seed]).model_sha256 for seed in seeds]
        differ = [
            f"seed {seed}: {ours[:12]} and {twin[:12]}"
            for seed, ours, twin in zip(seeds, found, twins, strict=True)
            if ours != twin or not ours
        ]
        return _told(
            claim, found[0][:12], not differ, why="; ".join(differ), values=tuple(found)
        )
    where = platform_of(runs[claim.of, seeds[0]])
    wanted = claim.sha256.get(where)
    if wanted is None:
        return _told(
            claim,
            found[0][:12],
            None,
            why=f"no hash is recorded for {where}",
            values=tuple(found),
        )
    why = "" if found[0] == wanted else f"on {where} it is {wanted[:12]}"
    return _told(claim, found[0][:12], not why, why, tuple(found))


def _told(
    claim: Claim,
    ours: str,
    met: bool | None,
    why: str = "",
    values: tuple[float | str | None, ...] = (),
) -> Judged:
    verdict = (
        SKIPPED if met is None else HOLDS if met else KNOWN if claim.known else MISSED
    )
    if verdict == KNOWN:
        why = f"{why}; {claim.known}" if why else claim.known
    elif verdict == HOLDS and claim.known:
        why = "it was known as a miss, and holds: take known out of the claim"
    names = tuple(dict.fromkeys(claim.variants))
    return Judged(
        words(claim),
        wanted(claim),
        _paper(claim),
        ours,
        verdict,
        why,
        values,
        _point(claim),
        claim.target,
        names,
    )


def words(claim: Claim) -> str:
    """Return a claim in words, without its limits."""
    of = (
        ""
        if claim.of == PLAIN and not (claim.minus or claim.over or claim.same_as)
        else claim.of
    )
    what = {
        "accuracy": "accuracy",
        "best_accuracy": "best accuracy",
        "loss": "loss",
        "hash": "model hash",
    }.get(claim.what, claim.what)
    if claim.target is not None:
        what += f" to {100 * claim.target:g} %"
    if claim.round:
        what += (
            f" {'by' if claim.what == 'best_accuracy' else 'after'} round {claim.round}"
        )
    if claim.last > 1:
        what += f", median of the last {claim.last} evaluations"
    beside = (
        f" − {claim.minus}" if claim.minus else f" ÷ {claim.over}" if claim.over else ""
    )
    return f"{what}: {of}{beside}" if of else what


def wanted(claim: Claim) -> str:
    """Return a claim's limits in words."""
    if claim.what == "hash":
        return f"= {claim.same_as}" if claim.same_as else "as recorded"
    low, high = claim.at_least, claim.at_most
    if low is not None and high is not None:
        return f"{shown(claim, low)} to {shown(claim, high)}"
    return f"≥ {shown(claim, low)}" if low is not None else f"≤ {shown(claim, high)}"


def shown(claim: Claim, value: float | None) -> str:
    """Return a value of a claim's measure, difference or ratio in words."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "not reached" if value > 0 else "other not reached"
    if claim.over:
        return f"{value:.3g}×"
    if claim.what == "rounds":
        return f"{value:+.1f}" if claim.minus else f"{value:.1f}".removesuffix(".0")
    if claim.what == "bytes":
        return f"{'-' if value < 0 else ''}{bytes_text(abs(value))}"
    if claim.what == "loss":
        return f"{value:+.2g}" if claim.minus else number_text(value)
    return f"{100 * value:+.2f} points" if claim.minus else percent_text(value)


def _band(claim: Claim, values: Sequence[float]) -> str:
    """Return the figure that the limits are for, and the band of the seeds around it."""
    if len(values) == 1:
        return shown(claim, values[0])
    middle = _middle("median" if claim.by == "each" else claim.by, values)
    return f"{shown(claim, middle)} ({shown(claim, min(values))} … {shown(claim, max(values))})"


def _paper(claim: Claim) -> str:
    figure = f" ({claim.figure})" if claim.figure else ""
    if isinstance(claim.paper, str):
        return f"{claim.paper}{figure}".strip()
    return f"{shown(claim, claim.paper)}{figure}"


def _point(claim: Claim) -> tuple[float, float] | None:
    """Return where the paper's figure stands in a picture of accuracy over rounds; None: it has no place there."""
    if isinstance(claim.paper, str) or claim.minus or claim.over:
        return None
    if claim.what == "rounds" and claim.target is not None:
        return claim.paper, claim.target
    return (
        (float(claim.round), claim.paper)
        if claim.what == "accuracy" and claim.round
        else None
    )
