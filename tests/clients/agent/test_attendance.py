"""The agent's machine: what it sends, what it keeps, when it comes back."""

import re
import zlib
from typing import Any

import pytest

from fedlearn.clients.agent import attendance
from fedlearn.clients.agent.actions import (
    Begin,
    Certificate,
    Connect,
    Discard,
    Enter,
    Leave,
    Note,
    SendFrame,
)
from fedlearn.clients.agent.attendance import Attendance
from fedlearn.clients.agent.pieces import PieceStage
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange import transfer
from fedlearn.exchange.keys import proto

KEY, LATER = (1, "train", 0), (2, "train", 0)
KB = 1024


def welcome(run=b"run", limit=10**7, round=0):
    told = {
        "idle_ms": 120_000,
        "busy_ms": 1000,
        "lease_ms": 4500,
        "limit_bytes": limit,
        "round": round,
    }
    return pb.CoordinatorFrame(welcome=pb.Welcome(version=1, run=run, **told))


def task(key=KEY, sizes=(), **fields):
    return pb.CoordinatorFrame(task=pb.Task(key=proto(key), sizes=sizes, **fields))


def part(data, offset=0, key=KEY, total=4):
    return pb.CoordinatorFrame(
        chunk=pb.Chunk(key=proto(key), offset=offset, total=total, data=data)
    )


def ack(offset, stored=False, key=KEY):
    return pb.CoordinatorFrame(ack=pb.Ack(key=proto(key), offset=offset, stored=stored))


def agent(draw=lambda: 0.5, **changes):
    """Return a machine that is welcome, at second 0."""
    machine = Attendance(7, "test", draw)
    machine.opened(0.0)
    machine.heard(welcome(**changes), 0.0)
    return machine


def answered(data, now=0.0, **changes) -> tuple[Attendance, Any]:
    """Return a machine that has an answer, and what it sends of it."""
    machine = agent(**changes)
    machine.heard(task(), now)
    return machine, machine.answered(KEY, data, now)


def have(actions):
    """Return how many bytes of a task's payloads an agent tells to have."""
    return [
        a.frame.ack.offset
        for a in actions
        if isinstance(a, SendFrame) and a.frame.WhichOneof("frame") == "ack"
    ]


def chunks(actions):
    """Return offset and length of the chunks that are sent."""
    return [
        (a.frame.chunk.offset, len(a.data))
        for a in actions
        if isinstance(a, SendFrame) and a.frame.chunk.HasField("key")
    ]


# The stages of a piece of work

EMPTY, FULL = task(), task(sizes=[4])


def refusal(key=KEY):
    return pb.CoordinatorFrame(refusal=pb.Refusal(key=proto(key), reason="late"))


def cancel(key=KEY):
    return pb.CoordinatorFrame(cancel=pb.Cancel(key=proto(key), reason="late"))


def recalled(machine):
    machine.recall(KEY, FULL.task.SerializeToString(deterministic=True), b"data")


def piece_at(stage):
    """Return a machine with a piece of work at a stage; None: without one."""
    machine = agent()
    if stage is not None:
        machine.heard(FULL, 0.0)
    if stage in (PieceStage.WORKING, PieceStage.ANSWERED):
        machine.heard(part(b"data"), 0.0)
    if stage is PieceStage.ANSWERED:
        machine.answered(KEY, b"data", 0.0)
    return machine


def frame(sent):
    return lambda machine: machine.heard(sent, 0.0)


# Event → what reports it. The events of the module's table, and then those that it leaves out.
EVENTS = {
    "task with payloads": frame(FULL),
    "task without payloads": frame(EMPTY),
    "answer recalled": recalled,
    "last payload byte": frame(part(b"data")),
    "work answered": lambda machine: machine.answered(KEY, b"data", 0.0),
    "work failed": lambda machine: machine.failed(KEY, pb.Failure.FAILED, "no"),
    "task with another text": frame(task(sizes=[4], plan="{}")),
    "cancel": frame(cancel()),
    "refusal": frame(refusal()),
    "answer stored": frame(ack(4, stored=True)),
    "task of a later round": frame(task(LATER)),
    "welcome to another run": frame(welcome(b"other")),
    "welcome to a later round": frame(welcome(round=2)),
    "connection lost": lambda machine: machine.lost("cut"),
    "first payload byte": frame(part(b"d")),
    "answer acknowledged": frame(ack(4)),
    "welcome to the same round": frame(welcome(round=1)),
    "cancel of other work": frame(cancel(LATER)),
    "alarm": lambda machine: machine.tick(1.0),
}

