"""What a rollout is to do, and how far it is: plain values, which a journal keeps.

What moves a rollout from one phase to another (a dot: nothing changes):

```
          pause  resume  abort   passed  last failed
RUNNING   PAUSED .       ABORTED RUNNING DONE WITHDRAWN
PAUSED    .      RUNNING ABORTED .       .    WITHDRAWN
DONE      .      .       ABORTED .       .    .
WITHDRAWN .      .       .       .       .    .
ABORTED   .      .       .       .       .    .
```

pause, resume, abort: its operator. passed: enough devices of a wave committed, and the others
failed or were silent; last: so did the last wave. failed: too many devices of a wave failed
or were silent, or its figures broke a limit. DONE, WITHDRAWN and ABORTED are ends: every
device is wanted on the release, or on the one before. To abort what is done recalls it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from math import ceil

from fedlearn.errors import UserError
from fedlearn.exchange.releases import (
    InstalledReport,
    ReleaseId,
    WatchFigures,
    WatchLimits,
)

# Cumulative shares of the devices: the first wave is the canary.
SHARES = (0.05, 0.25, 1.0)


class RolloutPhase(Enum):
    """Where a rollout stands; see the module's table."""

    RUNNING = auto()
    PAUSED = auto()
    DONE = auto()
    WITHDRAWN = auto()
    ABORTED = auto()


class DeviceStanding(Enum):
    """Where a device stands in a rollout."""

    PENDING = auto()
    COMMITTED = auto()
    FAILED = auto()


@dataclass(frozen=True)
class RolloutPlan:
    """What a rollout is to do.

    number: of the rollout, higher than that of every one before. previous: what devices return
    to, None: the fleet had no model. waves: devices, each once. most_failed: share of a wave
    that may fail or be silent. silence_s: after which a device of a wave counts as failed.
    limits: of the figures of all its devices together; each device has its own in the manifest.
    """

    number: int
    release: ReleaseId
    previous: ReleaseId | None
    waves: tuple[tuple[int, ...], ...]
    most_failed: float = 0.2
    silence_s: float = 3600.0
    limits: WatchLimits = field(default_factory=WatchLimits)

    def __post_init__(self) -> None:
        """Raise UserError for waves that are none."""
        devices = [device for wave in self.waves for device in wave]
        if not self.waves or not all(self.waves):
            raise UserError("a rollout needs at least one device in each wave")
        if len(set(devices)) != len(devices):
            raise UserError("a rollout names a device twice; name each once")

    def standing(self, report: InstalledReport | None) -> DeviceStanding:
        """Return where a device stands that reported last so."""
        if report is None:
            return DeviceStanding.PENDING
        if report.committed == self.release and report.trial is None:
            return DeviceStanding.COMMITTED
        failure = report.failure
        if failure is None:
            return DeviceStanding.PENDING
        is_ours = (failure.rollout, failure.release) == (self.number, self.release)
        return DeviceStanding.FAILED if is_ours else DeviceStanding.PENDING


@dataclass(frozen=True)
class RolloutProgress:
    """How far a rollout is.

    wave: the last one that is open, from 0. elapsed_s: since it opened, while the rollout ran
    and its coordinator was up. reason: of an end, or of the pause.
    """

    phase: RolloutPhase = RolloutPhase.RUNNING
    wave: int = 0
    elapsed_s: float = 0.0
    reason: str = ""


def by_shares(
    devices: Sequence[int], shares: Sequence[float] = SHARES
) -> tuple[tuple[int, ...], ...]:
    """Return waves that end at cumulative shares of the devices, the last one at all.

    Each has at least one device; shares that add none give no wave. Raises UserError for
    shares that do not rise to 1.
    """
    rising = [0.0, *shares]
    if not shares or rising != sorted(set(rising)) or shares[-1] != 1:
        text = ", ".join(f"{share:g}" for share in shares)
        raise UserError(f"shares rise from above 0 to 1, as 0.05, 0.25, 1; not {text}")
    waves = []
    start = 0
    for share in shares:
        end = max(ceil(share * len(devices)), start)
        if end > start:
            waves.append(tuple(devices[start:end]))
        start = end
    return tuple(waves)


def along_chain(devices: Iterable[int]) -> tuple[tuple[int, ...], ...]:
    """Return waves of one device each: a pipeline's stages change one after another."""
    return tuple((device,) for device in devices)


def together(figures: Sequence[WatchFigures]) -> WatchFigures:
    """Return figures of some devices as one: shares by requests, else the median.

    The 99th percentile of all requests does not follow from those of parts; a median is
    moved by no single slow board.
    """
    counted = [figure for figure in figures if figure.requests]
    requests = sum(figure.requests for figure in counted)
    if not requests:
        return WatchFigures()
    return WatchFigures(
        requests,
        sum(figure.errors * figure.requests for figure in counted) / requests,
        _median(figure.p99_ms for figure in counted),
        sum(figure.unsure * figure.requests for figure in counted) / requests,
        _median(figure.drift for figure in counted),
        sum(figure.disagreement * figure.requests for figure in counted) / requests,
    )


def _median(values: Iterable[float]) -> float:
    """Return the lower median."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]
