"""The coordinator's machine: who may come, what is counted, when a connection is given up."""

import zlib

import pytest

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange import transfer
from fedlearn.exchange.keys import of, proto
from fedlearn.server.actions import DropSession, SendToAgent, StoreAnswer
from fedlearn.server.rounds import Rounds
from fedlearn.server.work import ModelMissing, WorkOrder, WorkResult
from fedlearn.text import shortened

KEY, LATER = (1, "train", 0), (2, "train", 0)
RUN = b"run"


def rounds(**changes):
    return Rounds(
        **{"run": RUN, "experiment": "{}", "clients": 3, "limit_bytes": 100, **changes}
    )


def hello(client=0, oldest=1, newest=1):
    return pb.AgentFrame(hello=pb.Hello(oldest=oldest, newest=newest, client=client))


def chunk(data, offset=0, whole=None, key=KEY, checksum=None):
    whole = data if whole is None else whole
    checksum = zlib.crc32(whole) if checksum is None else checksum
    return pb.AgentFrame(
        chunk=pb.Chunk(
            key=proto(key),
            offset=offset,
            total=len(whole),
            data=data,
            checksum=checksum,
        )
    )


def failure(reason, text="", key=KEY):
    return pb.AgentFrame(failure=pb.Failure(key=proto(key), reason=reason, text=text))


def work(client=0, key=KEY, check=lambda data: None):
    return WorkOrder(client, key, pb.Task(key=proto(key), sizes=[2]), (b"ab",), check)


def attending(machine, session=1, client=0, now=0.0):
    machine.connected(session, client, now)
    return machine.heard(session, hello(client), now)


def asked(**changes):
    """Return a machine whose client 0 attends as connection 1 and has a piece of work."""
    machine = rounds(**changes)
    attending(machine)
    machine.ask([work()], 0.0)
    return machine


def kinds(actions):
    return [
        action.frame.WhichOneof("frame")
        if isinstance(action, SendToAgent)
        else type(action).__name__
        for action in actions
    ]


def ack(actions):
    """Return offset and mark of the one acknowledgement among actions."""
    (found,) = [
        a.frame.ack
        for a in actions
        if isinstance(a, SendToAgent) and a.frame.WhichOneof("frame") == "ack"
    ]
    return found.offset, found.stored


def reason(actions):
    frame = actions[0].frame
    return getattr(frame, frame.WhichOneof("frame")).reason


def answers(actions):
    return [(a.client, a.data, a.failure) for a in actions if isinstance(a, WorkResult)]


# Who may come


def test_a_hello_is_answered_by_a_welcome_and_the_open_work():
    machine = rounds()
    machine.ask([work()], 0.0)
    first, second, third = attending(machine)
    assert first.frame.welcome.run == RUN and first.frame.welcome.limit_bytes == 100
    assert (
        first.frame.welcome.idle_ms,
        first.frame.welcome.busy_ms,
        first.frame.welcome.lease_ms,
    ) == (20_000, 1000, 4500)
    assert (second.session, of(second.frame.task.key)) == (1, KEY)
    assert (third.frame.chunk.offset, third.frame.chunk.total, third.data) == (
        0,
        2,
        b"ab",
    )
    assert machine.attending == {0: 1}


@pytest.mark.parametrize(
    ("frame", "counter", "words"),
    [
        (
            hello(0, 2, 3),
            "wrong_version",
            "the agent speaks versions 2 to 3, the coordinator 1 to 1: upgrade the coordinator",
        ),
        (hello(0, 0, 0), "wrong_version", "upgrade the agent"),
        (hello(1), "wrong_identity", "the certificate is client 0's, not client 1's"),
        (chunk(b"data"), "no_hello", "say hello first"),
        (pb.AgentFrame(), "no_hello", "say hello first"),
    ],
)
def test_who_may_not_come_is_told_why_and_dropped(frame, counter, words):
    machine = rounds()
    machine.connected(1, 0, 0.0)
    actions = machine.heard(1, frame, 0.0)
    assert kinds(actions) == ["goodbye", "DropSession"]
    assert words in reason(actions) and machine.counters[counter] == 1
    assert (
        not actions[0].frame.goodbye.again_max_ms and not actions[0].frame.goodbye.done
    )
    assert not machine.sessions and not machine.attending


