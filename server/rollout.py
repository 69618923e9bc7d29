"""The coordinator's end of a rollout as a pure state machine: events in, actions out.

Its other end is `fedlearn.clients.installation`; `fedlearn.server.rollout_plan` has the table
of its phases. No network, clock, disk or thread is here. Actions are performed in order, and
what is kept is on disk before the next one: a coordinator that is killed loses none of it.
Times are seconds of any clock that never goes back, and begins anew with each process.

What each device is to have follows from the phase and the wave alone. It is said at every
connection and after every change, so no message is needed twice, and none does harm twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from fedlearn.exchange.releases import InstalledReport, WantedRelease, WatchFigures
from fedlearn.server.rollout_plan import (
    DeviceStanding,
    RolloutPhase,
    RolloutPlan,
    RolloutProgress,
    together,
)

# Seconds after which a device that is not where it should be is told once more.
RESEND_S = 60.0

# Of silence_s: how much of it may be lost when a coordinator is killed.
KEEP_SHARE = 0.05

# Of silence_s: what devices have at least to come back to a coordinator that was restarted.
RETURN_SHARE = 0.25

_OPEN = {RolloutPhase.RUNNING, RolloutPhase.PAUSED}
_FORWARD = {*_OPEN, RolloutPhase.DONE}


@dataclass(frozen=True)
class KeepProgress:
    """Bring to disk how far the rollout is."""

    number: int
    progress: RolloutProgress


@dataclass(frozen=True)
class KeepReport:
    """Bring to disk what a device reported."""

    device: int
    report: InstalledReport


@dataclass(frozen=True)
class SendWanted:
    """Tell a device, which is connected, what it is to have."""

    device: int
    wanted: WantedRelease


@dataclass(frozen=True)
class RolloutNote:
    """Write a line to the log."""

    text: str


RolloutAction = KeepProgress | KeepReport | SendWanted | RolloutNote


class Rollout:
    """See the module. Every method for an event returns the actions that follow from it."""

    def __init__(
        self,
        plan: RolloutPlan,
        progress: RolloutProgress,
        reports: Mapping[int, InstalledReport],
        now: float,
    ) -> None:
        """Take what the disk says: of a new rollout, `RolloutProgress()` and the reports."""
        self.plan = plan
        # Devices that were cut off from a dead coordinator are not silent.
        latest_s = plan.silence_s * (1 - RETURN_SHARE)
        self.progress = replace(progress, elapsed_s=min(progress.elapsed_s, latest_s))
        self.reports = dict(reports)
        self._wave_of = {
            device: number for number, wave in enumerate(plan.waves) for device in wave
        }
        # Connected devices, and when each was last told what it is to have.
        self._told_s: dict[int, float] = {}
        self._clocked_s = now
        self._kept_s = self.progress.elapsed_s

    # What follows from the phase

    def wanted(self, device: int) -> WantedRelease | None:
        """Return what a device is to have; None: whatever it has."""
        plan = self.plan
        is_open = self._is_open(device)
        is_forward = self.progress.phase in _FORWARD
        if is_open and is_forward:
            return WantedRelease(plan.number, plan.release)
        # A device that was never asked for the first release keeps what its owner gave it;
        # until the release is recalled, that may be this one.
        is_untouched = is_forward or not self._has_release(device)
        if plan.previous is None and not is_open and is_untouched:
            return None
        return WantedRelease(plan.number, plan.previous)

    def standing(self, device: int) -> DeviceStanding:
        """Return where a device stands."""
        return self.plan.standing(self.reports.get(device))

    def is_settled(self, device: int) -> bool:
        """Tell whether a device is where it should be, or will never be."""
        wish = self.wanted(device)
        report = self.reports.get(device)
        if wish is None:
            return True
        if report is None:
            return False
        # It has not heard yet that something else is wanted.
        if report.trial is not None or report.target not in (None, wish.release):
            return False
        if report.committed == wish.release:
            return True
        failure = report.failure
        if failure is None:
            return False
        return (failure.rollout, failure.release) == (wish.rollout, wish.release)

    # Events

    def connected(self, device: int, now: float) -> list[RolloutAction]:
        """Take a device that can be told something from now on."""
        self._told_s[device] = float("-inf")
        return self._send([device], now, is_new=True)

    def gone(self, device: int) -> list[RolloutAction]:
        """Take the end of a device's connection."""
        self._told_s.pop(device, None)
        return []

    def heard(
        self, device: int, report: InstalledReport, now: float
    ) -> list[RolloutAction]:
        """Take a report, which may have come before, or be older than the last one."""
        before = self.reports.get(device)
        if before is not None and _is_older(report, before):
            return []
        self.reports[device] = report
        actions: list[RolloutAction] = []
        # What a device does meanwhile is told again; what it has must not be forgotten.
        if before is None or _lasting(before) != _lasting(report):
            actions.append(KeepReport(device, report))
        actions += self._judge(now)
        if now - self._told_s.get(device, now) >= RESEND_S:
            actions += self._send([device], now)
        return actions

    def tick(self, now: float) -> list[RolloutAction]:
        """Let time pass: silence counts."""
        self._elapse(now)
        actions = self._judge(now)
        silence_s = self.plan.silence_s
        if self.progress.elapsed_s - self._kept_s >= KEEP_SHARE * silence_s:
            actions.insert(0, self._keep())
        late = [
            device
            for device, told_s in self._told_s.items()
            if now - told_s >= RESEND_S
        ]
        return [*actions, *self._send(late, now)]

    def next_alarm(self, now: float) -> float:
        """Return when `tick` is due."""
        if self.progress.phase is not RolloutPhase.RUNNING:
            return now + RESEND_S
        left_s = self.plan.silence_s - self.progress.elapsed_s
        return now + max(0.0, min(left_s, KEEP_SHARE * self.plan.silence_s, RESEND_S))

    def pause(self, now: float) -> list[RolloutAction]:
        """Open no further wave, and count no silence; failures still count."""
        if self.progress.phase is not RolloutPhase.RUNNING:
            return []
        self._elapse(now)
        return self._enter(RolloutPhase.PAUSED, "its operator paused it", now)

    def resume(self, now: float) -> list[RolloutAction]:
        """Go on after a pause."""
        if self.progress.phase is not RolloutPhase.PAUSED:
            return []
        self._clocked_s = now
        return self._enter(RolloutPhase.RUNNING, "", now)

    def abort(self, reason: str, now: float) -> list[RolloutAction]:
        """Recall the release from every device; the rollout may be done already."""
        if self.progress.phase not in _FORWARD:
            return []
        return self._enter(RolloutPhase.ABORTED, reason, now)

    # Waves

    def _judge(self, now: float) -> list[RolloutAction]:
        """Withdraw the release, or open the next wave, where its devices say so."""
        if self.progress.phase not in _OPEN:
            return []
        wave = self.plan.waves[self.progress.wave]
        counts = Counter(self.standing(device) for device in wave)
        failed = counts[DeviceStanding.FAILED]
        pending = counts[DeviceStanding.PENDING]
        tolerated = self.plan.most_failed * len(wave)
        title = f"of {len(wave)} devices of wave {self.progress.wave + 1}"
        if failed > tolerated:
            reason = f"{failed} {title} failed: {self._usual_reason(wave)}"
            return self._enter(RolloutPhase.WITHDRAWN, reason, now)
        objection = self._objection()
        if objection is not None:
            return self._enter(RolloutPhase.WITHDRAWN, objection, now)
        if self.progress.phase is RolloutPhase.PAUSED:
            return []
        if pending and not self._is_overdue():
            return []
        if failed + pending > tolerated:
            reason = f"{pending} {title} were silent or late, {failed} failed"
            return self._enter(RolloutPhase.WITHDRAWN, reason, now)
        return self._passed(now)

    def _passed(self, now: float) -> list[RolloutAction]:
        """Open the wave after one that is over, or end."""
        number = self.progress.wave + 1
        if number == len(self.plan.waves):
            return self._enter(RolloutPhase.DONE, "", now)
        self.progress = RolloutProgress(wave=number)
        self._kept_s = 0.0
        count = len(self.plan.waves[number])
        note = RolloutNote(f"wave {number + 1} opens: {count} devices")
        wave = self.plan.waves[number]
        opened = [self._keep(), note, *self._send(wave, now, is_new=True)]
        # They may have the release already.
        return [*opened, *self._judge(now)]

    def _is_overdue(self) -> bool:
        """Tell whether silence counts as failure by now."""
        return self.progress.elapsed_s >= self.plan.silence_s

    def _objection(self) -> str | None:
        """Return which limit the figures of all devices with the release break."""
        release = self.plan.release
        figures = [
            report.figures
            for device, report in self.reports.items()
            if self._is_open(device) and release in (report.trial, report.committed)
        ]
        objection = self.plan.limits.objection(together(figures))
        if objection is None:
            return None
        return f"on {len(figures)} devices together {objection}"

    def _usual_reason(self, wave: Iterable[int]) -> str:
        """Return the most frequent reason of a wave's failures."""
        reasons = Counter(
            report.failure.reason
            for device in wave
            if (report := self.reports.get(device)) is not None
            and report.failure is not None
            and self.standing(device) is DeviceStanding.FAILED
        )
        return reasons.most_common(1)[0][0]

    # Steps

    def _is_open(self, device: int) -> bool:
        """Tell whether a device's wave was opened; a finished rollout is everybody's."""
        if self.progress.phase is RolloutPhase.DONE:
            return True
        return self._wave_of.get(device, len(self.plan.waves)) <= self.progress.wave

    def _has_release(self, device: int) -> bool:
        """Tell whether a device said that it has the release, or is about to."""
        report = self.reports.get(device)
        if report is None:
            return False
        return self.plan.release in (report.committed, report.trial, report.target)

    def _elapse(self, now: float) -> None:
        passed_s = max(0.0, now - self._clocked_s)
        self._clocked_s = now
        if self.progress.phase is RolloutPhase.RUNNING:
            elapsed_s = self.progress.elapsed_s + passed_s
            self.progress = replace(self.progress, elapsed_s=elapsed_s)

    def _enter(
        self, phase: RolloutPhase, reason: str, now: float
    ) -> list[RolloutAction]:
        self.progress = replace(self.progress, phase=phase, reason=reason)
        name = phase.name.lower()
        text = f"rollout {self.plan.number} is {name}"
        note = RolloutNote(f"{text}: {reason}" if reason else text)
        return [self._keep(), note, *self._send(self._told_s, now, is_new=True)]

    def _keep(self) -> KeepProgress:
        self._kept_s = self.progress.elapsed_s
        return KeepProgress(self.plan.number, self.progress)

    def _send(
        self, devices: Iterable[int], now: float, is_new: bool = False
    ) -> list[RolloutAction]:
        """Tell connected devices what they are to have, if they are not there yet.

        is_new: tell them anyhow, as what they reported last may be over.
        """
        actions: list[RolloutAction] = []
        for device in devices:
            wish = self.wanted(device)
            if device not in self._told_s or wish is None:
                continue
            if is_new or not self.is_settled(device):
                self._told_s[device] = now
                actions.append(SendWanted(device, wish))
        return actions


def _is_older(report: InstalledReport, before: InstalledReport) -> bool:
    """Tell whether a report was sent before another one of the same disk."""
    if report.instance != before.instance:
        return False
    return report.sequence < before.sequence


def _lasting(report: InstalledReport) -> InstalledReport:
    """Return a report without what a device says again at each connection."""
    return replace(report, target=None, stage="", waiting="", figures=WatchFigures())
