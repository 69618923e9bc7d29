"""A fleet's coordinator: what it tells and sends, and that whatever kills it changes nothing."""

import zlib
from dataclasses import replace
from typing import Any

import pytest

from fedlearn.errors import RecordError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange import transfer
from fedlearn.exchange.keys import proto
from fedlearn.exchange.release_frames import (
    OFFER_KIND,
    RELEASE_KIND,
    Offer,
    WrongFrame,
    installed_frame,
    offer_of,
    report_of,
    unpacked_offer,
    wanted_frame,
)
from fedlearn.exchange.releases import (
    InstalledReport,
    InstallFailure,
    ReleaseId,
    WantedRelease,
    WatchFigures,
    WatchLimits,
)
from fedlearn.server.actions import SendToAgent, StoreAnswer
from fedlearn.server.fleet import POLL_S, FleetRounds
from fedlearn.server.rollout_plan import RolloutPhase, RolloutPlan, RolloutProgress
from fedlearn.server.rollout_store import (
    STORE_FILE,
    RolloutStore,
    plan_of,
    plan_text,
    progress_of,
    progress_text,
)
from fedlearn.server.work import WorkOrder

ONE, TWO = (ReleaseId("model", n, f"{n:064x}") for n in (1, 2))
PLAN = RolloutPlan(1, TWO, ONE, ((0,), (1, 2)), 0.25, 900.0, WatchLimits(5, errors=0.1))
REPORT = InstalledReport("disk", 3, ONE)
FILE = bytes(range(256)) * 40


class Shelf:
    """Packages of one file each."""

    def offer(self, wanted):
        return Offer(wanted, b"{}", (b"signature",))

    def file(self, release, place):
        return FILE if place == 0 else None


class Fleet:
    def __init__(self, folder):
        self.lines: list[str] = []
        self.store = RolloutStore(folder)
        self.machine: Any = FleetRounds(10, self.store, Shelf(), self.lines.append, 0.0)
        self.sessions = 0

    def attend(self, client, installs=True, now=0.0, fetches=False):
        self.sessions += 1
        self.machine.connected(self.sessions, client, now)
        hello = pb.Hello(
            oldest=1, newest=1, client=client, installs=installs, fetches=fetches
        )
        frame = pb.AgentFrame(hello=hello)
        return self.machine.heard(self.sessions, frame, now)

    def report(self, client, session, now=0.0, **changes):
        report = replace(REPORT, instance=f"disk {client}", **changes)
        return self.machine.heard(session, installed_frame(report), now)

    def ask(self, session, offset, place=0, rollout=1, again=False, kind=RELEASE_KIND):
        key = proto((rollout, kind, place))
        ack = pb.Ack(key=key, offset=offset, again=again)
        return self.machine.heard(session, pb.AgentFrame(ack=ack), 0.0)


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


def kinds(actions):
    return [action.frame.WhichOneof("frame") for action in actions]


def wanted(actions):
    return [
        offer_of(action.frame.wanted).wanted
        for action in actions
        if isinstance(action, SendToAgent)
        and action.frame.WhichOneof("frame") == "wanted"
    ]


def test_an_agent_is_told_what_it_is_to_have_at_every_connection(fleet):
    assert kinds(fleet.attend(0)) == ["welcome"]
    fleet.store.begin(PLAN)
    assert wanted(fleet.machine.tick(POLL_S)) == [WantedRelease(1, TWO)]
    assert wanted(fleet.attend(0)) == [WantedRelease(1, TWO)]
    assert wanted(fleet.attend(1)) == [WantedRelease(1, ONE)]


def test_an_agent_without_releases_attends_and_is_named(fleet):
    fleet.store.begin(PLAN)
    fleet.machine.tick(POLL_S)
    assert kinds(fleet.attend(0, installs=False)) == ["welcome"]
    assert fleet.lines[-1] == "client 0: its agent installs no releases; upgrade it"