# Events that cannot happen at a stage, or that the rows of other events tell of: a task without
# payloads is another text than the one of these tests.
LEFT_OUT = {
    "answer recalled": (PieceStage.COMING, PieceStage.WORKING, PieceStage.ANSWERED),
    "task without payloads": (
        PieceStage.COMING,
        PieceStage.WORKING,
        PieceStage.ANSWERED,
    ),
    "task with another text": (None,),
}


def transitions():
    """Return the table in the docstring of the module: stage and event → next stage."""
    table = {}
    for line in attendance.__doc__.splitlines():
        columns = re.split(r"\s{2,}", line.strip())
        if not line.startswith("    ") or columns[0] == "stage":
            continue
        stage, event, after = columns
        stages = list(PieceStage) if stage == "any" else [named(stage)]
        table.update({(stage, event): named(after) for stage in stages})
    return table


def named(word):
    return None if word == "none" else PieceStage[word]


def test_the_table_of_stages_has_events_that_are_tested():
    assert len(transitions()) == 6 + 7 * 3
    assert {event for _, event in transitions()} <= EVENTS.keys()


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("stage", [None, *PieceStage])
def test_stages_follow_each_other_as_the_table_says(stage, event):
    if stage in LEFT_OUT.get(event, ()):
        return
    machine = piece_at(stage)
    EVENTS[event](machine)
    piece = machine.pieces.get(KEY)
    assert (piece and piece.stage) == transitions().get((stage, event), stage)


# Coming and going


def test_a_connection_begins_with_a_hello_and_a_welcome():
    machine = Attendance(7, "test", lambda: 0.5)
    hello = pb.Hello(oldest=1, newest=1, software="test", client=7)
    assert machine.opened(0.0) == [SendFrame(pb.AgentFrame(hello=hello))]
    assert machine.heard(welcome(), 0.0) == [Enter(welcome().welcome)]


def test_a_coordinator_that_does_not_welcome_is_given_up_later_than_a_slow_link_needs():
    machine = Attendance(7, "test", lambda: 0.5)
    machine.opened(0.0)
    assert machine.next_alarm(0.0) == 15.0 and machine.tick(14.9) == []
    assert [type(action) for action in machine.tick(15.0)] == [Note, Connect]


def test_an_agent_comes_back_at_random_up_to_a_bound_that_doubles_until_it_is_welcome():
    machine = agent(draw=lambda: 1.0)
    waits = [machine.lost("cut")[1].after_s for _ in range(26)]
    assert waits == pytest.approx(
        [0.2, 0.4, *18 * [0.7], 1.4, 2.8, 5.6, 11.2, 22.4, 30.0]
    )
    machine.opened(0.0)
    machine.heard(welcome(), 0.0)
    assert machine.lost("cut")[1] == Connect(0.2)


def test_a_goodbye_names_the_window_of_return():
    again = pb.CoordinatorFrame(
        goodbye=pb.Goodbye(
            reason="the coordinator restarts", again_min_ms=500, again_max_ms=3000
        )
    )
    assert [
        agent(draw=lambda draw=draw: draw).heard(again, 0.0)[1]
        for draw in (0.0, 0.5, 1.0)
    ] == [
        Connect(0.5),
        Connect(1.75),
        Connect(3.0),
    ]
    over = pb.CoordinatorFrame(goodbye=pb.Goodbye(reason="the run is over", done=True))
    assert agent().heard(over, 0.0) == [Leave("the run is over", True)]
    wrong = pb.CoordinatorFrame(
        goodbye=pb.Goodbye(reason="client 7 is not of this experiment")
    )
    assert agent().heard(wrong, 0.0) == [
        Leave("client 7 is not of this experiment", False)
    ]


def test_what_comes_after_a_connection_is_not_heard():
    machine = agent()
    machine.lost("cut")
    assert machine.heard(task(), 0.0) == [] and not machine.pieces
    assert machine.next_alarm(0.0) == float("inf") and machine.tick(1e9) == []


