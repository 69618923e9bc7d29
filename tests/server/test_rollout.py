"""The coordinator's rollout: the table of phases is the machine's, and waves open in order."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from fedlearn.errors import UserError
from fedlearn.exchange.releases import (
    InstalledReport,
    InstallFailure,
    ReleaseId,
    WantedRelease,
    WatchFigures,
    WatchLimits,
)
from fedlearn.server import rollout_plan
from fedlearn.server.rollout import (
    RESEND_S,
    KeepProgress,
    KeepReport,
    Rollout,
    RolloutNote,
    SendWanted,
)
from fedlearn.server.rollout_plan import (
    RolloutPhase,
    RolloutPlan,
    RolloutProgress,
    along_chain,
    by_shares,
    together,
)

ONE, TWO = (ReleaseId("model", n, f"{n:064x}") for n in (1, 2))
WAVES = ((0,), (1, 2, 3, 4), (5, 6, 7, 8, 9))
PLAN = RolloutPlan(7, TWO, ONE, WAVES, 0.25, 900.0, WatchLimits(10, errors=0.02))


def report(device, sequence=1, **changes):
    first = InstalledReport(f"disk {device}", sequence, ONE)
    return replace(first, **changes)


class Coordinator:
    """A machine to which every device is connected."""

    def __init__(self, plan=PLAN, progress=None, reports=None):
        progress = progress or RolloutProgress()
        self.machine: Any = Rollout(plan, progress, reports or {}, 0.0)
        self.actions: list[Any] = []
        for device in range(10):
            self.actions += self.machine.connected(device, 0.0)

    @property
    def progress(self):
        return self.machine.progress

    @property
    def phase(self) -> str:
        return self.machine.progress.phase.name

    def hear(self, device, now=0.0, **changes):
        self.actions += self.machine.heard(device, report(device, **changes), now)

    def commit(self, *devices, now=0.0):
        for device in devices:
            self.hear(device, now, sequence=2, committed=TWO)

    def fail(self, *devices, reason="outputs differ", now=0.0):
        for device in devices:
            failure = InstallFailure(7, TWO, reason)
            self.hear(device, now, sequence=2, failure=failure)

    def tick(self, now):
        self.actions += self.machine.tick(now)

    def wanted(self):
        return [self.machine.wanted(device).release for device in range(10)]

    def told(self):
        """Return whom the last actions tell what."""
        pairs = {
            action.device: action.wanted.release
            for action in self.actions
            if isinstance(action, SendWanted)
        }
        self.actions = []
        return pairs


# The table


def table():
    header, *rows = (rollout_plan.__doc__ or "").split("```")[1].strip().splitlines()
    events = header.split()
    return {
        (RolloutPhase[name], event): RolloutPhase[name if cell == "." else cell]
        for name, *cells in map(str.split, rows)
        for event, cell in zip(events, cells, strict=True)
    }


TABLE = table()
EVENTS = {
    "pause": lambda c: c.machine.pause(1.0),
    "resume": lambda c: c.machine.resume(1.0),
    "abort": lambda c: c.machine.abort("a wish", 1.0),
    "passed": lambda c: c.commit(0),
    "last": lambda c: c.commit(*range(10)),
    "failed": lambda c: c.fail(0),
}


def coordinator_in(phase):
    coordinator = Coordinator()
    event = {"PAUSED": "pause", "DONE": "last", "WITHDRAWN": "failed"}
    if phase is not RolloutPhase.RUNNING:
        EVENTS[event.get(phase.name, "abort")](coordinator)
    assert coordinator.phase == phase.name
    return coordinator


def test_the_table_names_every_phase_and_event():
    assert set(TABLE) == set(itertools.product(RolloutPhase, EVENTS))


@pytest.mark.parametrize(
    ("phase", "event"),
    [pytest.param(*pair, id=f"{pair[0].name}-{pair[1]}") for pair in TABLE],
)
def test_the_machine_does_what_the_table_says(phase, event):
    coordinator = coordinator_in(phase)
    EVENTS[event](coordinator)
    assert coordinator.phase == TABLE[phase, event].name


# Waves


def test_only_devices_of_opened_waves_are_told_of_the_release():
    coordinator = Coordinator()
    assert coordinator.wanted() == [TWO] + [ONE] * 9
    coordinator.told()
    coordinator.commit(0)
    assert coordinator.progress == RolloutProgress(wave=1)
    assert coordinator.told() == dict.fromkeys((1, 2, 3, 4), TWO)


def test_progress_is_on_disk_before_anybody_is_told():
    coordinator = Coordinator()
    coordinator.actions = []
    coordinator.commit(0)
    kinds = [type(action) for action in coordinator.actions]
    assert kinds == [KeepReport, KeepProgress, RolloutNote, *[SendWanted] * 4]


def test_a_share_of_a_wave_may_fail_and_one_more_withdraws_the_release():
    coordinator = Coordinator()
    coordinator.commit(0, 1, 2, 3)
    coordinator.fail(4)
    assert coordinator.progress == RolloutProgress(wave=2)
    coordinator.told()
    coordinator.fail(5)
    assert coordinator.phase == "RUNNING"
    coordinator.fail(6)
    assert coordinator.phase == "WITHDRAWN"
    reason = "2 of 5 devices of wave 3 failed: outputs differ"
    assert coordinator.progress.reason == reason
    assert coordinator.wanted() == [ONE] * 10
    assert coordinator.told() == dict.fromkeys(range(10), ONE)


def test_silence_counts_after_a_deadline_of_running_time():
    coordinator = Coordinator()
    coordinator.commit(0, 1, 2)
    coordinator.tick(899.0)
    assert coordinator.phase == "RUNNING"
    coordinator.actions += coordinator.machine.pause(899.0)
    coordinator.tick(5000.0)
    coordinator.actions += coordinator.machine.resume(5000.0)
    coordinator.tick(5000.5)
    assert coordinator.phase == "RUNNING"
    coordinator.tick(5001.0)
    assert coordinator.phase == "WITHDRAWN"
    reason = "2 of 4 devices of wave 2 were silent or late, 0 failed"
    assert coordinator.progress.reason == reason


def test_one_that_comes_late_gets_the_release_all_the_same():
    coordinator = Coordinator()
    coordinator.commit(0, 1, 2, 3)
    coordinator.tick(900.0)
    assert coordinator.progress.wave == 2
    assert coordinator.machine.wanted(4) == WantedRelease(7, TWO)
    assert not coordinator.machine.is_settled(4)


def test_figures_of_a_wave_together_withdraw_what_each_device_bears():
    coordinator = Coordinator()
    figures = WatchFigures(1000, 0.03)
    coordinator.hear(0, sequence=2, committed=TWO, figures=figures)
    assert coordinator.phase == "WITHDRAWN"
    assert coordinator.progress.reason == (
        "on 1 devices together 3.0% of requests fail, more than 2.0%"
    )


def test_a_paused_rollout_opens_no_wave_and_failures_still_withdraw():
    coordinator = coordinator_in(RolloutPhase.PAUSED)
    coordinator.commit(0)
    assert coordinator.progress.wave == 0
    coordinator.machine.resume(1.0)
    coordinator.tick(1.0)
    assert coordinator.progress.wave == 1
    coordinator.machine.pause(2.0)
    coordinator.fail(1, 2)
    assert coordinator.phase == "WITHDRAWN"


# Reports


def test_older_news_of_the_same_disk_changes_nothing_and_another_disk_counts():
    coordinator = Coordinator()
    coordinator.fail(1)
    coordinator.hear(1, sequence=1)
    assert coordinator.machine.reports[1].failure is not None
    coordinator.hear(1, sequence=0, instance="a new disk", committed=None)
    assert coordinator.machine.reports[1].instance == "a new disk"


def test_what_a_device_does_meanwhile_is_not_written_to_disk():
    coordinator = Coordinator()
    coordinator.hear(0)
    coordinator.actions = []
    coordinator.hear(0, stage="fetching", target=TWO)
    assert coordinator.actions == []


def test_a_device_that_installs_what_was_recalled_is_told_again():
    coordinator = Coordinator()
    coordinator.hear(0, target=TWO, stage="fetching")
    coordinator.machine.abort("a wish", 0.0)
    coordinator.told()
    coordinator.tick(RESEND_S - 1)
    assert coordinator.told() == {}
    coordinator.tick(RESEND_S)
    assert 0 in coordinator.told()
    coordinator.hear(0, RESEND_S)
    coordinator.tick(2 * RESEND_S)
    assert 0 not in coordinator.told()


def test_a_coordinator_that_restarts_goes_on_and_gives_devices_time_to_return():
    coordinator = Coordinator()
    coordinator.commit(0, 1, 2)
    coordinator.tick(890.0)
    kept = [a for a in coordinator.actions if isinstance(a, KeepProgress)][-1].progress
    again = Coordinator(progress=kept, reports=coordinator.machine.reports)
    assert again.progress == RolloutProgress(wave=1, elapsed_s=675.0)
    again.commit(3, 4)
    assert again.progress.wave == 2


def test_a_first_release_leaves_alone_what_it_never_reached():
    coordinator = Coordinator(replace(PLAN, previous=None))
    assert coordinator.machine.wanted(9) is None
    coordinator.fail(0)
    assert coordinator.machine.wanted(0) == WantedRelease(7, None)
    assert coordinator.machine.wanted(9) is None
    # One that has it all the same, as it joined a rollout that was done.
    coordinator.hear(9, sequence=2, committed=TWO)
    assert coordinator.machine.wanted(9) == WantedRelease(7, None)


def test_a_device_that_has_the_first_release_already_is_not_emptied_before_its_wave():
    # A fleet whose coordinator is new: its devices have the model.
    coordinator = Coordinator(replace(PLAN, previous=None))
    coordinator.hear(7, sequence=1, committed=TWO)
    assert coordinator.machine.wanted(7) is None
    coordinator.machine.abort("its operator", 1.0)
    assert coordinator.machine.wanted(7) == WantedRelease(7, None)


def test_a_done_rollout_is_everybodys_and_can_be_recalled():
    coordinator = coordinator_in(RolloutPhase.DONE)
    assert coordinator.machine.wanted(10_000) == WantedRelease(7, TWO)
    coordinator.machine.abort("drift", 1.0)
    assert coordinator.machine.wanted(5) == WantedRelease(7, ONE)


# Plans


def test_waves_end_at_shares_and_a_chain_has_one_device_each():
    assert by_shares(range(40)) == (
        (0, 1),
        tuple(range(2, 10)),
        tuple(range(10, 40)),
    )
    assert by_shares([4, 5]) == ((4,), (5,))
    assert along_chain([3, 1, 2]) == ((3,), (1,), (2,))


@pytest.mark.parametrize("shares", [(), (0.5,), (0.5, 0.2, 1), (0, 1), (0.5, 0.5, 1)])
def test_shares_that_do_not_rise_to_one_are_refused(shares):
    with pytest.raises(UserError, match="shares rise from above 0 to 1"):
        by_shares([1, 2], shares)


@pytest.mark.parametrize(
    ("waves", "words"),
    [
        ((), "at least one device in each wave"),
        (((),), "at least one device in each wave"),
        (((1,), (1, 2)), "names a device twice"),
    ],
)
def test_a_plan_without_devices_or_with_one_twice_is_refused(waves, words):
    with pytest.raises(UserError, match=words):
        replace(PLAN, waves=waves)


def test_figures_together_weigh_requests():
    figures = [
        WatchFigures(100, 0.1, 10.0, 0.5, 0.1, 0.4),
        WatchFigures(300, 0.0, 30.0, 0.1, 0.3),
        WatchFigures(),
    ]
    assert together(figures) == WatchFigures(400, 0.025, 10.0, 0.2, 0.1, 0.1)
    assert together([]) == WatchFigures()
