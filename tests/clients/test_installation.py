"""A device's installation: the table of stages is the machine's, and a trial ends as it should."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from fedlearn.clients import install_stages
from fedlearn.clients.install_actions import (
    DropWork,
    FetchRelease,
    InspectSlot,
    ServeSlot,
    StageRelease,
    TellInstalled,
    VerifyRelease,
    WriteRecord,
)
from fedlearn.clients.install_stages import InstallStage
from fedlearn.clients.installation import RETRY_S, TELL_S, Installation
from fedlearn.clients.installed import (
    InstallRecord,
    SlotContent,
    WatchTerms,
    record_at_boot,
)
from fedlearn.exchange.releases import (
    ReleaseId,
    WantedRelease,
    WatchFigures,
    WatchLimits,
)

ONE, TWO, THREE = (ReleaseId("model", n, f"{n:064x}") for n in (1, 2, 3))
TERMS = WatchTerms(60, 20, 2, WatchLimits(requests=10, errors=0.05))
GOOD, BAD = WatchFigures(100, 0.01), WatchFigures(100, 0.5)


def committed(*others):
    """Return the record of a device that serves ONE from slot a."""
    contents = {"a": SlotContent(ONE, True), **dict(others)}
    return InstallRecord("disk", active="a", contents=contents, floor=1)


class Device:
    """A machine whose disk takes every record, and what it was asked to do."""

    def __init__(self, record=None, intact: Any = "ab"):
        self.machine: Any = Installation(record or committed())
        self.actions: list[Any] = []
        if intact is not None:
            self.do(self.machine.booted(set(intact), 0.0))

    @property
    def stage(self) -> str:
        return self.machine.stage.name

    def do(self, actions):
        self.actions += actions

    def want(self, release=TWO, rollout=1, now=0.0):
        self.do(self.machine.want(WantedRelease(rollout, release), now))

    def good(self, release=TWO, now=0.0):
        stage = self.machine.stage
        if stage is InstallStage.TRYING:
            self.do(self.machine.tried(release, None, TERMS, now))
        else:
            self.do(self.machine.worked(stage, release, None, now))

    def wrong(self, release=TWO):
        if self.machine.stage is InstallStage.TRYING:
            self.do(self.machine.tried(release, "outputs differ", TERMS, 0.0))
        else:
            self.do(self.machine.worked(self.machine.stage, release, "damaged", 0.0))

    def written(self, now=0.0):
        self.do(self.machine.written(now))

    def serve(self, now=0.0):
        self.do(self.machine.serving(self.machine.record.active, now))

    def install(self, release=TWO, now=0.0):
        """Bring a release on trial, being served."""
        self.want(release, now=now)
        while self.machine.stage is not InstallStage.WATCHING:
            if self.actions and isinstance(self.actions[-2], WriteRecord):
                self.written(now)
            else:
                self.good(release, now)
        self.serve(now)

    def commit(self, release=TWO, now=0.0):
        self.install(release, now)
        self.do(self.machine.tick(now + 60))
        self.written(now + 60)

    def last(self, kind):
        return [action for action in self.actions if isinstance(action, kind)][-1]


# The table


def table():
    """Return (stage, event) → the next stage."""
    header, *rows = (install_stages.__doc__ or "").split("```")[1].strip().splitlines()
    events = header.split()
    stages = {}
    for row in rows:
        name, *cells = row.split()
        assert len(cells) == len(events)
        for event, cell in zip(events, cells, strict=True):
            stages[InstallStage[name], event] = InstallStage[
                name if cell == "." else cell
            ]
    return stages


def held(device):
    device.do(device.machine.consents("outside its hours", 0.0))
    device.good(target(device))


def consent(device):
    device.do(device.machine.consents("outside its hours", 0.0))
    device.do(device.machine.consents(None, 0.0))


def healthy(device):
    device.serve()
    device.do(device.machine.tick(60.0))


def unready(device):
    device.do(device.machine.tick(20.0))


TABLE = table()
EVENTS = {
    "want": [lambda device: device.want(THREE)],
    "good": [lambda device: device.good(target(device))],
    "held": [held],
    "consent": [consent],
    "wrong": [lambda device: device.wrong(target(device))],
    "written": [lambda device: device.written()],
    "full": [lambda device: device.do(device.machine.unwritten("full", 0.0))],
    "healthy": [healthy],
    "unwell": [lambda d: d.do(d.machine.observed(BAD, 0.0)), unready],
    "ended": [lambda device: device.do(device.machine.ended("signal 11", 0.0))],
}


def target(device):
    return ONE if device.machine.stage is InstallStage.INSPECTING else TWO


def device_in(stage):
    """Return a device in a stage; its free slot holds something."""
    device = Device(committed(("b", SlotContent(THREE))))
    steps = {
        InstallStage.IDLE: [],
        InstallStage.FETCHING: ["want"],
        InstallStage.VERIFYING: ["want", "good"],
        InstallStage.CLEARING: ["want", "good", "good"],
        InstallStage.STAGING: ["want", "good", "good", "written"],
        InstallStage.TRYING: ["want", "good", "good", "written", "good"],
        InstallStage.TRIED: ["want", "good", "good", "written", "good", "held"],
        InstallStage.SWITCHING: ["want", "good", "good", "written", "good", "good"],
        InstallStage.WATCHING: ["install"],
        InstallStage.STARTING: ["install", "ended"],
        InstallStage.ENDING: ["install", "unwell"],
        InstallStage.STOPPING: ["install", "stop"],
    }
    if stage is InstallStage.BOOTING:
        return Device(committed(("b", SlotContent(THREE))), intact=None)
    if stage is InstallStage.INSPECTING:
        record = committed(("b", SlotContent(TWO, True)))
        device = Device(replace(record, active="b"))
        device.want(ONE)
    for step in steps.get(stage, []):
        if step == "want":
            device.want()
        elif step == "install":
            # Of a trial that is not served yet: every event is possible.
            device = Device()
            device.install()
            device.machine._since_s = None
        elif step == "stop":
            device.do(device.machine.stopping(0.0))
        else:
            EVENTS[step][0](device)
    assert device.machine.stage is stage
    return device


def test_what_is_wanted_before_the_slots_were_looked_at_waits():
    trial = Device()
    trial.install(TWO)
    # The agent is killed in the trial, and hears of the next release at once when it is back.
    device = Device(trial.machine.record, intact=None)
    device.do(device.machine.connected(0.0))
    device.want(THREE, rollout=2)
    assert not [action for action in device.actions if isinstance(action, FetchRelease)]
    device.do(device.machine.booted({"a", "b"}, 1.0))
    device.written(1.0)
    device.written(1.0)
    # It has returned to what it had, and only then fetches.
    assert device.machine.record.committed == ONE
    assert device.machine.record.active == "a"
    assert device.machine.stage is InstallStage.FETCHING
    # Without a trial there is nothing to wait for.
    device = Device(intact=None)
    device.want(TWO)
    device.do(device.machine.booted({"a"}, 1.0))
    assert device.machine.stage is InstallStage.FETCHING


def test_the_table_names_every_stage_and_event():
    assert set(TABLE) == set(itertools.product(InstallStage, EVENTS))


@pytest.mark.parametrize(
    ("stage", "event"),
    [pytest.param(*pair, id=f"{pair[0].name}-{pair[1]}") for pair in TABLE],
)
def test_the_machine_does_what_the_table_says(stage, event):
    expected = TABLE[stage, event]
    for happen in EVENTS[event]:
        device = device_in(stage)
        happen(device)
        assert device.machine.stage is expected


# A release on its way


def test_a_release_comes_on_trial_and_is_committed_by_one_record_each():
    device = Device()
    device.install()
    record = device.machine.record
    assert (record.active, record.serving, record.committed) == ("b", TWO, ONE)
    assert record.trial is not None and record.trial.back == "a"
    device.do(device.machine.observed(GOOD, 30.0))
    device.do(device.machine.tick(59.9))
    assert device.stage == "WATCHING"
    device.do(device.machine.tick(60.0))
    device.written()
    record = device.machine.record
    assert (record.committed, record.trial, record.figures) == (TWO, None, GOOD)
    assert record.contents["a"].release == ONE and record.contents["b"].is_proven
    report = device.last(TellInstalled).report
    assert (report.committed, report.trial, report.stage) == (TWO, None, "idle")


def test_the_same_wish_again_does_nothing():
    device = Device()
    device.want()
    count = len(device.actions)
    device.want()
    assert len(device.actions) == count
    device.commit()
    count = len(device.actions)
    device.want()
    assert len(device.actions) == count


def test_another_wish_drops_the_work_and_late_ends_change_nothing():
    device = Device()
    device.want(TWO)
    device.want(THREE, rollout=2)
    assert device.actions[-3:-1] == [DropWork(TWO), FetchRelease(THREE)]
    device.do(device.machine.worked(InstallStage.FETCHING, TWO, None, 0.0))
    assert device.stage == "FETCHING"


def test_a_failed_release_is_tried_again_for_another_rollout_alone():
    device = Device()
    device.want()
    device.wrong()
    device.written()
    failure = device.machine.record.failure
    assert failure is not None and (failure.release, failure.reason) == (TWO, "damaged")
    device.want()
    assert device.stage == "IDLE"
    device.want(rollout=2)
    assert device.stage == "FETCHING"


def test_bad_figures_return_to_the_old_slot_before_the_record_is_written():
    device = Device()
    device.install()
    device.do(device.machine.observed(BAD, 10.0))
    serve, write = device.actions[-3:-1]
    assert serve == ServeSlot("a", ONE)
    assert write.record.failure.reason == "50.0% of requests fail, more than 5.0%"
    device.written()
    assert device.machine.record.serving == ONE


def test_few_requests_prove_nothing():
    device = Device()
    device.install()
    device.do(device.machine.observed(WatchFigures(9, 1.0), 10.0))
    assert device.stage == "WATCHING"


# Starts and stops


def test_a_trial_ends_when_its_starts_are_spent():
    record = Device()
    record.install()
    disk: Any = record.machine.record
    for starts in (1, 0):
        disk = record_at_boot(disk, {"a", "b"})
        assert disk.trial is not None and disk.trial.starts == starts
    disk = record_at_boot(disk, {"a", "b"})
    assert (disk.trial, disk.serving) == (None, ONE)
    assert disk.failure.reason == "it ended 3 times within its watch"


def test_a_release_that_crashes_late_is_not_committed_in_pieces():
    device = Device()
    device.install()
    for _ in range(2):
        device.do(device.machine.tick(50.0))
        device.do(device.machine.ended("signal 11", 50.0))
        device.written()
        device.serve(0.0)
        device.do(device.machine.tick(50.0))
        assert device.stage == "WATCHING"
    device.do(device.machine.ended("signal 11", 50.0))
    device.written()
    reason = device.machine.record.failure.reason
    assert reason == "it ended 3 times within its watch: signal 11"


def test_an_orderly_stop_costs_no_start_and_no_time():
    device = Device()
    device.install()
    device.do(device.machine.stopping(45.0))
    again = Device(device.last(WriteRecord).record)
    again.written()
    again.serve(0.0)
    assert again.machine.record.trial.starts == 2
    again.do(again.machine.tick(15.0))
    assert again.stage == "ENDING"


def test_a_start_that_cannot_be_counted_serves_what_was_committed():
    device = Device()
    device.install()
    again = Device(device.machine.record)
    again.do(again.machine.unwritten("no space left on device", 0.0))
    assert again.last(ServeSlot) == ServeSlot("a", ONE)
    assert "no space left" in again.last(TellInstalled).report.waiting
    again.do(again.machine.tick(RETRY_S))
    again.written(RETRY_S)
    assert again.last(ServeSlot) == ServeSlot("b", TWO)


def test_a_full_disk_and_a_damaged_slot_at_once_serve_no_damaged_byte():
    device = Device()
    device.install()
    again = Device(device.machine.record, intact="b")
    again.do(again.machine.unwritten("no space left on device", 0.0))
    assert again.last(ServeSlot) == ServeSlot(None, None)


def test_what_a_full_disk_refused_is_never_written_later_out_of_turn():
    device = Device()
    device.want()
    for _ in range(3):
        device.good()
    device.good()
    assert device.stage == "SWITCHING"
    device.do(device.machine.unwritten("no space left on device", 0.0))
    device.do(device.machine.tick(RETRY_S))
    assert device.stage == "FETCHING"
    count = len(device.actions)
    device.do(device.machine.tick(RETRY_S + 1))
    assert not any(isinstance(a, WriteRecord) for a in device.actions[count:])


@pytest.mark.parametrize(
    ("intact", "serving"), [("ab", TWO), ("a", ONE), ("b", TWO), ("", None)]
)
def test_damaged_slots_leave_what_is_whole(intact, serving):
    device = Device()
    device.commit()
    record = record_at_boot(device.machine.record, set(intact))
    assert record.serving == serving and set(record.contents) == set(intact)


def test_a_damaged_trial_returns_and_a_device_without_any_model_fetches():
    device = Device()
    device.install()
    record = record_at_boot(device.machine.record, {"a"})
    failure = record.failure
    assert record.serving == ONE and failure and "damaged" in failure.reason
    empty = Device(device.machine.record, intact="")
    empty.written()
    empty.want(ONE, rollout=2)
    assert empty.last(FetchRelease) == FetchRelease(ONE)


# The owner, the floor, a recall


def test_without_consent_nothing_is_fetched_and_the_reason_is_told():
    device = Device()
    device.do(device.machine.consents("outside its hours", 0.0))
    device.want()
    assert device.last(TellInstalled).report.waiting == "outside its hours"
    assert not [a for a in device.actions if isinstance(a, FetchRelease)]
    device.do(device.machine.consents(None, 0.0))
    assert device.stage == "FETCHING"


def test_a_recall_needs_no_byte_of_the_network_and_no_consent():
    device = Device()
    device.commit()
    device.do(device.machine.consents("outside its hours", 0.0))
    device.want(ONE, rollout=1)
    assert device.last(InspectSlot) == InspectSlot(ONE, "a")
    device.good(ONE)
    device.written()
    assert device.last(ServeSlot) == ServeSlot("a", ONE)
    assert device.machine.record.floor == 1


def test_below_the_floor_no_slot_is_returned_to_and_the_check_is_told_the_floor():
    device = Device()
    device.commit(TWO)
    device.commit(THREE, now=100.0)
    assert device.machine.record.floor == 2
    device.want(ONE, rollout=9)
    device.good(ONE)
    assert device.last(VerifyRelease) == VerifyRelease(ONE, 2)
    # A manifest that takes back what is up to 2 raises the floor, once it is committed.
    record = committed(("b", SlotContent(TWO))).on_trial(
        TWO, 1, replace(TERMS, floor=5)
    )
    assert record.committing(GOOD).floor == 5
    proven = replace(committed(("b", SlotContent(THREE, True))), floor=4)
    assert not proven.may_return_to("b", THREE)


def test_a_first_release_returns_to_no_model():
    device = Device(InstallRecord("disk"))
    device.install()
    device.want(None, rollout=1)
    device.written()
    assert device.last(ServeSlot) == ServeSlot(None, None)
    device.commit(THREE, now=100.0)
    device.want(None, rollout=2)
    device.written()
    record = device.machine.record
    assert record.serving is None and record.contents
    # It stays so: what was recalled does not come back with the next start.
    assert record_at_boot(record, {"a", "b"}) == record


def test_a_slot_is_forgotten_before_a_byte_of_it_changes():
    device = Device(committed(("b", SlotContent(THREE))))
    device.want()
    device.good()
    device.good()
    assert "b" not in device.last(WriteRecord).record.contents
    assert not [a for a in device.actions if isinstance(a, StageRelease)]
    device.written()
    assert device.last(StageRelease) == StageRelease(TWO, "b")


def test_reports_come_with_news_and_once_a_while_without():
    device = Device()
    count = len(device.actions)
    device.do(device.machine.tick(TELL_S - 1))
    assert len(device.actions) == count
    device.do(device.machine.tick(TELL_S))
    assert isinstance(device.actions[-1], TellInstalled)
    assert device.machine.next_alarm(TELL_S) == 2 * TELL_S