def test_heartbeats_are_rare_without_work_and_each_second_with_it():
    machine = agent()
    assert machine.next_alarm(0.0) == 120.0 and machine.tick(119.9) == []
    assert machine.tick(120.0)[0].frame.WhichOneof("frame") == "heartbeat"
    machine.heard(task(), 130.0)
    assert len(machine.tick(130.0)) == 1  # the last was ten seconds ago
    assert machine.next_alarm(130.0) == 131.0


def given_up(machine, now):
    return any(isinstance(action, Connect) for action in machine.tick(now))


def test_a_silent_coordinator_is_given_up_after_a_lease_with_work():
    machine = agent()
    machine.heard(task(), 50.0)
    assert machine.next_alarm(50.0) <= 54.5
    assert not given_up(machine, 54.4)
    assert machine.tick(54.5)[-1] == Connect(
        0.1, anew=True
    )  # by another socket: this one may wait for long
    machine.opened(60.0)
    assert machine.lost("cut")[-1] == Connect(0.2)


def test_a_silent_coordinator_is_given_up_a_lease_after_a_heartbeat_without_work():
    machine = agent()
    assert not given_up(machine, 120.0)  # this sends it
    assert (
        machine.next_alarm(120.0) == 124.5
        and not given_up(machine, 124.4)
        and given_up(machine, 124.5)
    )
    machine = agent()
    machine.tick(120.0)
    machine.heard(pb.CoordinatorFrame(heartbeat=pb.Heartbeat()), 120.1)
    assert machine.next_alarm(120.1) == 240.0 and not given_up(machine, 240.0)


def test_alarms_come_due_at_their_time_whatever_a_difference_rounds_to():
    machine = Attendance(7, "test", lambda: 0.5)
    now = 3.54
    assert now + 4.5 - now < 4.5
    machine.opened(now)
    assert isinstance(machine.tick(machine.next_alarm(now))[-1], Connect)


# Work


def test_work_begins_when_all_payloads_have_come_and_each_chunk_is_acknowledged():
    machine = agent()
    assert machine.heard(task(sizes=[3, 0, 2]), 0.0) == []
    assert have(machine.heard(part(b"ab", total=5), 0.0)) == [2]
    told, begin = machine.heard(
        part(b"cde", 2, total=5), 0.0
    )  # over the end of a payload
    assert (
        have([told]) == [5]
        and isinstance(begin, Begin)
        and begin.payloads == (b"abc", b"", b"de")
    )


def test_payloads_go_on_over_a_break_where_they_were():
    machine = agent()
    machine.heard(task(sizes=[6]), 0.0)
    machine.heard(part(b"abc", total=6), 0.0)
    machine.lost("cut")
    machine.opened(1.0)
    machine.heard(welcome(), 1.0)
    assert machine.next_alarm(1.0) == 121.0  # nobody has asked yet
    assert machine.heard(task(sizes=[6]), 1.0) == []
    assert have(machine.heard(part(b"ab", total=6), 1.0)) == [
        3
    ]  # it came before: tells where to go on
    assert have(machine.heard(part(b"f", 5, total=6), 1.0)) == [
        3
    ]  # a gap is not filled
    told, begin = machine.heard(part(b"cdef", 2, total=6), 1.0)
    assert (
        have([told]) == [6]
        and isinstance(begin, Begin)
        and begin.payloads == (b"abcdef",)
    )


def test_what_is_here_already_is_not_needed_again():
    machine = agent()
    machine.heard(task(sizes=[4]), 0.0)
    machine.heard(part(b"abcd"), 0.0)
    machine.lost("cut")
    machine.opened(1.0)
    machine.heard(welcome(), 1.0)
    assert (
        machine.heard(part(b"", 4), 1.0) == []
    )  # of nothing that this connection asked for
    machine.heard(task(sizes=[4]), 1.0)
    assert have(machine.heard(part(b"ab"), 1.0)) == [4]
    machine.answered(KEY, b"data", 2.0)
    assert have(machine.heard(part(b"cd", 2), 2.0)) == [4]


def test_more_payloads_than_the_owner_allows_are_declined():
    for sizes, words in (
        ([11], "11 bytes in 1 parts; the owner of this device allows 10"),
        ([0] * 10_001, "10001 parts"),
    ):
        machine = Attendance(7, "test", lambda: 0.5, most_bytes=10)
        machine.opened(0.0)
        machine.heard(welcome(), 0.0)
        (said,) = machine.heard(task(sizes=sizes), 0.0)
        assert (
            isinstance(said, SendFrame)
            and said.frame.failure.reason == pb.Failure.DECLINED
            and words in said.frame.failure.text
        )
        assert machine.heard(part(b"data"), 0.0) == [] and not machine.pieces


