"""What an operator does with a fleet's rollouts: start one, steer it, and read how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fedlearn.errors import UserError
from fedlearn.exchange.releases import InstalledReport, ReleaseId, WatchLimits
from fedlearn.release.shelf import PackageShelf
from fedlearn.server.rollout import Rollout
from fedlearn.server.rollout_plan import (
    SHARES,
    DeviceStanding,
    RolloutPhase,
    RolloutPlan,
    RolloutProgress,
    along_chain,
    by_shares,
)
from fedlearn.server.rollout_store import STORE_FILE, RolloutStore

OPEN = {RolloutPhase.RUNNING, RolloutPhase.PAUSED}


@dataclass(frozen=True)
class RolloutOptions:
    """How a rollout goes on.

    devices: which, in this order for a chain; empty: all that have ever reported. shares: of
    the waves, cumulative. chain: one device after another instead. key: PEM that has to have
    signed the package, None: any. Others: see `RolloutPlan`.
    """

    devices: tuple[int, ...] = ()
    shares: tuple[float, ...] = SHARES
    chain: bool = False
    most_failed: float = 0.2
    silence_s: float = 3600.0
    limits: WatchLimits = field(default_factory=WatchLimits)
    key: bytes | None = None


def opened(folder: Path) -> RolloutStore:
    """Return the rollouts of a fleet's folder. Raises UserError where there are none."""
    if not (folder / STORE_FILE).is_file():
        raise UserError(
            f"'{folder}' is no fleet's folder; fedlearn fleet {folder} makes one"
        )
    return RolloutStore(folder)


def start(folder: Path, package: Path, options: RolloutOptions) -> RolloutPlan:
    """Write down a rollout, which the fleet's coordinator begins within a second.

    Raises UserError for a package that no device could take, for a fleet without devices, and
    while another rollout is open.
    """
    store = opened(folder)
    try:
        newest = store.newest()
        if newest is not None and newest[1].phase in OPEN:
            number = newest[0].number
            raise UserError(
                f"rollout {number} is {newest[1].phase.name.lower()}; wait for its end, or "
                f"end it: fedlearn rollout abort --fleet {folder}"
            )
        plan = _plan(newest, store.reports(), options, folder, package)
        store.begin(plan)
        return plan
    finally:
        store.close()


def steer(folder: Path, verb: str) -> int:
    """Write down "pause", "resume" or "abort" for the last rollout; returns its number.

    Raises UserError where that would change nothing.
    """
    store = opened(folder)
    try:
        newest = store.newest()
        if newest is None:
            raise UserError(f"'{folder}' has no rollout yet")
        plan, progress = newest
        allowed = {
            "pause": {RolloutPhase.RUNNING},
            "resume": {RolloutPhase.PAUSED},
            # What is done can be recalled.
            "abort": {*OPEN, RolloutPhase.DONE},
        }
        if progress.phase not in allowed[verb]:
            phase = progress.phase.name.lower()
            raise UserError(f"rollout {plan.number} is {phase}: it cannot {verb}")
        store.wish(plan.number, verb)
        return plan.number
    finally:
        store.close()


def status(folder: Path) -> dict[str, Any]:
    """Return how far the last rollout is, as plain values; {} without one."""
    store = opened(folder)
    try:
        newest = store.newest()
        reports = store.reports()
    finally:
        store.close()
    if newest is None:
        return {"rollout": None, "devices": _devices(reports)}
    plan, progress = newest
    return {
        "rollout": plan.number,
        "release": str(plan.release),
        "phase": progress.phase.name.lower(),
        "reason": progress.reason,
        "wave": progress.wave + 1,
        "waves": [_wave(plan, wave, reports) for wave in plan.waves],
        "unsettled": _unsettled(plan, progress, reports),
        "devices": _devices(reports),
    }


def _plan(
    newest: tuple[RolloutPlan, RolloutProgress] | None,
    reports: dict[int, InstalledReport],
    options: RolloutOptions,
    folder: Path,
    package: Path,
) -> RolloutPlan:
    devices = list(options.devices or reports)
    if not devices:
        raise UserError(
            "no device has reported to this fleet yet; start agents with a [releases] "
            "section, or name devices with --devices"
        )
    release = PackageShelf(folder).add(package, options.key)
    number = 1 if newest is None else newest[0].number + 1
    if options.chain:
        waves = along_chain(devices)
    else:
        # By the rollout's number: the same boards are not the canary each time.
        Random(number).shuffle(devices)
        waves = by_shares(devices, options.shares)
    return RolloutPlan(
        number,
        release,
        _previous(newest, release),
        waves,
        options.most_failed,
        options.silence_s,
        options.limits,
    )


def _previous(
    newest: tuple[RolloutPlan, RolloutProgress] | None, release: ReleaseId
) -> ReleaseId | None:
    """Return what devices return to: what the last rollout left them with."""
    if newest is None:
        return None
    plan, progress = newest
    before = plan.release if progress.phase is RolloutPhase.DONE else plan.previous
    if before is not None and before.name != release.name:
        raise UserError(
            f"this fleet runs '{before.name}', and the package is '{release.name}'; give "
            "another model a fleet of its own"
        )
    return before


def _wave(
    plan: RolloutPlan, wave: Sequence[int], reports: dict[int, InstalledReport]
) -> dict[str, int]:
    counts = Counter(plan.standing(reports.get(device)) for device in wave)
    return {standing.name.lower(): counts[standing] for standing in DeviceStanding}


def _unsettled(
    plan: RolloutPlan, progress: RolloutProgress, reports: dict[int, InstalledReport]
) -> list[int]:
    """Return the devices that are not where they should be yet."""
    rollout = Rollout(plan, progress, reports, 0.0)
    devices = {*reports, *(device for wave in plan.waves for device in wave)}
    return sorted(device for device in devices if not rollout.is_settled(device))


def _devices(reports: dict[int, InstalledReport]) -> list[dict[str, Any]]:
    return [_device(device, reports[device]) for device in sorted(reports)]


def _device(device: int, report: InstalledReport) -> dict[str, Any]:
    failure = report.failure
    return {
        "device": device,
        "committed": None if report.committed is None else str(report.committed),
        "trial": None if report.trial is None else str(report.trial),
        "failed": None if failure is None else str(failure.release),
        "reason": "" if failure is None else failure.reason,
        "waiting": report.waiting,
    }