def test_a_version_range_that_overlaps_is_welcome():
    machine = rounds()
    machine.connected(1, 0, 0.0)
    (welcome,) = machine.heard(1, hello(0, 0, 9), 0.0)
    assert welcome.frame.welcome.version == 1


def test_without_a_certificate_the_hello_decides_and_an_unknown_client_is_refused():
    machine = rounds()
    machine.connected(1, None, 0.0)
    assert kinds(machine.heard(1, hello(2), 0.0)) == ["welcome"]
    machine.connected(2, None, 0.0)
    assert "client 3 is not of this experiment: it has clients 0 to 2" in reason(
        machine.heard(2, hello(3), 0.0)
    )
    assert machine.counters["unknown_client"] == 1 and machine.attending == {2: 1}


def test_a_second_hello_and_a_frame_of_a_later_version_end_a_connection():
    for frame, counter in (
        (hello(), "hello_again"),
        (pb.AgentFrame(), "unknown_frame"),
    ):
        machine = asked()
        assert kinds(machine.heard(1, frame, 0.0)) == ["goodbye", "DropSession"]
        assert machine.counters[counter] == 1 and not machine.attending


def test_a_new_connection_replaces_the_old_one_and_gets_its_work():
    machine = asked()
    machine.heard(1, chunk(b"abc", whole=b"abcde"), 0.0)
    machine.connected(2, 0, 1.0)
    actions = machine.heard(2, hello(), 1.0)
    assert kinds(actions) == [
        "goodbye",
        "DropSession",
        "welcome",
        "task",
        "chunk",
    ] and [a.session for a in actions[:2]] == [1, 1]
    assert (
        actions[0].frame.goodbye.again_min_ms,
        actions[0].frame.goodbye.again_max_ms,
    ) == (10_000, 30_000)  # two take turns, slowly
    assert machine.attending == {0: 2}
    assert (
        machine.heard(1, chunk(b"de", 3, b"abcde"), 1.0) == [] and machine.gone(1) == []
    )  # what comes late is of nobody
    assert machine.attending == {0: 2} and machine.counters["replaced"] == 1


# How payloads go


def have(offset, key=KEY):
    """Return what an agent says when it has so many bytes of a task's payloads."""
    return pb.AgentFrame(ack=pb.Ack(key=proto(key), offset=offset))


def parts(actions):
    """Return offset and data of the chunks that are sent."""
    return [
        (a.frame.chunk.offset, bytes(a.data))
        for a in actions
        if isinstance(a, SendToAgent) and a.frame.WhichOneof("frame") == "chunk"
    ]


@pytest.fixture
def four(monkeypatch):
    """Chunks of four bytes."""
    for name in ("SMALLEST", "FIRST", "LARGEST"):
        monkeypatch.setattr(transfer, name, 4)


def large(*payloads, key=KEY):
    return WorkOrder(
        0,
        key,
        pb.Task(key=proto(key), sizes=[len(data) for data in payloads]),
        payloads,
    )


def test_payloads_go_in_chunks_as_they_are_acknowledged(four):
    machine = rounds()
    attending(machine)
    assert parts(machine.ask([large(b"abcdef", b"", b"ghijkl")], 0.0)) == [
        (0, b"abcd")
    ]  # the first alone
    assert parts(machine.heard(1, have(4), 0.0)) == [
        (4, b"ef"),
        (6, b"ghij"),
    ]  # none has bytes of two payloads
    assert machine.heard(1, have(4), 0.0) == []
    assert parts(machine.heard(1, have(6), 0.0)) == [(10, b"kl")]
    assert (
        machine.heard(1, have(10), 0.0) == [] and machine.heard(1, have(12), 0.0) == []
    )


