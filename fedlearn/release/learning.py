"""When a fleet learns again, and how far that is: a pure state machine over one record.

Three triggers start it, as in KubeEdge's Sedna (Chen et al., IEEE Access 2021): time, samples
and drift. A federated run starts from the weights that the fleet serves, its model becomes a
release candidate, and a rollout brings it to the devices, gates and all.

```
            IDLE      TRAINING   RELEASING  ROLLING
trigger     TRAINING  .          .          .
trained     .         RELEASING  .          .
worse       .         IDLE       .          .
released    .         .          ROLLING *  .
rolled      .         .          .          IDLE
stale       .         .          .          IDLE
failed      .         TRAINING   RELEASING  ROLLING
given up    .         IDLE       IDLE       IDLE
```
worse: than the gate allows. *: IDLE where nobody wants a rollout. stale: the fleet runs another
release by now. given up: failed `TRIES` times. A dot: that cannot come.

The record is on disk before anything follows from it. The step that it names is done again
after a crash, and each step is one that can be done again. So a trigger is acted upon once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Literal

from fedlearn.exchange.releases import ReleaseId

# How often a step is tried, and the seconds before it is tried again.
TRIES = 3
AGAIN_S = 60.0


class LearnStep(Enum):
    """What is to be done; see the module's table."""

    IDLE = auto()
    TRAINING = auto()
    RELEASING = auto()
    ROLLING = auto()


@dataclass(frozen=True)
class LearnTriggers:
    """What starts a learning; infinity: nothing of this kind.

    every_s: seconds since the last one ended. samples: requests that devices answered since it
    began. drift: population stability index of a device, and share: of the devices that have
    to be above it. rest_s: after an end nothing begins for so long.
    """

    every_s: float = float("inf")
    samples: float = float("inf")
    drift: float = float("inf")
    share: float = 0.1
    rest_s: float = 3600.0


@dataclass(frozen=True)
class LearnCause:
    """Which trigger starts a learning, and why in words."""

    kind: Literal["drift", "samples", "time"]
    text: str


@dataclass(frozen=True)
class LearnRecord:
    """How far learning is.

    number: of the learning under way, else of the last one. why: its trigger. base: the release
    that it starts from. served: requests of the fleet when it began. began_s, ended_s, again_s:
    seconds since 1970; again_s: nothing is tried before. tries: of this step that failed.
    drifted: the last release whose drift was acted upon. release: what came of it. outcome: of
    the last learning, in words.
    """

    number: int = 0
    step: LearnStep = LearnStep.IDLE
    why: str = ""
    base: ReleaseId | None = None
    served: int = 0
    began_s: float = 0.0
    ended_s: float = 0.0
    again_s: float = 0.0
    tries: int = 0
    drifted: ReleaseId | None = None
    release: ReleaseId | None = None
    outcome: str = ""


@dataclass(frozen=True)
class FleetSight:
    """What is seen of a fleet.

    now_s: seconds since 1970. serving: what the fleet runs, None: nothing yet. served: requests
    that its devices have answered. drifts: of each device that serves it and has answered
    enough. rolling: the release of a rollout that is under way.
    """

    now_s: float
    serving: ReleaseId | None = None
    served: int = 0
    drifts: tuple[float, ...] = ()
    rolling: ReleaseId | None = None


@dataclass(frozen=True)
class TrainedWeights:
    """What a run made of weights: their accuracy before and after, shares of 1."""

    before: float
    after: float


# What comes of a step: a run, a release, or the number of a rollout.
StepResult = TrainedWeights | ReleaseId | int


def begun(sight: FleetSight) -> LearnRecord:
    """Return the record of a fleet that is looked at for the first time: all counts from now."""
    return LearnRecord(served=sight.served, ended_s=sight.now_s)


def trigger(
    record: LearnRecord, triggers: LearnTriggers, sight: FleetSight
) -> LearnCause | None:
    """Return why learning is to begin now, None: it is not."""
    if record.step is not LearnStep.IDLE or sight.serving is None:
        return None
    # A release on its way may mend what would be learned for.
    rested_s = sight.now_s - record.ended_s
    if rested_s < triggers.rest_s or sight.rolling is not None:
        return None
    drifting = sum(drift > triggers.drift for drift in sight.drifts)
    # The drift of a release is acted upon once: its successor may not be rolled out yet.
    is_news = sight.serving != record.drifted
    if is_news and drifting and drifting >= triggers.share * len(sight.drifts):
        devices = f"{drifting} of {len(sight.drifts)} devices"
        return LearnCause("drift", f"{devices} drift above {triggers.drift:g}")
    new = sight.served - record.served
    if new >= triggers.samples:
        return LearnCause("samples", f"{new} requests since the last learning")
    if rested_s >= triggers.every_s:
        return LearnCause("time", f"{rested_s / 3600:.1f} h since the last learning")
    return None


def begins(record: LearnRecord, cause: LearnCause, sight: FleetSight) -> LearnRecord:
    """Return the record of a learning that begins."""
    drifted = sight.serving if cause.kind == "drift" else record.drifted
    return LearnRecord(
        number=record.number + 1,
        step=LearnStep.TRAINING,
        why=cause.text,
        base=sight.serving,
        served=sight.served,
        began_s=sight.now_s,
        ended_s=record.ended_s,
        drifted=drifted,
    )


def is_stale(record: LearnRecord, sight: FleetSight) -> bool:
    """Tell whether the fleet runs another release by now than the one that was improved."""
    if record.step is not LearnStep.ROLLING:
        return False
    return sight.serving not in (record.base, record.release)


def is_due(record: LearnRecord, sight: FleetSight) -> bool:
    """Tell whether the record's step is to be done now."""
    if record.step is LearnStep.IDLE or sight.now_s < record.again_s:
        return False
    # Rollouts wait for one another.
    is_rolling = record.step is LearnStep.ROLLING
    return not is_rolling or sight.rolling in (None, record.release)


def followed(
    record: LearnRecord, result: StepResult, gate: float, rolls: bool, now_s: float
) -> LearnRecord:
    """Return the record after its step was done.

    gate: points of accuracy that a run may lose. rolls: whether a rollout is wanted.
    """
    if isinstance(result, TrainedWeights):
        lost = 100 * (result.before - result.after)
        accuracies = (
            f"{100 * result.before:.2f} % before, {100 * result.after:.2f} % after"
        )
        if lost > gate:
            text = f"not released: {accuracies}; {gate:g} points may be lost"
            return ended(record, text, now_s)
        return _next(record, LearnStep.RELEASING)
    if isinstance(result, ReleaseId):
        record = replace(record, release=result)
        if rolls:
            return _next(record, LearnStep.ROLLING)
        return ended(record, f"{result} is a candidate", now_s)
    return ended(record, f"{record.release} is in rollout {result}", now_s)


def failed(record: LearnRecord, reason: str, now_s: float) -> LearnRecord:
    """Return the record after its step failed: it is tried again, or given up."""
    tries = record.tries + 1
    if tries >= TRIES:
        return ended(record, f"given up after {tries} tries: {reason}", now_s)
    return replace(record, tries=tries, again_s=now_s + AGAIN_S)


def ended(record: LearnRecord, outcome: str, now_s: float) -> LearnRecord:
    """Return the record of a learning that is over."""
    return replace(_next(record, LearnStep.IDLE), ended_s=now_s, outcome=outcome)


def _next(record: LearnRecord, step: LearnStep) -> LearnRecord:
    return replace(record, step=step, tries=0, again_s=0.0)
