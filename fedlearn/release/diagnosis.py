"""Faults of a fleet's devices: what their doctors find, asked over the fleet's stream.

Questions go through the fleet's folder, as wishes of rollouts do: the coordinator sends them to
devices that attend, and writes their answers down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlearn.errors import UserError
from fedlearn.exchange.findings import DeviceFinding
from fedlearn.exchange.releases import InstalledReport
from fedlearn.release import rollouts
from fedlearn.release.fleet_status import is_served
from fedlearn.server.device_store import DeviceDiagnosis, DeviceEntry, DeviceStore

# How often it is looked for answers.
_LOOK_S = 0.1

# What to do about an alarm of the fleet's own; see `fedlearn.server.fleet_board`.
ADVICE = {
    "drift": "the inputs are no longer those of the training: see what the device is fed, "
    "then train anew (fedlearn learn)",
    "errors": "see the log of fedlearn infer on the device; recall the release: fedlearn "
    "rollout abort",
    "unsure": "the model is often unsure: train anew (fedlearn learn), or roll out a larger one",
    "silent": "see whether it has power and a network, then run fedlearn doctor on it",
}


@dataclass(frozen=True)
class DeviceState:
    """What a device said and what its coordinator knows of it.

    diagnosis: the answer to this question, or to one before; None: it never gave any.
    is_new: it is of this question.
    """

    device: int
    entry: DeviceEntry
    findings: tuple[DeviceFinding, ...]
    diagnosis: DeviceDiagnosis | None
    is_new: bool

    @property
    def is_well(self) -> bool:
        """Tell whether it answered now, and nothing of it fails."""
        has_failed = any(finding.state == "FAILS" for finding in self.findings)
        return self.is_new and not has_failed


def diagnose(
    folder: Path,
    devices: Sequence[int] = (),
    wait_s: float = 30.0,
    sleep: Callable[[float], None] = time.sleep,
) -> list[DeviceState]:
    """Ask a fleet's devices what their doctors find, and wait for the answers.

    devices: empty, all that have ever attended. wait_s: for those that attend; others are not
    waited for. Raises UserError for devices that the fleet does not know, and where no
    coordinator serves it; RecordError.
    """
    store = rollouts.opened(folder)
    try:
        reports = store.reports()
    finally:
        store.close()
    if not is_served(folder):
        raise UserError(
            f"nobody serves the fleet '{folder}', so no device can be asked; start it: "
            f"fedlearn fleet {folder}, with the options that it had"
        )
    board = DeviceStore(folder)
    try:
        entries = board.entries()
        chosen = _chosen(devices, entries, folder)
        numbers = _answered(board, chosen, entries, wait_s, sleep)
        answers = board.diagnoses()
        # As they are now: some may have come or gone meanwhile.
        entries = board.entries()
        states = []
        for device in chosen:
            answer = answers.get(device)
            is_new = answer is not None and answer.number >= numbers[device]
            entry = entries.get(device, DeviceEntry())
            findings = _findings(entry, answer, reports.get(device))
            states.append(DeviceState(device, entry, findings, answer, is_new))
        return states
    finally:
        board.close()


def _chosen(
    devices: Sequence[int], entries: dict[int, DeviceEntry], folder: Path
) -> list[int]:
    unknown = sorted(set(devices) - entries.keys())
    if unknown:
        names = ", ".join(str(device) for device in unknown[:8])
        raise UserError(
            f"no agent has attended the fleet '{folder}' as device {names} yet; see "
            f"fedlearn status {folder}"
        )
    if not entries:
        raise UserError(f"no agent has attended the fleet '{folder}' yet")
    return sorted(set(devices)) or sorted(entries)


def _answered(
    board: DeviceStore,
    devices: Sequence[int],
    entries: dict[int, DeviceEntry],
    wait_s: float,
    sleep: Callable[[float], None],
) -> dict[int, int]:
    """Ask devices, wait for those that attend, and return the numbers of the questions."""
    numbers = {device: board.ask(device) for device in devices}
    waiting = {device for device in devices if entries[device].attending}
    end_s = time.monotonic() + wait_s
    try:
        while waiting and time.monotonic() < end_s:
            sleep(_LOOK_S)
            answers = board.diagnoses()
            for device in list(waiting):
                answer = answers.get(device)
                if answer is not None and answer.number >= numbers[device]:
                    waiting.discard(device)
    finally:
        # Nobody reads a later answer.
        for device, number in numbers.items():
            board.withdraw(device, number)
    return numbers


def _findings(
    entry: DeviceEntry,
    answer: DeviceDiagnosis | None,
    report: InstalledReport | None,
) -> tuple[DeviceFinding, ...]:
    """Return what the device found, then what the fleet knows of its release and figures."""
    findings = list(answer.findings) if answer is not None else []
    if answer is not None and answer.reason:
        findings.append(DeviceFinding("doctor", "note", answer.reason))
    if report is not None:
        findings.append(_release(report))
    for alarm in entry.alarms:
        value = getattr(entry.figures, alarm, None)
        text = (
            "it does not attend" if value is None else f"{value:.3g}, above its limit"
        )
        findings.append(DeviceFinding(alarm, "FAILS", text, ADVICE.get(alarm, "")))
    return tuple(findings)


def _release(report: InstalledReport) -> DeviceFinding:
    """Return the finding about what a device has installed."""
    text = "no model" if report.committed is None else str(report.committed)
    if report.trial is not None:
        text += f", {report.trial} on trial"
    if report.failure is not None:
        text += f"; {report.failure.release} was not kept: {report.failure.reason}"
        fix = "mend the package or the device; a new rollout tries again"
        return DeviceFinding("release", "note", text, fix)
    if report.waiting:
        return DeviceFinding("release", "note", f"{text}; waits: {report.waiting}")
    return DeviceFinding("release", "ok", text)