def test_a_task_without_payloads_begins_at_once():
    assert [type(action) for action in agent().heard(task(), 0.0)] == [Begin]
    assert [type(action) for action in agent().heard(task(sizes=[0]), 0.0)] == [Begin]


def test_tasks_and_chunks_that_come_twice_change_nothing():
    machine = agent()
    frames = [
        task(sizes=[4]),
        task(sizes=[4]),
        part(b"ab"),
        part(b"ab"),
        task(sizes=[4]),
        part(b"cd", 2),
        part(b"cd", 2),
        task(sizes=[4]),
    ]
    actions = [action for frame in frames for action in machine.heard(frame, 0.0)]
    assert [action.payloads for action in actions if isinstance(action, Begin)] == [
        (b"abcd",)
    ] and have(actions) == [2, 2, 4, 4]


@pytest.mark.parametrize(
    "wrong", [part(b"b", 4), part(b"abcde"), part(b"a", 2**64 - 1)]
)
def test_pieces_that_do_not_fit_end_the_connection(wrong):
    machine = agent()
    machine.heard(task(sizes=[4]), 0.0)
    assert isinstance(machine.heard(wrong, 0.0)[-1], Connect) and not machine.connected


def test_work_goes_on_over_a_break_and_its_answer_goes_to_who_asks_again():
    machine = agent()
    machine.heard(task(), 0.0)
    machine.lost("cut")
    machine.opened(1.0)
    machine.heard(welcome(), 1.0)
    assert (
        machine.answered(KEY, b"data", 2.0) == []
    )  # this connection has not asked: its coordinator may have just started
    assert chunks(machine.heard(task(), 3.0)) == [(0, 4)]


def test_the_same_task_with_another_text_is_other_work():
    machine = agent()
    machine.heard(task(), 0.0)
    assert [type(action) for action in machine.heard(task(plan="{}"), 0.0)] == [
        Discard,
        Begin,
    ]


def test_a_later_round_a_cancel_a_refusal_and_another_run_discard_work_and_answers():
    for sent in (task(LATER), refusal(), cancel(), welcome(b"other")):
        machine, _ = answered(b"data")
        assert Discard(KEY) in machine.heard(sent, 0.0) and KEY not in machine.pieces
        machine = agent()
        machine.heard(task(), 0.0)
        assert Discard(KEY) in machine.heard(sent, 0.0)
        assert machine.answered(KEY, b"data", 0.0) == [
            Discard(KEY)
        ]  # it was ready already


def test_answers_to_rounds_that_are_over_are_discarded():
    machine, _ = answered(b"data")
    machine.lost("cut")
    machine.opened(1.0)
    assert Discard(KEY) in machine.heard(welcome(round=2), 1.0) and not machine.pieces
    assert (
        machine.recall(KEY, b"task", b"data") == [Discard(KEY)] and not machine.pieces
    )
    assert (
        machine.recall(LATER, b"task", b"data") == []
        and machine.pieces[LATER].stage is PieceStage.ANSWERED
    )


def test_another_run_is_entered_after_what_was_of_the_last_is_gone():
    machine, _ = answered(b"data")
    assert machine.heard(welcome(b"other"), 0.0) == [
        Discard(KEY),
        Enter(welcome(b"other").welcome),
    ]


def test_a_failure_is_told_to_who_asked():
    machine = agent()
    machine.heard(task(), 0.0)
    (said,) = machine.failed(KEY, pb.Failure.DECLINED, "too hot" + "!" * 999)
    assert (
        said.frame.failure.reason == pb.Failure.DECLINED
        and len(said.frame.failure.text) == 500
    )
    assert (
        machine.failed(KEY, pb.Failure.DECLINED, "too hot") == [] and not machine.pieces
    )


def test_an_answer_of_this_disk_is_sent_after_a_restart_without_work():
    machine = agent()
    machine.recall(KEY, task().task.SerializeToString(deterministic=True), b"data")
    assert chunks(machine.heard(task(), 0.0)) == [(0, 4)]


# An answer on its way