def test_payloads_go_on_where_the_last_connection_left_them(four):
    machine = rounds()
    attending(machine)
    machine.ask([large(b"abcdefghijklmnop")], 0.0)
    machine.heard(1, have(4), 0.0)  # two more are under way
    machine.gone(1)
    assert parts(attending(machine, 2)) == [(4, b"efgh")]
    assert parts(machine.heard(2, have(12), 0.0)) == [
        (12, b"mnop")
    ]  # both had come: one chunk was sent again
    machine.gone(2)
    assert parts(attending(machine, 3)) == [(12, b"mnop")]
    assert parts(machine.heard(3, have(0), 0.0)) == [
        (0, b"abcd")
    ]  # an agent that was started anew
    machine.heard(3, have(4), 0.0)
    machine.heard(3, have(12), 0.0)
    machine.heard(3, have(16), 0.0)
    machine.gone(3)
    assert parts(attending(machine, 4)) == [(16, b"")]  # it may have all, and says so
    assert machine.heard(4, have(16), 0.0) == []


def test_what_an_agent_says_of_bytes_that_are_not_there_harms_nobody(four):
    machine = rounds()
    attending(machine)
    machine.ask([large(b"abcdef")], 0.0)
    assert parts(machine.heard(1, have(2**64 - 1), 0.0)) == [(6, b"")]
    assert machine.heard(1, have(0, LATER), 0.0) == [] and parts(
        machine.heard(1, have(1), 0.0)
    ) == [(1, b"bcde")]


# How an answer comes


def test_an_upload_goes_on_at_the_acknowledged_offset_of_the_last_connection():
    machine = asked()
    assert ack(machine.heard(1, chunk(b"abcd", 0, b"abcdefghij"), 0.0)) == (4, False)
    machine.gone(1)
    attending(machine, 2)
    assert ack(machine.heard(2, chunk(b"ab", 0, b"abcdefghij"), 0.0)) == (
        4,
        False,
    )  # tells where to go on
    assert ack(machine.heard(2, chunk(b"cdef", 2, b"abcdefghij"), 0.0)) == (
        6,
        False,
    )  # of which two bytes are new
    assert ack(machine.heard(2, chunk(b"hi", 7, b"abcdefghij"), 0.0)) == (
        6,
        False,
    )  # a gap is not filled
    (store,) = machine.heard(2, chunk(b"ghij", 6, b"abcdefghij"), 0.0)
    assert store == StoreAnswer(0, KEY, b"abcdefghij", zlib.crc32(b"abcdefghij"))


def test_an_answer_is_acknowledged_and_counted_when_it_is_stored():
    machine = asked()
    assert kinds(machine.heard(1, chunk(b"data"), 0.0)) == ["StoreAnswer"]
    assert (
        machine.heard(1, chunk(b"data"), 0.0) == []
    )  # the same again, while the disk writes
    actions = machine.stored(0, KEY)
    assert answers(actions) == [(0, b"data", None)] and ack(actions) == (4, True)
    assert not machine.book.open_work


def test_an_empty_answer_is_an_answer():
    machine = asked()
    assert machine.heard(1, chunk(b""), 0.0) == [StoreAnswer(0, KEY, b"", 0)]
    assert ack(machine.stored(0, KEY)) == (0, True)


def test_the_same_answer_again_is_acknowledged_again_and_another_is_refused():
    machine = asked()
    machine.heard(1, chunk(b"data"), 0.0)
    machine.stored(0, KEY)
    assert ack(machine.heard(1, chunk(b"data"), 0.0)) == (4, True)
    assert (
        reason(machine.heard(1, chunk(b"atad"), 0.0))
        == "another answer is stored already"
    )
    assert (machine.counters["again"], machine.counters["differs"]) == (1, 1)