def test_a_welcome_of_a_fleet_says_so_and_names_no_run(fleet):
    welcome = fleet.attend(0)[0].frame.welcome
    assert welcome.releases and welcome.run == b""


def test_a_coordinator_that_is_killed_goes_on_where_it_was(fleet, tmp_path):
    fleet.store.begin(PLAN)
    fleet.machine.tick(POLL_S)
    fleet.attend(0)
    fleet.report(0, 1, committed=TWO, sequence=4)
    newest: Any = fleet.store.newest()
    assert newest[1].wave == 1
    # Another process reads the same disk; nothing of the first one is closed in order.
    again = Fleet(tmp_path)
    assert again.machine.rollout.progress.wave == 1
    assert again.machine.rollout.reports[0].committed == TWO
    assert wanted(again.attend(1)) == [WantedRelease(1, TWO)]


def test_reports_are_on_disk_before_there_is_a_rollout(fleet, tmp_path):
    fleet.attend(3)
    fleet.report(3, 1)
    assert Fleet(tmp_path).store.reports()[3].committed == ONE


@pytest.mark.parametrize(
    ("verb", "phase"),
    [("pause", "PAUSED"), ("abort", "ABORTED"), ("resume", "RUNNING")],
)
def test_wishes_are_fulfilled_once_and_outlive_a_crash(fleet, tmp_path, verb, phase):
    fleet.store.begin(PLAN)
    fleet.store.wish(1, verb)
    again = Fleet(tmp_path)
    again.machine.tick(POLL_S)
    newest: Any = again.store.newest()
    assert newest[1].phase.name == phase
    assert again.store.wishes() == []


# Files


def test_a_file_is_sent_from_where_the_device_says(fleet, monkeypatch):
    for name in ("SMALLEST", "FIRST", "LARGEST"):
        monkeypatch.setattr(transfer, name, 4096)
    fleet.store.begin(PLAN)
    fleet.machine.tick(POLL_S)
    fleet.attend(0)
    received = bytearray(FILE[:1000])
    actions = fleet.ask(1, len(received))
    # The connection breaks: the next one goes on where this one was.
    fleet.machine.gone(1)
    fleet.attend(0)
    actions = fleet.ask(2, len(received))
    while actions:
        chunk = actions[0]
        assert isinstance(chunk, SendToAgent)
        assert chunk.frame.chunk.offset <= len(received)
        assert chunk.frame.chunk.total == len(FILE)
        end = chunk.frame.chunk.offset + len(chunk.data)
        received[chunk.frame.chunk.offset :] = chunk.data
        actions = actions[1:] + fleet.ask(2, end)
    assert zlib.crc32(received) == zlib.crc32(FILE)
    assert fleet.machine._transfers[0] == {}


def test_what_a_device_threw_away_is_sent_once_more_when_it_says_so(fleet, monkeypatch):
    for name in ("SMALLEST", "FIRST", "LARGEST"):
        monkeypatch.setattr(transfer, name, 4096)
    fleet.store.begin(PLAN)
    fleet.machine.tick(POLL_S)
    fleet.attend(0)
    assert fleet.ask(1, 0) and fleet.ask(1, 4096)
    # The same acknowledgement twice is no reason to send twice.
    assert fleet.ask(1, 4096) == []
    assert bytes(fleet.ask(1, 4096, again=True)[0].data) == FILE[4096:8192]


@pytest.mark.parametrize("verb", ["revoke", "expire"])
def test_a_device_whose_certificate_ends_is_forgotten_at_once(fleet, verb):
    for client in (0, 1):
        fleet.attend(client)
    # Sessions are counted from 1, and an expired one ends by its number.
    ended = {"revoke": [1], "expire": [2]}[verb]
    getattr(fleet.machine, verb)(ended)
    assert fleet.machine.installing == {0}
    fleet.store.begin(PLAN)
    actions = fleet.machine.tick(POLL_S)
    assert {action.session for action in actions if wanted([action])} == {1}