def test_an_answer_is_sent_in_chunks_that_carry_its_length_and_checksum():
    machine, actions = answered(b"data")
    chunk = actions[0].frame.chunk
    assert (chunk.offset, chunk.total, actions[0].data, chunk.checksum) == (
        0,
        4,
        b"data",
        zlib.crc32(b"data"),
    )
    assert machine.heard(ack(4, stored=True), 0.0) == [Discard(KEY)]
    assert not machine.pieces


def test_an_empty_answer_is_one_chunk():
    machine, actions = answered(b"")
    assert chunks(actions) == [(0, 0)]
    assert machine.heard(ack(0, stored=True), 0.0) == [Discard(KEY)]


def test_the_first_chunk_travels_alone_and_then_two():
    machine, actions = answered(bytes(600 * KB))
    assert chunks(actions) == [(0, 128 * KB)]
    assert chunks(machine.heard(ack(128 * KB), 0.3)) == [
        (128 * KB, 128 * KB),
        (256 * KB, 128 * KB),
    ]
    assert chunks(machine.heard(ack(256 * KB), 0.6)) == [(384 * KB, 128 * KB)]
    assert (
        machine.heard(ack(256 * KB), 0.6) == []
    )  # a chunk came twice: nothing is sent again
    assert chunks(machine.heard(ack(384 * KB), 0.6)) == [(512 * KB, 88 * KB)]


def test_chunks_grow_when_they_are_acknowledged_quickly_and_shrink_when_slowly():
    machine, _ = answered(bytes(9000 * KB))
    assert chunks(machine.heard(ack(128 * KB), 0.09)) == [
        (128 * KB, 256 * KB),
        (384 * KB, 256 * KB),
    ]
    machine.heard(ack(384 * KB), 0.1)
    assert machine.pace.bytes == 512 * KB
    machine.heard(ack(640 * KB), 0.1)
    assert machine.pace.bytes == 512 * KB  # a chunk of 256 KB proves nothing of 512
    machine.heard(ack(1152 * KB), 0.7)
    assert machine.pace.bytes == 256 * KB


def again(machine, now=0.0):
    """Break the connection, make another and ask again; returns the chunks sent."""
    machine.lost("cut")
    machine.opened(now)
    machine.heard(welcome(), now)
    return chunks(machine.heard(task(), now))