def test_another_answer_before_the_first_is_whole_begins_anew():
    machine = asked()
    machine.heard(1, chunk(b"ab", 0, b"abcd"), 0.0)
    assert ack(machine.heard(1, chunk(b"wx", 0, b"wxyz"), 0.0)) == (2, False)
    assert machine.heard(1, chunk(b"yz", 2, b"wxyz"), 0.0) == [
        StoreAnswer(0, KEY, b"wxyz", zlib.crc32(b"wxyz"))
    ]


def test_a_damaged_answer_is_sent_again_from_the_beginning():
    machine = asked()
    assert ack(machine.heard(1, chunk(b"data", checksum=1), 0.0)) == (0, False)
    assert machine.counters["damaged"] == 1
    assert kinds(machine.heard(1, chunk(b"data"), 0.0)) == ["StoreAnswer"]


@pytest.mark.parametrize(
    "wrong",
    [
        chunk(b"x", 0, b"x" * 101),
        pb.AgentFrame(chunk=pb.Chunk(key=proto(KEY), offset=3, total=4, data=b"ab")),
        pb.AgentFrame(
            chunk=pb.Chunk(
                key=proto(KEY), offset=2**64 - 1, total=2**64 - 1, data=b"ab"
            )
        ),
    ],
)
def test_more_bytes_than_an_answer_may_have_end_the_work(wrong):
    machine = asked()
    actions = machine.heard(1, wrong, 0.0)
    assert (
        kinds(actions) == ["refusal", "WorkResult"]
        and "at most 100 are taken" in answers(actions)[0][2]
    )
    assert machine.counters["oversized"] == 1 and not machine.book.open_work


def test_an_answer_that_its_check_refuses_ends_the_work():
    machine = rounds()
    attending(machine)
    machine.ask([work(check=lambda data: "not finite")], 0.0)
    actions = machine.heard(1, chunk(b"nan"), 0.0)
    assert reason(actions) == "not finite" and answers(actions) == [
        (0, None, "not finite")
    ]


def test_an_answer_from_before_a_restart_is_acknowledged_without_asking():
    machine = rounds()
    assert machine.recall(0, KEY, b"data") == []
    assert ack(attending(machine)) == (4, True)
    assert ack(machine.heard(1, chunk(b"data"), 0.0)) == (4, True)
    assert ack(machine.recall(0, LATER, b"da")) == (2, True)
    machine.forget(2)
    assert machine.book.answered == {0: {LATER: (2, zlib.crc32(b"da"))}}
    machine.ask([work(key=LATER)], 0.0)  # asked in spite of that: it is wanted again
    assert kinds(machine.heard(1, chunk(b"new", key=LATER), 0.0)) == ["StoreAnswer"]


# What else may come of work


def test_failures_carry_their_reason_cut_to_500_characters():
    for told, counter, expected in (
        (failure(pb.Failure.FAILED, "x" * 9999), "failed", shortened("x" * 9999)),
        (failure(pb.Failure.DECLINED, "too hot"), "declined", "declined: too hot"),
        (
            failure(99),
            "failed",
            "the agent gave no reason",
        ),  # a reason of a later version
    ):
        machine = asked()
        assert answers(machine.heard(1, told, 0.0)) == [(0, None, expected)]
        assert machine.counters[counter] == 1 and not machine.book.open_work
        assert machine.heard(1, told, 0.0) == []


def test_a_client_that_lacks_its_model_is_sent_it_and_may_wait_for_it():
    machine = asked()
    lacking = failure(pb.Failure.LACKING)
    assert machine.heard(1, lacking, 1.0) == [ModelMissing(0, KEY)]
    assert machine.heard(1, lacking, 1.0) == []  # one of a task that came twice
    assert (
        machine.tick(60.0) == []
    )  # it has nothing to do, so it need not be heard each second
    machine.gone(1)
    assert kinds(attending(machine, 2, now=60.0)) == [
        "welcome"
    ]  # the first task would be of no use again
    assert machine.heard(2, have(1), 60.0) == []
    sent, chunk = machine.repair(
        0, KEY, pb.Task(key=proto(KEY), sizes=[5], repair=True), (b"model",), 61.0
    )
    assert sent.frame.task.repair and chunk.data == b"model"
    assert kinds(machine.tick(65.6)) == ["DropSession"]


