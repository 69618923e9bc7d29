"""A device's end of a rollout as a pure state machine: events in, actions out.

Its other end is `fedlearn.server.rollout`; `fedlearn.clients.install_stages` has the table of
its stages. No network, clock, disk or process is here: the agent reports events and performs
the actions, in order. Times are seconds of a clock that counts while the board runs and may
begin anew with it.

The coordinator says what is to be installed, as often as it likes. All else is the device's
own: it commits or returns to what it had without a word from outside.

A release that was committed here before, and lies whole in the other slot, is not fetched: a
recall costs one inspection.
"""

from __future__ import annotations

from collections.abc import Collection

from fedlearn.clients.install_actions import (
    DropWork,
    FetchRelease,
    InspectSlot,
    InstallAction,
    ServeSlot,
    StageRelease,
    TellInstalled,
    TryRelease,
    VerifyRelease,
    WriteRecord,
)
from fedlearn.clients.install_stages import INSTALLING, WORKING, InstallStage
from fedlearn.clients.installed import InstallRecord, Slot, WatchTerms, record_at_boot
from fedlearn.exchange.releases import (
    InstalledReport,
    ReleaseId,
    WantedRelease,
    WatchFigures,
)

# Seconds between two reports without news, which carry figures.
TELL_S = 60.0

# Seconds after which a record is written once more that a full disk refused.
RETRY_S = 60.0

# Stages that `worked` ends.
_WORKED = WORKING - {InstallStage.TRYING, InstallStage.TRIED}


