"""What happens to a fleet's devices is an event, once; and what is asked of them comes back."""

from dataclasses import replace
from typing import Any

import pytest

from fedlearn.errors import RecordError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.findings import DeviceFinding, diagnosis_frame
from fedlearn.exchange.releases import (
    InstalledReport,
    InstallFailure,
    ReleaseId,
    WatchFigures,
    WatchLimits,
)
from fedlearn.server import fleet_board
from fedlearn.server.device_store import DeviceEntry, DeviceStore
from fedlearn.server.fleet import POLL_S, FleetRounds
from fedlearn.server.fleet_board import LOOK_S, NOTHING_ASKED, FleetBoard, FleetLimits
from fedlearn.server.rollout_store import RolloutStore

ONE = ReleaseId("model", 1, f"{1:064x}")
TWO = ReleaseId("model", 2, f"{2:064x}")
REPORT = InstalledReport("disk", 3, ONE)
LIMITS = FleetLimits(WatchLimits(20, errors=0.1, drift=0.25), silent_s=100.0)
HELLO = pb.Hello(software="fedlearn 9", diagnoses=True)


class World:
    """A board, a clock and the events that came of it."""

    def __init__(self, folder):
        self.store = DeviceStore(folder)
        self.seconds = 1000.0
        self.events: list[tuple[str, int | None, str]] = []
        self.begin()

    def begin(self):
        self.board = FleetBoard(self.store, self.note, LIMITS, lambda: self.seconds)

    def note(self, event, client=None, key=None, text="", **figures):
        self.events.append((event, client, text))

    def names(self):
        names = [event for event, _, _ in self.events]
        self.events.clear()
        return names

    def report(self, device, **changes):
        self.board.reported(device, replace(REPORT, **changes))

    def figures(self, device, requests, **shares):
        self.report(device, figures=WatchFigures(requests, **shares))


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_device_that_drifts_is_an_event_once_and_one_more_at_its_end(world):
    world.figures(0, 19, drift=9.0)
    assert world.names() == []
    for drift, events in (
        (0.25, []),
        (0.3, ["drift"]),
        (0.4, []),
        # Near the limit it neither ends nor begins.
        (0.24, []),
        (0.3, []),
        (0.2, ["drift ended"]),
        (0.26, ["drift"]),
    ):
        world.figures(0, 20, drift=drift)
        assert world.names() == events, drift
    assert world.board.entries[0].alarms == ("drift",)


def test_an_event_says_the_figure_and_its_limit(world):
    world.figures(4, 50, errors=0.2)
    assert world.events == [("errors", 4, "errors 0.2, the limit is 0.1")]


def test_a_coordinator_that_starts_anew_repeats_no_event(world):
    world.figures(0, 50, drift=0.5)
    world.board.flush()
    world.names()
    world.begin()
    world.figures(0, 51, drift=0.5)
    assert world.names() == []
    world.figures(0, 52, drift=0.0)
    assert world.names() == ["drift ended"]


def test_silence_counts_while_the_coordinator_is_up_and_ends_with_a_word(world):
    world.board.attended(0, HELLO)
    world.seconds += 500.0
    world.board.tick(0.0)
    assert world.names() == []
    world.board.left(0)
    world.seconds += 99.0
    world.board.tick(LOOK_S)
    assert world.names() == []
    # The coordinator was down for long: nobody could be heard.
    world.board.flush()
    world.seconds += 9000.0
    world.begin()
    world.board.tick(0.0)
    assert world.names() == []
    world.seconds += 100.0
    world.board.tick(LOOK_S)
    world.board.tick(2 * LOOK_S)
    assert world.names() == ["silent"]
    world.board.attended(0, HELLO)
    assert world.names() == ["back"]
    assert world.board.entries[0].alarms == ()


def test_who_attended_a_coordinator_that_was_killed_is_away_since_the_next(world):
    world.board.attended(0, HELLO)
    world.board.flush()
    world.seconds += 50.0
    world.begin()
    entry = world.board.entries[0]
    assert (entry.attending, entry.since_s) == (False, 1050.0)
    world.board.flush()
    assert world.store.entries() == {0: entry}


def test_requests_are_counted_on_over_releases_and_restarts(world):
    for requests in (10, 15, 15, 4):
        world.figures(0, requests)
    assert world.board.entries[0].served == 19
    world.board.flush()
    world.begin()
    world.figures(0, 6)
    assert world.board.entries[0].served == 21


def test_what_a_device_runs_is_told_when_it_changes(world):
    world.report(0)
    assert world.names() == []
    world.report(0, trial=TWO)
    world.report(0, committed=TWO)
    failure = InstallFailure(1, TWO, "outputs differ")
    world.report(0, failure=failure)
    world.report(0, failure=failure)
    assert world.events == [
        ("on trial", 0, str(TWO)),
        ("committed", 0, str(TWO)),
        ("not kept", 0, f"{TWO}: outputs differ"),
        ("committed", 0, str(ONE)),
    ]