def test_a_client_that_lacks_its_model_a_fourth_time_has_failed():
    machine = asked()
    for _ in range(3):
        assert machine.heard(1, failure(pb.Failure.LACKING), 0.0) == [
            ModelMissing(0, KEY)
        ]
        machine.repair(0, KEY, pb.Task(key=proto(KEY)), (), 0.0)
    assert answers(machine.heard(1, failure(pb.Failure.LACKING, "no model"), 0.0)) == [
        (0, None, "no model")
    ]


def test_a_batch_ends_at_its_deadline_and_late_answers_are_refused():
    machine = rounds()
    attending(machine, 1, 0)
    attending(machine, 2, 1)
    machine.ask([work(0), work(1), work(2)], 10.0, deadline_s=3.0)
    machine.heard(1, chunk(b"data"), 11.0)
    machine.stored(0, KEY)
    assert machine.next_alarm() <= 13.0 and not answers(machine.tick(12.9))
    actions = machine.tick(13.0)
    assert answers(actions) == [
        (1, None, "late: no answer in time"),
        (2, None, "late: no answer in time"),
    ]
    assert [a.session for a in actions if isinstance(a, SendToAgent)] == [
        2
    ]  # client 2 is not here; client 0 is done
    assert (
        reason(machine.heard(2, chunk(b"data"), 14.0))
        == "the round is over, or never asked for this"
    )
    assert machine.counters["late"] == 3


def test_a_batch_ends_when_enough_have_answered():
    machine = rounds()
    for client in range(3):
        attending(machine, client, client)
    machine.ask([work(0), work(1), work(2)], 0.0, enough=2)
    for client in range(3):
        machine.heard(client, chunk(b"data"), 0.0)
    assert answers(machine.stored(2, KEY)) == [(2, b"data", None)]
    actions = machine.stored(0, KEY)
    assert answers(actions) == [
        (0, b"data", None),
        (1, None, "late: enough others answered before"),
    ]
    assert machine.stored(1, KEY) == []  # it is on disk, and does not count
    assert not machine.book.open_work


# Silence


def silent(machine, now):
    return [
        action.session
        for action in machine.tick(now)
        if isinstance(action, DropSession)
    ]


def test_a_busy_agent_is_released_four_and_a_half_seconds_after_it_was_heard_last():
    machine = asked()
    for second in range(1, 11):
        machine.heard(1, pb.AgentFrame(heartbeat=pb.Heartbeat()), float(second))
        assert silent(machine, float(second)) == []
    assert machine.next_alarm() <= 14.5
    assert silent(machine, 14.49) == [] and silent(machine, 14.5) == [1]
    assert machine.book.open_work[0] and not machine.attending  # its work waits for it


def test_a_stall_of_two_seconds_releases_nobody():
    machine = asked()
    for heard in (
        1.0,
        3.999,
        6.998,
    ):  # a heartbeat is due each second, and comes two late
        assert silent(machine, heard) == []
        machine.heard(1, pb.AgentFrame(heartbeat=pb.Heartbeat()), heard)
    assert silent(machine, 9.0) == []


def test_an_idle_agent_is_released_after_400_seconds_and_work_gives_it_a_new_lease():
    machine = rounds()
    attending(machine)
    assert silent(machine, 399.9) == []
    machine.ask([work()], 399.9)
    assert silent(machine, 404.3) == [] and silent(machine, 404.4) == [1]
    attending(machine, 2, now=600.0)
    machine.heard(2, failure(pb.Failure.FAILED), 600.0)
    assert silent(machine, 999.9) == [] and silent(machine, 1000.0) == [2]