class Installation:
    """See the module. Every method for an event returns the actions that follow from it."""

    def __init__(self, record: InstallRecord) -> None:
        """Take what the disk says; nothing is done before `booted`.

        An agent attends while it still hashes its slots. What is wanted meanwhile is kept.
        """
        # As it is on disk, or was before a write that is under way.
        self.record = record
        self.stage = InstallStage.BOOTING
        # Why the owner does not let anything be fetched or switched now.
        self.objection: str | None = None
        self.figures = record.figures
        self._wanted: WantedRelease | None = None
        # What is being installed, and for which rollout.
        self._target: ReleaseId | None = None
        self._rollout = 0
        self._terms = WatchTerms()
        # The record that is on its way to disk.
        self._coming = record
        # That record was refused by the disk, and is to be tried again.
        self._is_unwritten = False
        self._waiting = ""
        # When a trial began to serve, and when it has to.
        self._since_s: float | None = None
        self._ready_by_s = 0.0
        self._again_s = 0.0
        self._told_s = 0.0
        self._told: InstalledReport | None = None

    @property
    def report(self) -> InstalledReport:
        """Return what the coordinator is told: what the disk says, never what will be."""
        record = self.record
        return InstalledReport(
            record.instance,
            record.sequence,
            record.committed,
            None if record.trial is None else record.serving,
            record.failure,
            self._target if self.stage in INSTALLING else None,
            self.stage.name.lower(),
            self._waiting,
            self.figures,
        )

    # The board and its owner

    def booted(self, intact: Collection[Slot], now: float) -> list[InstallAction]:
        """Take the start of the agent; intact: slots whose bytes are what the record says."""
        record = record_at_boot(self.record, intact)
        # Nothing to write: the common start.
        if record == self.record:
            self.stage = InstallStage.IDLE
            return self._end_event([self._serve(), *self._pursue(now)], now)
        stage = InstallStage.ENDING
        if record.trial is not None:
            stage = InstallStage.STARTING
        return self._end_event(self._write(record, stage), now)

    def consents(self, objection: str | None, now: float) -> list[InstallAction]:
        """Take whether the owner lets a release be fetched and switched to now.

        objection: why not, such as the hours of `agent.ini`. None: they do.
        """
        self.objection = objection
        actions: list[InstallAction] = []
        if objection is None and self.stage is InstallStage.TRIED:
            actions = self._switch()
        elif self.stage is InstallStage.IDLE:
            actions = self._pursue(now)
        return self._end_event(actions, now)

    def stopping(self, now: float) -> list[InstallAction]:
        """Take that the agent stops on purpose; a trial goes on from here."""
        if self.stage is not InstallStage.WATCHING:
            return []
        return self._write(
            self.record.stopped(self._spent_s(now)), InstallStage.STOPPING
        )

    # The coordinator

    def connected(self, now: float) -> list[InstallAction]:
        """Take a new connection: the coordinator is told all there is."""
        self._told = None
        return self._end_event([], now)

    def want(self, wanted: WantedRelease, now: float) -> list[InstallAction]:
        """Take what is to be installed; the same again changes nothing."""
        self._wanted = wanted
        return self._end_event(self._pursue(now), now)

    # The work on a release

    def worked(
        self, stage: InstallStage, release: ReleaseId, objection: str | None, now: float
    ) -> list[InstallAction]:
        """Take the end of a stage's work; objection: why the release is not for this device.

        The work of TRYING ends with `tried`. Work that was dropped meanwhile changes nothing.
        """
        if stage not in _WORKED or not self._is_at(stage, release):
            return []
        if objection is not None and stage is not InstallStage.INSPECTING:
            return self._failed(objection, now)
        actions: list[InstallAction] = []
        match stage:
            case InstallStage.FETCHING:
                self.stage = InstallStage.VERIFYING
                actions = [VerifyRelease(release, self.record.floor)]
            case InstallStage.VERIFYING:
                actions = self._clear()
            case InstallStage.STAGING:
                self.stage = InstallStage.TRYING
                actions = [TryRelease(release, self.record.free)]
            case InstallStage.INSPECTING:
                actions = self._return_to_proven(release, objection)
        return self._end_event(actions, now)

    def tried(
        self,
        release: ReleaseId,
        objection: str | None,
        terms: WatchTerms,
        now: float,
    ) -> list[InstallAction]:
        """Take what the golden inputs gave on this board; terms: as the manifest says."""
        if not self._is_at(InstallStage.TRYING, release):
            return []
        if objection is not None:
            return self._failed(objection, now)
        self._terms = terms
        self.stage = InstallStage.TRIED
        if self.objection is None:
            return self._end_event(self._switch(), now)
        self._waiting = self.objection
        return self._end_event([], now)

    # The record

    def written(self, now: float) -> list[InstallAction]:
        """Take that the record of the last `WriteRecord` is on disk."""
        self.record = self._coming
        self._waiting = ""
        actions: list[InstallAction] = []
        match self.stage:
            case InstallStage.CLEARING:
                actions = self._stage()
            case InstallStage.SWITCHING | InstallStage.STARTING:
                actions = self._watch(now)
            case InstallStage.ENDING:
                self.stage = InstallStage.IDLE
                self.figures = self.record.figures
                actions = [self._serve()]
        return self._end_event([*actions, *self._pursue(now)], now)

    def unwritten(self, reason: str, now: float) -> list[InstallAction]:
        """Take that the record could not be written; the one before is still there."""
        self._waiting = f"its record cannot be written: {reason}"
        self._again_s = now + RETRY_S
        actions: list[InstallAction] = []
        match self.stage:
            case InstallStage.CLEARING | InstallStage.SWITCHING:
                self.stage = InstallStage.IDLE
            # A start that is not counted is none: what was committed serves meanwhile.
            case InstallStage.STARTING | InstallStage.ENDING:
                self._is_unwritten = True
                actions = [self._serve()]
        return self._end_event(actions, now)

    # The serving process

    def serving(self, slot: Slot, now: float) -> list[InstallAction]:
        """Take that a slot is served: of a trial, the watch begins."""
        is_trial = self.stage is InstallStage.WATCHING and slot == self.record.active
        if is_trial and self._since_s is None:
            self._since_s = now
        return self._end_event([], now)

    def observed(self, figures: WatchFigures, now: float) -> list[InstallAction]:
        """Take how the active slot does since it serves."""
        self.figures = figures
        trial = self.record.trial
        if self.stage is InstallStage.WATCHING and trial is not None:
            objection = trial.terms.limits.objection(figures)
            if objection is not None:
                return self._returned(objection, now)
        # Without a report: figures change with every request.
        return []

    def ended(self, reason: str, now: float) -> list[InstallAction]:
        """Take that the serving process ended by itself."""
        trial = self.record.trial
        if self.stage is not InstallStage.WATCHING or trial is None:
            return self._end_event([self._serve()], now)
        if not trial.starts:
            return self._returned(f"{trial.spent_starts}: {reason}", now)
        record = self.record.started_again()
        return self._end_event(self._write(record, InstallStage.STARTING), now)

    # Time

    def tick(self, now: float) -> list[InstallAction]:
        """End a watch that is over, try again what failed, and tell figures."""
        if self._told_s + TELL_S <= now:
            self._told = None
        if self.stage is InstallStage.WATCHING:
            return self._judge(now)
        if self._again_s > now:
            return self._end_event([], now)
        # The same record once more: the disk may have room by now.
        if self._is_unwritten:
            return self._end_event(self._write(self._coming, self.stage), now)
        return self._end_event(self._pursue(now), now)

    def next_alarm(self, now: float) -> float:
        """Return when `tick` is due."""
        due = self._told_s + TELL_S
        trial = self.record.trial
        if self.stage is InstallStage.WATCHING and trial is not None:
            if self._since_s is None:
                return min(due, self._ready_by_s)
            return min(due, self._since_s + trial.terms.watch_s - trial.spent_s)
        if self._again_s > now:
            due = min(due, self._again_s)
        return due

    def _judge(self, now: float) -> list[InstallAction]:
        """Commit a trial whose watch is over, or end one that never began to serve."""
        trial = self.record.trial
        assert trial is not None
        if self._since_s is None and now >= self._ready_by_s:
            reason = f"it did not begin to serve within {trial.terms.ready_s:g} s"
            return self._returned(reason, now)
        if self._since_s is None or self._spent_s(now) < trial.terms.watch_s:
            return self._end_event([], now)
        record = self.record.committing(self.figures)
        return self._end_event(self._write(record, InstallStage.ENDING), now)

    def _spent_s(self, now: float) -> float:
        """Return the seconds for which a trial has served."""
        trial = self.record.trial
        if trial is None or self._since_s is None:
            return 0.0
        return trial.spent_s + now - self._since_s

    # Towards what is wanted

    def _pursue(self, now: float) -> list[InstallAction]:
        """Begin, or give up, what stands between the record and what is wanted."""
        wish = self._wanted
        if wish is None:
            return []
        if self.stage is InstallStage.WATCHING:
            if wish.release == self.record.serving:
                return []
            return self._roll_back(self.record.withdrawn())
        if self.stage in WORKING:
            if wish.release == self._target:
                self._rollout = wish.rollout
                return []
            return [*self._drop(), *self._begin(wish, now)]
        # Of what is being written, the next event decides.
        return self._begin(wish, now) if self.stage is InstallStage.IDLE else []

    def _begin(self, wanted: WantedRelease, now: float) -> list[InstallAction]:
        """Begin to install what is wanted, unless something speaks against it."""
        record = self.record
        release = wanted.release
        if self._again_s > now:
            return []
        self._waiting = ""
        if release == record.committed:
            return []
        if release is None:
            return self._write(record.emptied(), InstallStage.ENDING)
        if record.has_failed(wanted.rollout, release):
            return []
        self._target = release
        self._rollout = wanted.rollout
        # A recall: the owner was asked when it came, and no byte travels.
        if record.may_return_to(record.free, release):
            self.stage = InstallStage.INSPECTING
            return [InspectSlot(release, record.free)]
        if self.objection is not None:
            self._waiting = self.objection
            return []
        self.stage = InstallStage.FETCHING
        return [FetchRelease(release)]

    def _drop(self) -> list[InstallAction]:
        self.stage = InstallStage.IDLE
        return [] if self._target is None else [DropWork(self._target)]

    def _is_at(self, stage: InstallStage, release: ReleaseId) -> bool:
        return self.stage is stage and self._target == release

    # Steps

    def _clear(self) -> list[InstallAction]:
        slot = self.record.free
        if slot not in self.record.contents:
            return self._stage()
        # Before a byte of it changes: the record must never name a slot half written.
        return self._write(self.record.without(slot), InstallStage.CLEARING)

    def _stage(self) -> list[InstallAction]:
        assert self._target is not None
        self.stage = InstallStage.STAGING
        return [StageRelease(self._target, self.record.free)]

    def _switch(self) -> list[InstallAction]:
        assert self._target is not None
        record = self.record.on_trial(self._target, self._rollout, self._terms)
        return self._write(record, InstallStage.SWITCHING)

    def _return_to_proven(
        self, release: ReleaseId, objection: str | None
    ) -> list[InstallAction]:
        if objection is None:
            record = self.record.back_to_proven(self.record.free)
            return self._write(record, InstallStage.ENDING)
        # The slot is damaged: its release comes once more.
        self.stage = InstallStage.FETCHING
        return [FetchRelease(release)]

    def _watch(self, now: float) -> list[InstallAction]:
        """Serve what is on trial; the watch begins when it does."""
        trial = self.record.trial
        assert trial is not None
        self.stage = InstallStage.WATCHING
        self.figures = WatchFigures()
        self._since_s = None
        self._ready_by_s = now + trial.terms.ready_s
        return [self._serve()]

    def _failed(self, reason: str, now: float) -> list[InstallAction]:
        """End the work on a release that is not for this device."""
        write = self._write(self._failing(reason), InstallStage.ENDING)
        return self._end_event(write, now)

    def _returned(self, reason: str, now: float) -> list[InstallAction]:
        """End a trial by returning to what was committed."""
        return self._end_event(self._roll_back(self._failing(reason)), now)

    def _roll_back(self, record: InstallRecord) -> list[InstallAction]:
        write = self._write(record, InstallStage.ENDING)
        # Served before it is written: a bad release answers no request more than it must.
        return [self._serve(), *write]

    def _failing(self, reason: str) -> InstallRecord:
        """Return the record of a failure: of the trial, or else of the target."""
        if self.record.trial is not None:
            return self.record.trial_failing(reason)
        assert self._target is not None
        return self.record.failing(self._rollout, self._target, reason)

    def _write(self, record: InstallRecord, stage: InstallStage) -> list[InstallAction]:
        self._coming = record
        self._is_unwritten = False
        self.stage = stage
        return [WriteRecord(record)]

    def _serve(self) -> ServeSlot:
        """Serve what the stage allows; it may be served already."""
        record = self.record
        if self.stage in (InstallStage.STARTING, InstallStage.ENDING):
            # It names no damaged slot, as the one on disk may.
            record = self._coming
        slot = record.active
        if self.stage is InstallStage.STARTING:
            slot = record.committed_slot
        release = record.release_in(slot)
        return ServeSlot(None if release is None else slot, release)

    def _end_event(
        self, actions: list[InstallAction], now: float
    ) -> list[InstallAction]:
        """Add a report where there is news."""
        report = self.report
        if report != self._told:
            self._told = report
            self._told_s = now
            return [*actions, TellInstalled(report)]
        return actions