def test_a_break_halves_chunks_down_to_the_smallest():
    machine, _ = answered(bytes(600 * KB))
    # Perhaps one takes longer than the lease.
    sizes = [again(machine)[0][1] // KB for _ in range(9)]
    assert sizes == [64, 32, 16, 8, 4, 2, 1, 1, 1]
    assert transfer.SMALLEST == KB


def test_chunks_grow_up_to_the_largest():
    machine, _ = answered(bytes(9000 * KB))
    for _ in range(9):
        upload = machine.pieces[KEY].upload
        assert upload
        machine.heard(ack(upload.transfer.under_way[0][0]), 0.0)
    assert machine.pace.bytes == transfer.LARGEST == KB * KB


def test_an_upload_goes_on_at_the_offset_that_was_acknowledged():
    machine, _ = answered(bytes(600 * KB))
    machine.heard(ack(128 * KB), 0.3)  # two more are under way
    assert again(machine) == [(128 * KB, 64 * KB)]
    # Both had arrived: one chunk was sent again, and it goes on behind them.
    assert chunks(machine.heard(ack(384 * KB), 0.3)) == [(384 * KB, 64 * KB)]
    # Of 64 KB one may take half a second, and this one took less: they double.
    assert chunks(machine.heard(ack(448 * KB), 0.6)) == [
        (448 * KB, 128 * KB),
        (576 * KB, 24 * KB),
    ]


def test_an_upload_begins_anew_at_a_coordinator_that_has_nothing_or_found_damage():
    machine, _ = answered(bytes(300 * KB))
    machine.heard(ack(128 * KB), 0.3)
    assert again(machine) == [(128 * KB, 64 * KB)]
    assert chunks(machine.heard(ack(0), 0.3)) == [(0, 64 * KB)]
    machine, _ = answered(b"data")
    assert chunks(machine.heard(ack(0), 0.0)) == [(0, 4)]
    assert chunks(machine.heard(ack(0), 0.0)) == [(0, 4)]


def test_an_answer_that_is_all_there_but_not_acknowledged_as_stored_is_told_again():
    machine, _ = answered(b"data")
    machine.heard(ack(4), 0.0)
    assert again(machine) == [(4, 0)]
    assert machine.heard(ack(4, stored=True), 0.0) == [Discard(KEY)]


def test_an_answer_above_the_limit_is_told_as_a_failure():
    machine, actions = answered(b"12345", limit=4)
    assert actions[0] == Discard(KEY)
    assert (
        actions[1].frame.failure.text
        == "its answer has 5 bytes; the coordinator takes 4"
    )
    assert not machine.pieces


def test_a_new_certificate_is_handed_on():
    frame = pb.CoordinatorFrame(
        certificate=pb.Certificate(certificate=b"pem", expires=99)
    )
    assert agent().heard(frame, 0.0) == [Certificate(b"pem", 99)]
    assert agent().heard(pb.CoordinatorFrame(), 0.0) == []  # a frame of a later version


# What a device holds at a time


def small(most_bytes):
    """Return a machine of a device whose owner allows few bytes."""
    machine = Attendance(7, "test", lambda: 0.5, most_bytes)
    machine.opened(0.0)
    machine.heard(welcome(), 0.0)
    return machine


def turn(number):
    return (1, "train", number)


def declined(actions):
    return [
        action.frame.failure.text
        for action in actions
        if isinstance(action, SendFrame) and action.frame.HasField("failure")
    ]


def test_the_owners_bytes_are_those_of_all_tasks_together():
    machine = small(100)
    for number in range(5):
        machine.heard(task(turn(number), sizes=[30]), 0.0)
    assert list(machine.pieces) == [turn(0), turn(1)]
    (text,) = declined(machine.heard(task(turn(9), sizes=[30]), 0.0))
    assert "its payloads have 30 bytes in 1 parts, beside" in text
    assert "of other work; the owner of this device allows 100" in text
    # Payloads that the work has count on, and what was dropped does not.
    machine.heard(part(b"." * 30, key=turn(0), total=30), 0.0)
    assert declined(machine.heard(task(turn(9), sizes=[30]), 0.0))
    machine.heard(cancel(turn(0)), 0.0)
    assert not declined(machine.heard(task(turn(9), sizes=[30]), 0.0))


def test_answers_that_wait_count_among_the_owners_bytes():
    machine = small(100)
    machine.heard(task(turn(0)), 0.0)
    machine.answered(turn(0), b"." * 80, 0.0)
    assert declined(machine.heard(task(turn(1), sizes=[30]), 0.0))
    machine.heard(ack(80, stored=True, key=turn(0)), 0.0)
    assert not declined(machine.heard(task(turn(1), sizes=[30]), 0.0))


def test_an_answer_is_kept_alone_whatever_its_size_and_not_beside_others():
    machine = small(100)
    for number in range(2):
        machine.heard(task(turn(number)), 0.0)
    machine.answered(turn(0), b"." * 200, 0.0)
    discard, failure = machine.answered(turn(1), b"...", 0.0)
    assert discard == Discard(turn(1))
    assert "the answers kept have over 100 bytes" in failure.frame.failure.text
    assert list(machine.pieces) == [turn(0)]
    assert machine.recall(turn(2), b"task", b"...") == [Discard(turn(2))]


def test_a_device_has_so_many_pieces_of_work_however_small():
    machine = agent()
    for number in range(1000):
        machine.heard(task(turn(number)), 0.0)
    (text,) = declined(machine.heard(task(turn(1000)), 0.0))
    assert text == "this device has 1000 pieces of work already"


def patience(machine, now):
    """Open a connection on which nobody answers; returns the seconds until it is given up."""
    machine.opened(now)
    due = machine.next_alarm(now)
    while machine.connected:
        due = machine.next_alarm(due)
        machine.tick(due)
    return due - now


def test_a_welcome_is_awaited_longer_after_each_try_in_vain():
    machine = agent()
    waits = [patience(machine, now) for now in (0.0, 100.0, 200.0, 300.0, 400.0)]
    assert waits == [15.0, 30.0, 60.0, 90.0, 90.0]


def test_a_slow_link_is_remembered_and_a_quick_one_forgets_it():
    machine = agent()
    machine.opened(0.0)
    machine.heard(welcome(), 14.0)
    machine.lost("cut")
    assert patience(machine, 100.0) == 28.0
    machine.opened(200.0)
    machine.heard(welcome(), 201.0)
    # A welcome to another run proves nothing of how long a connection takes.
    machine.heard(welcome(), 290.0)
    machine.lost("cut")
    assert patience(machine, 300.0) == 15.0