def test_what_a_broken_link_did_not_carry_comes_in_smaller_pieces(fleet, monkeypatch):
    monkeypatch.setattr(transfer, "SMALLEST", 1)
    fleet.store.begin(PLAN)
    fleet.machine.tick(POLL_S)
    fleet.attend(0)
    fleet.machine.book.paces[0] = pace = transfer.Pace()
    pace.bytes = 4096
    fleet.ask(1, 0)
    fleet.machine.gone(1)
    assert pace.bytes == 2048


def test_an_agent_that_fetches_is_told_the_name_alone_and_fetches_the_rest(fleet):
    fleet.store.begin(PLAN)
    fleet.machine.tick(POLL_S)
    [_, old] = fleet.attend(1)
    assert old.frame.wanted.manifest == b"{}"
    [_, bare] = fleet.attend(0, fetches=True)
    wish = WantedRelease(1, TWO)
    assert offer_of(bare.frame.wanted) == Offer(wish)
    # Told again each minute, at each connection: it has to be short.
    assert bare.frame.ByteSize() < 60
    [packed] = fleet.ask(2, 0, kind=OFFER_KIND)
    assert packed.frame.chunk.total == len(packed.data)
    whole = Offer(wish, b"{}", (b"signature",))
    assert unpacked_offer(wish, bytes(packed.data)) == whole
    # The next agent of this client may be an older one.
    fleet.machine.gone(2)
    assert fleet.attend(0)[1].frame.wanted.manifest == b"{}"


def test_the_first_chunk_is_one_that_any_link_can_bear(fleet):
    fleet.store.begin(PLAN)
    fleet.machine.tick(POLL_S)
    fleet.attend(0)
    assert [len(chunk.data) for chunk in fleet.ask(1, 0)] == [transfer.SMALLEST]


@pytest.mark.parametrize(("place", "rollout"), [(1, 1), (0, 2), (2**32 - 1, 1)])
def test_an_offer_that_is_not_wanted_is_cancelled(fleet, place, rollout):
    fleet.store.begin(PLAN)
    fleet.machine.tick(POLL_S)
    fleet.attend(0)
    assert kinds(fleet.ask(1, 0, place, rollout, kind=OFFER_KIND)) == ["cancel"]


@pytest.mark.parametrize(("place", "rollout"), [(1, 1), (0, 2), (2**32 - 1, 1)])
def test_a_file_that_is_not_wanted_is_cancelled(fleet, place, rollout):
    fleet.store.begin(PLAN)
    fleet.machine.tick(POLL_S)
    fleet.attend(0)
    assert kinds(fleet.ask(1, 0, place, rollout)) == ["cancel"]


# Frames of strangers


def test_frames_are_read_as_they_were_written():
    failure = InstallFailure(6, ONE, "outputs differ")
    figures = WatchFigures(100, 0.01, 8.0, 0.1, 0.2, 0.3)
    report = InstalledReport(
        "disk", 5, ONE, TWO, failure, None, "watching", "hot", figures
    )
    assert report_of(installed_frame(report).installed) == report
    for release in (ONE, None):
        offer = Offer(WantedRelease(7, release), b"{}", (b"a", b"b"))
        assert offer_of(wanted_frame(offer).wanted) == offer


@pytest.mark.parametrize(
    "message",
    [
        pb.Installed(instance="x" * 65),
        pb.Installed(committed=pb.Release(name="m", counter=1, digest=b"short")),
        pb.Installed(committed=pb.Release(counter=1, digest=bytes(32))),
        pb.Installed(trial=pb.Release(name="m", counter=2**63, digest=bytes(32))),
        pb.Installed(figures=pb.Figures(errors=float("nan"))),
        pb.Installed(figures=pb.Figures(p99_ms=-1.0)),
        pb.Installed(figures=pb.Figures(requests=2**64 - 1)),
        pb.Installed(waiting="x" * 501),
    ],
)
def test_a_report_with_a_wrong_part_is_counted_and_changes_nothing(fleet, message):
    with pytest.raises(WrongFrame):
        report_of(message)
    fleet.attend(0)
    assert fleet.machine.heard(1, pb.AgentFrame(installed=message), 0.0) == []
    assert fleet.machine.counters["wrong_report"] == 1
    assert fleet.store.reports() == {}