@pytest.mark.parametrize(
    ("clients", "seconds"), [(1, 20), (500, 20), (1000, 40), (5000, 200), (10**6, 200)]
)
def test_agents_of_a_large_run_are_heard_less_often(clients, seconds):
    machine = Rounds(RUN, "{}", clients, 100)
    welcome = attending(machine)[0].frame.welcome
    assert welcome.idle_ms == 1000 * seconds
    # However often that is, all of them cost the coordinator no more.
    assert clients / seconds <= 25 or seconds == 200


def test_a_connection_without_hello_is_released_after_five_seconds():
    machine = rounds()
    machine.connected(1, 0, 0.0)
    assert (
        machine.next_alarm() == 5.0
        and silent(machine, 4.9) == []
        and silent(machine, 5.0) == [1]
    )


def test_an_alarm_comes_due_at_its_time_whatever_a_difference_rounds_to():
    now = 3.54
    assert now + 4.5 - now < 4.5
    machine = rounds()
    attending(machine, now=now)
    machine.ask([work()], now)
    assert silent(machine, machine.next_alarm()) == [1]


def test_alarms_do_not_pile_up():
    machine = rounds()
    for session in range(1000):
        attending(machine, session)
        machine.ask([work(key=(session, "train", 0))], 0.0)
        machine.heard(
            session, failure(pb.Failure.FAILED, key=(session, "train", 0)), 0.0
        )
    assert len(machine.sessions) == 1 and len(machine._table._alarms) <= 103


# The end


def test_a_drain_sends_everybody_away_and_tells_latecomers_the_same():
    machine = asked()
    (sent,) = machine.drain((0.5, 3.0))
    goodbye = sent.frame.goodbye
    assert (goodbye.again_min_ms, goodbye.again_max_ms, goodbye.done) == (
        500,
        3000,
        False,
    )
    machine.connected(2, 1, 0.0)
    late = machine.heard(2, hello(1), 0.0)
    assert (
        kinds(late) == ["goodbye", "DropSession"] and late[0].frame.goodbye == goodbye
    )
    (sent,) = machine.drain(None)
    assert (sent.frame.goodbye.again_max_ms, sent.frame.goodbye.done) == (0, True)
    (sent,) = machine.drain((0.0, 0.0))
    assert sent.frame.goodbye.again_max_ms == 1  # 0 would mean never


def test_a_revoked_client_is_dropped_with_its_work_and_before_its_hello():
    machine = asked()
    machine.connected(2, 0, 0.0)
    attending(machine, 3, 1)
    machine.ask([work(2)], 0.0)
    actions = machine.revoke([0, 2])
    assert [a.session for a in actions if isinstance(a, DropSession)] == [
        1,
        2,
    ] and machine.sessions.keys() == {3}
    assert answers(actions) == [
        (0, None, "its certificate is revoked"),
        (2, None, "its certificate is revoked"),
    ]
    assert machine.counters["revoked"] == 2 and not machine.book.open_work


def test_a_stored_answer_that_cannot_be_used_is_refused():
    machine = asked()
    assert reason(machine.refuse(0, KEY, "not finite")) == "not finite"
    assert machine.refuse(1, KEY, "not finite") == []


@pytest.mark.parametrize(
    "text",
    [
        '{"ram_mb": -7' + "0" * 3999 + "}",
        '{"ram_mb": 1' + "0" * 400 + "}",
        '{"ram_mb": 1e400}',
        '{"ram_mb": NaN}',
        '{"ram_mb": [1]}',
        "[" * 4000,
    ],
    ids=["4000 digits", "400 digits", "infinite", "none", "nested", "deep"],
)
def test_facts_that_are_none_are_counted_and_harm_nobody(text):
    machine = rounds()
    attending(machine)
    assert machine.heard(1, pb.AgentFrame(facts=pb.Facts(json=text)), 0.0) == []
    assert machine.counters["wrong_facts"] == 1
    sound = pb.AgentFrame(facts=pb.Facts(json='{"ram_mb": 7620, "cpu": "x"}'))
    (known,) = machine.heard(1, sound, 0.0)
    assert known.facts == {"ram_mb": 7620, "cpu": "x"}
