"""What happens to a fleet's devices, as events of its log, and what is asked of them.

A device that comes, goes, installs, drifts, errs or falls silent gives one line each, when it
begins and when it ends. What is known outlives the coordinator in a `DeviceStore`; it is written
in the coordinator's pauses, a few times a second, for thousands of agents may come at once.

Times of `now` are seconds of any clock that never goes back; ``clock`` gives those since 1970.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from fedlearn.errors import RecordError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.findings import findings_of, reason_in
from fedlearn.exchange.release_frames import WrongFrame
from fedlearn.exchange.releases import InstalledReport, WatchFigures, WatchLimits
from fedlearn.server.device_store import DeviceDiagnosis, DeviceEntry, DeviceStore
from fedlearn.server.work import EventLog
from fedlearn.text import shortened

# A population stability index above 0.25 is a significant shift (N. Siddiqi, Credit Risk
# Scorecards, Wiley 2006). Fewer requests prove nothing.
DRIFT = 0.25
ERRORS = 0.05
LEAST_REQUESTS = 20

# Of a limit, below which an alarm ends: figures near it would begin and end one for ever.
CALM_SHARE = 0.8

# Devices that look at themselves at a time: each measures its link, which they may share.
MOST_ASKED = 20

# How often it is looked who is silent.
LOOK_S = 5.0

SOFTWARE_CHARACTERS = 64

NOTHING_ASKED = "its agent is older, and looks at nothing when it is asked; upgrade it"


@dataclass(frozen=True)
class FleetLimits:
    """From where on something is an event.

    figures: of a device. silent_s: seconds that a device may be away.
    """

    figures: WatchLimits = field(
        default_factory=lambda: WatchLimits(LEAST_REQUESTS, ERRORS, drift=DRIFT)
    )
    silent_s: float = 900.0


class FleetBoard:
    """See the module.

    A disk that fails is noted once, and written to again later: nothing here is a reason to end
    a fleet.
    """

    def __init__(
        self,
        store: DeviceStore,
        events: EventLog,
        limits: FleetLimits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take what was before. Nobody attends yet, and nobody was silent meanwhile.

        Raises RecordError for a file that cannot be used.
        """
        self.entries = store.entries()
        self._store = store
        self._events = events
        self._limits = limits
        self._clock = clock
        self._started_s = clock()
        self._look_due_s = float("-inf")
        # Reports of before, to tell what is new.
        self._reports: dict[int, InstalledReport] = {}
        # client → the question that it was sent on its connection; agents that answer none.
        self._asked: dict[int, int] = {}
        self._mute: set[int] = set()
        self._changed: set[int] = set()
        # Why the disk takes nothing now.
        self._trouble = ""
        for device, entry in self.entries.items():
            if entry.attending:
                self._keep(
                    device, replace(entry, attending=False, since_s=self._started_s)
                )

    # Events

    def attended(self, device: int, hello: pb.Hello) -> None:
        """Take a connection's hello."""
        entry = self._entry(device)
        software = shortened(hello.software, SOFTWARE_CHARACTERS)
        entry = replace(entry, attending=True, since_s=self._clock(), software=software)
        self._asked.pop(device, None)
        self._mute.discard(device)
        if not hello.diagnoses:
            self._mute.add(device)
        if "silent" in entry.alarms:
            self._events("back", device, text="it attends again")
            entry = _without(entry, "silent")
        self._keep(device, entry)

    def left(self, device: int) -> None:
        """Take the end of a device's connection."""
        entry = replace(self._entry(device), attending=False, since_s=self._clock())
        self._asked.pop(device, None)
        self._keep(device, entry)

    def reported(self, device: int, report: InstalledReport) -> None:
        """Take what a device has installed, and how that does."""
        before = self._reports.get(device)
        self._reports[device] = report
        self._tell_installed(device, before, report)
        entry = self._entry(device)
        served = entry.served + _answered(entry.figures, report.figures)
        entry = replace(entry, served=served, figures=report.figures)
        self._keep(device, self._with_alarms(device, entry))

    def diagnosed(self, device: int, message: pb.Diagnosis) -> bool:
        """Take an answer of a device; False: nobody asked, or a part of it is wrong."""
        if self._asked.get(device) != message.number:
            return False
        try:
            findings = findings_of(message)
            reason = reason_in(message)
        except WrongFrame:
            return False
        answer = DeviceDiagnosis(message.number, self._clock(), findings, reason)
        with self._noting():
            self._store.answer(device, answer)
        return True

    def questions(self) -> Iterator[tuple[int, int]]:
        """Yield (device, number) of each question that its device is to be sent now."""
        questions: dict[int, int] = {}
        with self._noting():
            questions = self._store.questions()
        waiting = sum(
            self._asked.get(device) == number for device, number in questions.items()
        )
        for device, number in questions.items():
            if not self._entry(device).attending or self._asked.get(device) == number:
                continue
            if waiting >= MOST_ASKED:
                return
            waiting += device not in self._mute
            self._asked[device] = number
            if device not in self._mute:
                yield device, number
                continue
            answer = DeviceDiagnosis(number, self._clock(), reason=NOTHING_ASKED)
            with self._noting():
                self._store.answer(device, answer)

    def tick(self, now: float) -> None:
        """See who is silent, and bring what changed to disk."""
        if self._look_due_s <= now:
            self._look_due_s = now + LOOK_S
            self._look_for_silent()
        self.flush()

    def flush(self) -> None:
        """Bring what changed to disk."""
        if not self._changed:
            return
        with self._noting():
            self._store.keep({device: self.entries[device] for device in self._changed})
            self._changed.clear()
            self._trouble = ""

    # What follows

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Note that the disk fails, once; what changed stays to be written."""
        try:
            yield
        except RecordError as error:
            if not self._trouble:
                self._events("note", text=str(error))
            self._trouble = str(error)

    def _entry(self, device: int) -> DeviceEntry:
        return self.entries.get(device, DeviceEntry())

    def _keep(self, device: int, entry: DeviceEntry) -> None:
        if self.entries.get(device) != entry:
            self.entries[device] = entry
            self._changed.add(device)

    def _look_for_silent(self) -> None:
        seconds = self._clock()
        for device, entry in list(self.entries.items()):
            if entry.attending or "silent" in entry.alarms:
                continue
            # While the coordinator was down nobody could be heard.
            away_s = seconds - max(entry.since_s, self._started_s)
            if away_s >= self._limits.silent_s:
                text = f"it is away for {away_s:.0f} s"
                self._events("silent", device, text=text)
                self._keep(device, _with(entry, "silent"))

    def _with_alarms(self, device: int, entry: DeviceEntry) -> DeviceEntry:
        """Return an entry whose alarms are those of its figures; each change is an event."""
        figures = entry.figures
        limits = self._limits.figures
        # A release that has just begun is judged once it has answered enough.
        if figures.requests < limits.requests:
            return entry
        for name in ("errors", "unsure", "drift"):
            value = getattr(figures, name)
            bound = getattr(limits, name)
            text = f"{name} {value:.3g}, the limit is {bound:g}"
            if value > bound and name not in entry.alarms:
                self._events(name, device, text=text, requests=figures.requests)
                entry = _with(entry, name)
            elif value <= CALM_SHARE * bound and name in entry.alarms:
                self._events(f"{name} ended", device, text=text)
                entry = _without(entry, name)
        return entry

    def _tell_installed(
        self, device: int, before: InstalledReport | None, report: InstalledReport
    ) -> None:
        """Note what a device runs now and did not before."""
        # The first report after a start is no news: its device says it at each connection.
        if before is None:
            return
        failure = report.failure
        if failure is not None and failure != before.failure:
            text = f"{failure.release}: {failure.reason}"
            self._events("not kept", device, text=text)
        if report.trial is not None and report.trial != before.trial:
            self._events("on trial", device, text=str(report.trial))
        if report.committed != before.committed:
            text = "no model" if report.committed is None else str(report.committed)
            self._events("committed", device, text=text)


def _answered(before: WatchFigures, figures: WatchFigures) -> int:
    """Return how many requests were answered between two reports."""
    # Fewer than before: another process or release began to count.
    if figures.requests < before.requests:
        return figures.requests
    return figures.requests - before.requests


def _with(entry: DeviceEntry, alarm: str) -> DeviceEntry:
    return replace(entry, alarms=(*entry.alarms, alarm))


def _without(entry: DeviceEntry, alarm: str) -> DeviceEntry:
    alarms = tuple(name for name in entry.alarms if name != alarm)
    return replace(entry, alarms=alarms)