# The store


def test_plans_and_progress_are_read_as_they_were_written():
    assert plan_of(plan_text(PLAN)) == PLAN
    first = replace(PLAN, previous=None)
    assert plan_of(plan_text(first)) == first
    progress = RolloutProgress(RolloutPhase.PAUSED, 2, 12.5, "its operator paused it")
    assert progress_of(progress_text(progress)) == progress


def test_a_file_that_is_no_store_is_named(tmp_path):
    (tmp_path / STORE_FILE).write_bytes(b"no database" * 100)
    with pytest.raises(RecordError, match=r"rollouts\.sqlite' cannot be used"):
        RolloutStore(tmp_path)


# Runs


def work_order(client, round=1):
    key = (round, "train", 0)
    return WorkOrder(client, key, pb.Task(key=proto(key)), ())


def answer_to(order, data=b"answer"):
    chunk = pb.Chunk(
        key=proto(order.key), total=len(data), data=data, checksum=zlib.crc32(data)
    )
    return pb.AgentFrame(chunk=chunk)


def test_a_run_is_told_to_those_who_attend_and_to_those_who_come(fleet):
    fleet.attend(0)
    fleet.attend(1, installs=False)
    actions = fleet.machine.enter(b"run", '{"model": 1}', 1000)
    assert [action.session for action in actions] == [1, 2]
    for action in [*actions, fleet.attend(2)[0]]:
        welcome = action.frame.welcome
        assert (welcome.run, welcome.experiment) == (b"run", '{"model": 1}')
        assert welcome.releases and welcome.limit_bytes == 1000
    ended = fleet.machine.leave()
    assert [action.frame.welcome.run for action in ended] == [b"", b"", b""]
    assert fleet.attend(3)[0].frame.welcome.run == b""


def test_a_run_that_ends_leaves_no_work_and_no_answer_to_the_next(fleet):
    fleet.attend(0)
    fleet.attend(1)
    fleet.machine.enter(b"one", "{}", 1000)
    for client in (0, 1):
        fleet.machine.ask([work_order(client)], 0.0)
    stored = fleet.machine.heard(1, answer_to(work_order(0)), 0.0)
    assert isinstance(stored[0], StoreAnswer)
    fleet.machine.stored(0, (1, "train", 0))
    ended = fleet.machine.leave()
    assert kinds(ended) == ["cancel", "welcome", "welcome"]
    assert ended[0].session == 2
    fleet.machine.enter(b"two", "{}", 1000)
    # The same key means other work: the answer of before is none.
    fleet.machine.ask([work_order(0)], 0.0)
    assert fleet.machine.heard(1, answer_to(work_order(0), b"other"), 0.0) == [
        StoreAnswer(0, (1, "train", 0), b"other", zlib.crc32(b"other"))
    ]


def test_without_a_run_an_answer_is_not_taken(fleet):
    fleet.attend(0)
    fleet.machine.enter(b"one", "{}", 1000)
    fleet.machine.ask([work_order(0)], 0.0)
    fleet.machine.leave()
    actions = fleet.machine.heard(1, answer_to(work_order(0)), 0.0)
    assert kinds(actions) == ["refusal"]


def test_releases_go_on_in_a_run(fleet):
    fleet.machine.enter(b"one", "{}", 1000)
    fleet.attend(0)
    fleet.store.begin(PLAN)
    assert wanted(fleet.machine.tick(POLL_S)) == [WantedRelease(1, TWO)]
    fleet.report(0, 1, committed=TWO, sequence=4)
    assert fleet.machine.rollout.progress.wave == 1