def test_a_disk_that_fails_is_noted_once_and_written_to_again(world, monkeypatch):
    keep = world.store.keep

    def full(entries):
        raise RecordError("the disk is full")

    monkeypatch.setattr(world.store, "keep", full)
    for device in (0, 1):
        world.board.attended(device, HELLO)
        world.board.tick(0.0)
    assert world.events == [("note", None, "the disk is full")]
    monkeypatch.setattr(world.store, "keep", keep)
    world.board.tick(1.0)
    assert set(world.store.entries()) == {0, 1}


# Questions


class Rounds:
    """The state machine of a fleet, with its board."""

    def __init__(self, folder):
        self.world = World(folder)
        rollouts = RolloutStore(folder)
        # No rollout is in this test, so nobody looks for a package.
        shelf: Any = None
        self.machine: Any = FleetRounds(
            10, rollouts, shelf, print, 0.0, self.world.board
        )
        self.session = 0
        self.now = 0.0

    def attend(self, client, diagnoses=True):
        self.session += 1
        self.machine.connected(self.session, client, 0.0)
        hello = pb.Hello(oldest=1, newest=1, client=client, diagnoses=diagnoses)
        self.machine.heard(self.session, pb.AgentFrame(hello=hello), 0.0)
        return self.session

    def poll(self):
        """Let time pass; returns (connection, number) of each question."""
        self.now += POLL_S
        return [
            (action.session, action.frame.diagnose.number)
            for action in self.machine.tick(self.now)
            if action.frame.WhichOneof("frame") == "diagnose"
        ]

    def say(self, session, number, *findings):
        return self.machine.heard(session, diagnosis_frame(number, findings), 0.0)


@pytest.fixture
def rounds(tmp_path):
    return Rounds(tmp_path)


BAD = DeviceFinding("disk", "FAILS", "it is full", "make room")


def test_a_question_is_sent_once_a_connection_and_its_answer_is_kept(rounds):
    session = rounds.attend(3)
    number = rounds.world.store.ask(3)
    assert rounds.poll() == [(session, number)]
    assert rounds.poll() == []
    # A connection that breaks before the answer: it is asked once more.
    again = rounds.attend(3)
    assert rounds.poll() == [(again, number)]
    rounds.say(again, number, BAD)
    answer = rounds.world.store.diagnoses()[3]
    assert (answer.number, answer.findings, answer.time_s) == (number, (BAD,), 1000.0)
    assert rounds.world.store.questions() == {}
    assert rounds.poll() == []


def test_devices_of_a_shared_link_are_asked_a_few_at_a_time(rounds, monkeypatch):
    monkeypatch.setattr(fleet_board, "MOST_ASKED", 2)
    numbers = {}
    for device in (0, 1, 2, 3):
        session = rounds.attend(device, diagnoses=device != 1)
        numbers[session] = rounds.world.store.ask(device)
    # The older agent takes nobody's place.
    assert [session for session, _ in rounds.poll()] == [1, 3]
    assert rounds.poll() == []
    rounds.say(3, numbers[3], BAD)
    assert rounds.poll() == [(4, numbers[4])]


def test_only_an_answer_that_was_asked_for_is_kept(rounds):
    session = rounds.attend(3)
    other = rounds.attend(4)
    number = rounds.world.store.ask(3)
    rounds.poll()
    rounds.say(other, number, BAD)
    rounds.say(session, number + 1, BAD)
    rounds.say(session, number, replace(BAD, state="fine"))
    assert rounds.machine.counters["wrong_diagnosis"] == 3
    assert rounds.world.store.diagnoses() == {}


def test_an_older_agent_is_not_asked_and_the_person_is_told(rounds):
    rounds.attend(3, diagnoses=False)
    rounds.world.store.ask(3)
    assert rounds.poll() == []
    assert rounds.world.store.diagnoses()[3].reason == NOTHING_ASKED


def test_a_device_that_is_away_is_asked_when_it_comes(rounds):
    number = rounds.world.store.ask(5)
    assert rounds.poll() == []
    session = rounds.attend(5)
    assert rounds.poll() == [(session, number)]
    rounds.machine.gone(session)
    rounds.world.store.withdraw(5, number)
    rounds.attend(5)
    assert rounds.poll() == []


def test_entries_are_read_as_they_were_written(tmp_path):
    store = DeviceStore(tmp_path)
    entry = DeviceEntry(
        True, 5.5, "v", 7, WatchFigures(9, 0.5, 1.0, 0.1, 2.0), ("drift",)
    )
    store.keep({2: entry, 3: DeviceEntry()})
    store.close()
    assert DeviceStore(tmp_path).entries() == {2: entry, 3: DeviceEntry()}
