"""What a device's disk says of its two slots: one record, whose replacement is the only commit.

Pure values. Each method returns the record that follows; `fedlearn.clients.device.slots` brings
one to disk. Two slots, one of which is untouched until the other has proved itself, are the
scheme of RAUC, SWUpdate and Mender; what is new is that a trial is part of the record.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from fedlearn.exchange.releases import (
    InstallFailure,
    ReleaseId,
    WatchFigures,
    WatchLimits,
)

Slot = Literal["a", "b"]

SLOTS: tuple[Slot, Slot] = ("a", "b")


@dataclass(frozen=True)
class WatchTerms:
    """What a release has to do before it is committed; its manifest says so.

    watch_s: seconds for which it serves without an objection, in one piece but for orderly
    stops. ready_s: seconds in which it begins to serve. starts: how often it may be started
    again, because the board or the serving process ended. limits: of its figures meanwhile.
    floor: the device's least counter once it is committed, where the manifest takes back others.
    """

    watch_s: float = 600.0
    ready_s: float = 60.0
    starts: int = 3
    limits: WatchLimits = field(default_factory=WatchLimits)
    floor: int = 0


@dataclass(frozen=True)
class OnTrial:
    """The active slot is on trial.

    back: the slot to return to, None: there was no model. starts: how many are left. spent_s:
    of the watch, before the last orderly stop. is_orderly: the agent stopped on purpose, so the
    next start costs none.
    """

    rollout: int
    back: Slot | None
    terms: WatchTerms
    starts: int
    spent_s: float = 0.0
    is_orderly: bool = False

    @property
    def spent_starts(self) -> str:
        """Return why a trial without a start left has failed."""
        return f"it ended {self.terms.starts + 1} times within its watch"


@dataclass(frozen=True)
class SlotContent:
    """Verified bytes in a slot; is_proven: they were committed here once."""

    release: ReleaseId
    is_proven: bool = False


@dataclass(frozen=True)
class InstallRecord:
    """See the module; `InstalledReport` has the fields that are not explained here.

    active: the slot that serves, None: no model. contents: what each slot holds whole; a slot
    without an entry holds anything. floor: a release with a lower counter is refused.
    """

    instance: str
    sequence: int = 0
    active: Slot | None = None
    contents: Mapping[Slot, SlotContent] = field(default_factory=dict)
    trial: OnTrial | None = None
    floor: int = 0
    failure: InstallFailure | None = None
    figures: WatchFigures = field(default_factory=WatchFigures)

    # What it says

    @property
    def free(self) -> Slot:
        """Return the slot that the next release goes to."""
        return "b" if self.active == "a" else "a"

    @property
    def serving(self) -> ReleaseId | None:
        """Return what the active slot holds."""
        return self.release_in(self.active)

    @property
    def committed_slot(self) -> Slot | None:
        """Return the slot that a device returns to."""
        return self.active if self.trial is None else self.trial.back

    @property
    def committed(self) -> ReleaseId | None:
        """Return the release that a device returns to."""
        return self.release_in(self.committed_slot)

    def release_in(self, slot: Slot | None) -> ReleaseId | None:
        """Return what a slot holds whole."""
        if slot is None or slot not in self.contents:
            return None
        return self.contents[slot].release

    def shadow_of(self, slot: Slot | None) -> Slot | None:
        """Return the slot whose release a trial is compared with; None: no trial serves."""
        trial = self.trial
        if trial is None or slot is None or slot != self.active:
            return None
        return trial.back if trial.back in self.contents else None

    def has_failed(self, rollout: int, release: ReleaseId) -> bool:
        """Tell whether a release that a rollout wants has failed here."""
        failure = self.failure
        if failure is None:
            return False
        return (failure.rollout, failure.release) == (rollout, release)

    def may_return_to(self, slot: Slot, release: ReleaseId) -> bool:
        """Tell whether a slot holds a release that was committed here, and still may be."""
        content = self.contents.get(slot)
        if content is None or content.release != release:
            return False
        return content.is_proven and release.counter >= self.floor

    # What follows

    def without(self, slot: Slot) -> InstallRecord:
        """Return the record before a slot is written to: it holds nothing for certain."""
        contents = {name: self.contents[name] for name in self.contents if name != slot}
        active = None if self.active == slot else self.active
        return self._next(contents=contents, active=active)

    def on_trial(
        self, release: ReleaseId, rollout: int, terms: WatchTerms
    ) -> InstallRecord:
        """Return the record that makes the free slot, whole by now, the active one."""
        trial = OnTrial(rollout, self.active, terms, terms.starts)
        contents = {**self.contents, self.free: SlotContent(release)}
        return self._next(
            active=self.free, contents=contents, trial=trial, figures=WatchFigures()
        )

    def started_again(self) -> InstallRecord:
        """Return the record before a release on trial starts once more."""
        trial = self._trial()
        if trial.is_orderly:
            return self._next(trial=replace(trial, is_orderly=False))
        # From the start: else a release that crashes late would be committed in pieces.
        return self._next(trial=replace(trial, starts=trial.starts - 1, spent_s=0.0))

    def stopped(self, spent_s: float) -> InstallRecord:
        """Return the record of an agent that stops on purpose in a trial."""
        trial = replace(self._trial(), spent_s=spent_s, is_orderly=True)
        return self._next(trial=trial)

    def committing(self, figures: WatchFigures) -> InstallRecord:
        """Return the record that ends a trial well.

        The floor rises to what is given up, never above it: one step back stays open, so a
        fleet can recall a release that every board has committed.
        """
        back = self.release_in(self._trial().back)
        release = self.serving
        floor = max(self.floor, self._trial().terms.floor)
        if back is not None and release is not None:
            floor = max(floor, min(back.counter, release.counter))
        return self._proven(floor, figures)

    def back_to_proven(self, slot: Slot) -> InstallRecord:
        """Return the record that makes a slot active whose release was committed before."""
        return self._next(active=slot, trial=None, figures=WatchFigures())

    def failing(self, rollout: int, release: ReleaseId, reason: str) -> InstallRecord:
        """Return the record of a release that is not kept; a trial of it ends."""
        failure = InstallFailure(rollout, release, reason)
        return replace(self.withdrawn(), failure=failure)

    def trial_failing(self, reason: str) -> InstallRecord:
        """Return the record of a trial that ends badly."""
        release = self.serving
        # A slot that holds nothing has no name: nothing could be tried again.
        if release is None:
            return self.withdrawn()
        return self.failing(self._trial().rollout, release, reason)

    def withdrawn(self) -> InstallRecord:
        """Return the record without a trial: what was committed before is active."""
        slot = self.committed_slot
        # Damaged meanwhile, it is no model to return to.
        active = slot if slot in self.contents else None
        return self._next(active=active, trial=None)

    def emptied(self) -> InstallRecord:
        """Return the record of a device that serves no model."""
        return self._next(active=None, trial=None)

    def _proven(self, floor: int, figures: WatchFigures) -> InstallRecord:
        contents = dict(self.contents)
        if self.active is not None:
            contents[self.active] = replace(contents[self.active], is_proven=True)
        return self._next(contents=contents, trial=None, floor=floor, figures=figures)

    def _trial(self) -> OnTrial:
        assert self.trial is not None
        return self.trial

    def _next(self, **changes: object) -> InstallRecord:
        # mypy: the names are those of the fields, above.
        return replace(self, sequence=self.sequence + 1, **changes)  # type: ignore[arg-type]


def record_at_boot(record: InstallRecord, intact: Collection[Slot]) -> InstallRecord:
    """Return the record with which an agent starts; the same one where all is well.

    intact: the slots whose bytes are what the record says. A trial costs a start, or ends.
    """
    trial = record.trial
    if trial is not None:
        if record.active not in intact:
            record = record.trial_failing("its bytes on this disk are damaged")
        elif not trial.starts and not trial.is_orderly:
            record = record.trial_failing(trial.spent_starts)
        else:
            record = record.started_again()
    return _without_damaged(record, intact)


def _without_damaged(record: InstallRecord, intact: Collection[Slot]) -> InstallRecord:
    """Return a record that names no damaged slot; the other one serves where it may."""
    home = record.committed_slot
    damaged = [slot for slot in record.contents if slot not in intact]
    for slot in damaged:
        record = record.without(slot)
    # A device that was emptied on purpose stays so.
    if home not in damaged or record.active is not None:
        return record
    for slot, content in record.contents.items():
        if record.may_return_to(slot, content.release):
            return record.back_to_proven(slot)
    return record
