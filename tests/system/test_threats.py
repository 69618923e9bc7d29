"""Hostile and unlucky connections against the real service over gRPC: a typed refusal, a
counter, and nobody else is disturbed.

The numbers in the titles are the rows of the threat list; `test_bad_updates` has those of a
round's answers.
"""

import asyncio
import contextlib
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from fedlearn.clients.agent import attendance
from fedlearn.clients.agent.actions import Connect
from fedlearn.clients.agent.agent import Agent
from fedlearn.clients.agent.options import AgentSettings
from fedlearn.errors import RecordError, RunError, UserError
from fedlearn.exchange import FRAME_BYTES, methods
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import proto
from fedlearn.server import gate, listening, service, sessions, streams, tokens
from fedlearn.server.work import WorkOrder, WorkResult
from tests.system.peers import (
    KEY,
    WAIT_S,
    Door,
    Peer,
    chunks,
    door,
    failure,
    heartbeat,
    hello,
    keys,
)
from tests.system.test_bad_updates import Canary

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return keys(tmp_path_factory.mktemp("authority") / "pki")


@pytest.fixture
def guarded(pki, tmp_path):
    """A service behind mutual TLS."""
    with door(tmp_path, pki) as made:
        yield made


@pytest.fixture
def plain(tmp_path):
    """A service without TLS."""
    with door(tmp_path, None) as made:
        yield made


def until(true: Callable[[], object]) -> None:
    """Wait for something; fails when it does not come."""
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def answers(door: Door, client: int, data: bytes = b"sound") -> None:
    """Have a client answer, and see it counted: the service is well."""
    door.ask(client)
    peer = door.attend(client)
    peer.hear("task")
    peer.say(*chunks(KEY, data))
    assert peer.hear("ack").stored
    assert door.service.next() == WorkResult(client, KEY, data)


# 6 and 15: what is said out of turn


@pytest.mark.parametrize(
    ("said", "counter", "reason"),
    [
        ([heartbeat()], "no_hello", "say hello first"),
        (chunks(KEY, b"early"), "no_hello", "say hello first"),
        ([pb.AgentFrame()], "no_hello", "say hello first"),
        ([hello(3), hello(3)], "hello_again", "a second hello"),
        ([hello(3), pb.AgentFrame()], "unknown_frame", "does not know"),
        (
            [hello(3), pb.AgentFrame.FromString(b"\xfa\x01\x01x")],
            "unknown_frame",
            "does not know",
        ),
        (
            [hello(3), pb.AgentFrame(renewal=pb.Renewal())],
            "unknown_frame",
            "does not know",
        ),
        ([hello(20)], "unknown_client", "clients 0 to 19"),
        ([hello(2**32 - 1)], "unknown_client", "clients 0 to 19"),
        (
            [hello(3, 2, 3)],
            "wrong_version",
            "the agent speaks versions 2 to 3, the coordinator 1 to 1: upgrade the coordinator",
        ),
        ([hello(3, 0, 0)], "wrong_version", "upgrade the agent"),
    ],
    ids=[
        "heartbeat",
        "chunk",
        "nothing",
        "twice",
        "empty",
        "of the future",
        "renewal",
        "20",
        "largest",
        "newer",
        "older",
    ],
)
def test_what_is_out_of_turn_ends_the_connection(said, counter, reason, plain):
    peer = plain.connect(3)
    peer.say(*said)
    assert reason in peer.hear("goodbye").reason
    peer.ended()
    assert plain.counters[counter] == 1
    answers(plain, 3)


def test_a_newer_agent_that_speaks_this_version_too_is_welcome(plain):
    peer = plain.connect(3)
    more = pb.AgentFrame.FromString(
        hello(3, 1, 9).SerializeToString() + b"\xfa\x01\x01x"
    )  # and a field of its own
    peer.say(more)
    assert peer.hear("welcome").version == 1


def test_a_newer_agent_is_told_to_wait_for_the_coordinator(
    plain, tmp_path, monkeypatch
):
    monkeypatch.setattr(attendance, "OLDEST", 2)
    monkeypatch.setattr(attendance, "NEWEST", 2)
    agent = Agent(
        AgentSettings(
            f"127.0.0.1:{plain.service.port}", 3, tmp_path / "agent", insecure=True
        ),
        say=lambda text: None,
    )
    with pytest.raises(UserError, match="upgrade the coordinator"):
        asyncio.run(agent.run())


def test_the_same_answer_counts_once_and_another_is_refused(plain):
    answers(plain, 3)
    peer = plain.attend(3)  # as after a break
    peer.say(*chunks(KEY, b"sound"))
    assert (
        peer.hear("ack").stored and peer.hear("ack").stored
    )  # one for the welcome, one for the answer
    peer.say(*chunks(KEY, b"other"))
    assert "another answer" in peer.hear("refusal").reason
    peer.say(
        *chunks((0, "train", 0), b"stale"),
        *chunks((1, "x" * 1000, 2**32 - 1), b"unasked"),
    )
    assert [peer.hear("refusal").reason for _ in range(2)] == [
        "the round is over, or never asked for this"
    ] * 2
    assert plain.service.events.empty()
    assert {name: plain.counters[name] for name in ("again", "differs", "late")} == {
        "again": 1,
        "differs": 1,
        "late": 2,
    }


def test_a_checksum_that_does_not_fit_begins_the_answer_anew(plain):
    plain.ask(3)
    peer = plain.attend(3)
    peer.say(*chunks(KEY, b"sound", checksum=1))
    ack = peer.hear("ack")
    assert (ack.offset, ack.stored, plain.counters["damaged"]) == (0, False, 1)
    peer.say(*chunks(KEY, b"sound"))
    assert plain.service.next().data == b"sound"


# 7: who is who (tests/server/test_identity.py has what TLS itself refuses)


def test_a_certificate_decides_who_an_agent_is(guarded):
    guarded.ask(4)
    impostor = guarded.connect(3)
    impostor.say(hello(4))
    assert (
        "the certificate is client 3's, not client 4's"
        in impostor.hear("goodbye").reason
    )
    assert guarded.counters["wrong_identity"] == 1
    other = guarded.attend(3)
    other.say(*chunks(KEY, b"for another"), *failure(KEY, "for another"))
    assert "never asked for this" in other.hear("refusal").reason
    answers(guarded, 4)


def test_without_a_certificate_of_this_authority_nobody_speaks(guarded, tmp_path):
    strangers = keys(tmp_path / "foreign")
    without = grpc.ssl_channel_credentials((guarded.keys.pki / "ca.pem").read_bytes())
    for credentials in (strangers.of(3), without, None):
        with stranger(guarded, credentials) as peer:
            peer.say(hello(3))
            assert peer.ended() is grpc.StatusCode.UNAVAILABLE
    assert guarded.counters == {}
    answers(guarded, 3)


def stranger(door: Door, credentials: object):
    """Return a connection of somebody without a place here, which closes itself."""
    return contextlib.closing(Peer(door.service.port, credentials))


def test_a_revoked_client_is_sent_away_and_stays_away(guarded, monkeypatch):
    monkeypatch.setattr(service, "POLL_S", 0.02)
    credentials = guarded.keys.of(5, anew=True)
    peer = guarded.attend(5)
    guarded.ask(5)
    tokens.revoke(guarded.keys.pki, 5)
    assert peer.hear("goodbye").reason == "the certificate is revoked"
    assert guarded.service.next() == WorkResult(
        5, KEY, failure="its certificate is revoked"
    )
    with stranger(guarded, credentials) as again:
        again.say(hello(5))
        assert again.ended() is grpc.StatusCode.PERMISSION_DENIED
    assert {
        name: guarded.counters[name] for name in ("revoked", "wrong_certificate")
    } == {"revoked": 1, "wrong_certificate": 1}


def test_a_revoked_client_that_is_away_is_not_waited_for(guarded, monkeypatch):
    monkeypatch.setattr(service, "POLL_S", 0.02)
    guarded.keys.of(5, anew=True)
    tokens.revoke(guarded.keys.pki, 5)
    guarded.ask(5)
    assert guarded.service.next() == WorkResult(
        5, KEY, failure="its certificate is revoked"
    )
    guarded.keys.of(5, anew=True)  # a certificate that is not revoked
    guarded.ask(5)
    time.sleep(0.2)  # ten looks
    assert 5 in guarded.service.rounds.book.open_work


def test_a_run_does_not_wait_for_ever_where_nobody_can_be_let_in(guarded, monkeypatch):
    monkeypatch.setattr(service, "POLL_S", 0.02)
    monkeypatch.setattr(service, "UNREADABLE_S", 0.1)
    guarded.attend(5)
    guarded.ask(6)
    list_of_revoked = guarded.keys.pki / "revoked.json"
    before = list_of_revoked.rename(list_of_revoked.with_name("before"))
    list_of_revoked.mkdir()  # as a disk that fails: it is there and cannot be read
    try:
        with pytest.raises(RecordError, match=r"cannot read '.*revoked\.json'"):
            guarded.service.next()
        with pytest.raises(RecordError, match="cannot read"):
            guarded.service.attending()
        assert "cannot read" in guarded.service.figures().trouble
    finally:
        list_of_revoked.rmdir()
        before.rename(list_of_revoked)


def test_a_certificate_that_expires_ends_its_connection(guarded, monkeypatch):
    monkeypatch.setattr(service, "POLL_S", 0.02)
    peer = guarded.attend(5)
    guarded.ask(5)
    later = SimpleNamespace(
        time=lambda: time.time() + 91 * 86400, monotonic=time.monotonic
    )
    monkeypatch.setattr(service, "time", later)
    goodbye = peer.hear("goodbye")
    assert (goodbye.reason, goodbye.done) == ("the certificate has expired", False)
    # With a renewed certificate it may come back, and its work waits for it.
    assert goodbye.again_max_ms > 0
    peer.ended()
    assert guarded.counters["expired"] == 1
    assert 5 in guarded.service.rounds.book.open_work


def test_on_a_connection_that_lasts_an_expired_certificate_opens_nothing(
    guarded, monkeypatch
):
    """TLS looked at the certificate once, when the connection was made."""
    peer = guarded.attend(5)
    later = SimpleNamespace(time=lambda: time.time() + 91 * 86400)
    monkeypatch.setattr(gate, "time", later)
    call = methods.attend(peer.channel)(iter([hello(5)]))
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "has expired" in caught.value.details()


def expiring(expires: float) -> SimpleNamespace:
    """Return a stream of a caller without a certificate's name, as far as it is looked at."""
    return SimpleNamespace(caller=SimpleNamespace(client=None, expires=expires))


def test_expiries_are_told_in_order_and_once():
    """And those of connections that have ended do not pile up."""
    table: Any = streams.AgentStreams()
    for session, expires in ((1, 30.0), (2, 10.0), (3, 20.0), (4, 10.0)):
        table.add(session, expiring(expires))
    table.remove(4)
    assert table.expired(9.0) == []
    assert table.expired(20.0) == [2, 3]
    assert table.expired(20.0) == []
    for session in range(5, 5000):
        table.add(session, expiring(50.0))
        table.remove(session)
    assert len(table._expiries) < 100
    assert table.expired(30.0) == [1]


def test_a_client_that_connects_anew_takes_its_own_place(guarded):
    first, second = guarded.attend(3), guarded.attend(3)
    goodbye = first.hear("goodbye")
    assert (
        goodbye.reason == "another agent attends with the identity of this one"
        and goodbye.again_min_ms == 10_000
    )
    first.ended()
    assert guarded.counters["replaced"] == 1
    second.say(heartbeat())
    second.hear("heartbeat")


# 4, 8 and 17: connections that cost memory, time or trust


def test_a_frame_beyond_grpcs_limit_is_refused_before_it_is_read(plain):
    plain.ask(3)
    peer = plain.attend(3)
    peer.say(*chunks(KEY, bytes(FRAME_BYTES + 1), size=FRAME_BYTES + 1))
    assert peer.ended() is grpc.StatusCode.RESOURCE_EXHAUSTED
    peer = plain.attend(3)
    peer.say(*chunks(KEY, b"sound"))
    assert plain.service.next().data == b"sound"


def test_an_agent_that_does_not_read_is_dropped(plain, monkeypatch):
    monkeypatch.setattr(streams, "UNREAD_BYTES", 1 << 20)
    monkeypatch.setattr(streams, "DRAIN_S", 0.1)
    deaf = plain.connect(3)
    deaf.call.cancel()  # the test's own connection, which reads
    refused = pb.AgentFrame(
        chunk=pb.Chunk(key=pb.Key(kind="x" * 100_000))
    )  # the refusal says it again
    call = methods.attend(deaf.channel)(iter([hello(3), *[refused] * 60]))
    until(lambda: plain.counters.get("unread"))
    until(lambda: not plain.service.rounds.attending)
    assert len(plain.service._streams) == 0
    del call
    answers(plain, 3)


def test_a_connection_that_says_nothing_ends(plain, monkeypatch):
    monkeypatch.setattr(sessions, "HELLO_S", 0.1)
    silent = [plain.connect(3) for _ in range(3)]
    for peer in silent:
        peer.ended()
    assert plain.counters["silent"] == 3
    monkeypatch.undo()
    answers(plain, 3)


def test_one_connection_has_few_calls(plain, monkeypatch):
    monkeypatch.setattr(sessions, "HELLO_S", WAIT_S)
    peer = plain.connect(0)
    calls = [methods.attend(peer.channel)(iter([])) for _ in range(50)]
    until(lambda: plain.service.rounds.sessions)
    assert len(plain.service.rounds.sessions) <= listening.STREAMS
    for call in calls:
        call.cancel()


def test_a_client_that_opens_streams_without_end_gets_few(guarded, monkeypatch):
    monkeypatch.setattr(sessions, "HELLO_S", WAIT_S)
    here = guarded.attend(7)
    flood = [guarded.connect(7) for _ in range(30)]
    until(lambda: len(guarded.service.rounds.sessions) == streams.STREAMS_EACH)
    refused = [peer for peer in flood if not peer.came.empty()]
    assert {peer.ended() for peer in refused} <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    # Nobody else is turned away, nor is the client's own connection.
    answers(guarded, 8)
    assert 7 in guarded.service.attending()
    del here


def test_strangers_are_ended_before_they_are_too_many(guarded):
    """A flood of silent connections at both ports, and agents who come meanwhile."""
    ports = (guarded.service.port, guarded.service.enroll_port)
    with contextlib.ExitStack() as stack:
        for number in range(600):
            place = ("127.0.0.1", ports[number % 2])
            guest = stack.enter_context(socket.create_connection(place))
            guest.setblocking(False)
        until(lambda: guarded.counters.get("strangers", 0) > 100)
        answers(guarded, 3)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
@pytest.mark.parametrize("tls", [True, False])
def test_a_socket_that_never_speaks_is_closed(first, tls, pki, tmp_path, monkeypatch):
    monkeypatch.setattr(listening, "HANDSHAKE_S", 0.3)
    with door(tmp_path, pki if tls else None) as made:
        open = [
            socket.create_connection(("127.0.0.1", made.service.port), timeout=WAIT_S)
            for _ in range(20)
        ]
        for one in open:
            one.sendall(first)
        for one in open:
            with contextlib.suppress(ConnectionResetError):
                while one.recv(4096):
                    pass
            one.close()
        assert made.counters == {}
        answers(made, 3)


@pytest.mark.parametrize("tls", [True, False])
def test_noise_is_nothing(tls, pki, tmp_path):
    draw = random.Random(7)
    with door(tmp_path, pki if tls else None) as made:
        for number in range(100):
            with socket.create_connection(
                ("127.0.0.1", made.service.port), timeout=WAIT_S
            ) as one:
                preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if number % 2 else b""
                with contextlib.suppress(OSError):
                    one.sendall(preface + draw.randbytes(draw.randrange(4096)))
        answers(made, 3)


@pytest.mark.parametrize("kind", ["pickle", "noise", "truncated"])
def test_a_frame_that_is_none_ends_its_connection_alone(kind, plain, tmp_path):
    data = {
        "pickle": pickle.dumps(Canary(str(tmp_path / "canary"))),
        "noise": bytes(range(255, 0, -1)),
        "truncated": chunks(KEY, b"sound")[0].SerializeToString()[:-2],
    }[kind]
    raw = plain.connect(3).channel.stream_stream(f"/{methods.EXCHANGE}/Attend")(
        iter([hello(3).SerializeToString(), data])
    )
    told = [pb.CoordinatorFrame.FromString(frame) for frame in raw]
    assert told[-1].goodbye.reason == "a frame that cannot be read"
    assert plain.counters["garbled"] == 1
    assert not (tmp_path / "canary").exists()
    answers(plain, 3)


def test_a_check_that_breaks_does_not_end_the_run(plain):
    def broken(data: bytes) -> str | None:
        raise ZeroDivisionError

    plain.ask(3, broken)
    plain.ask(4, key=(1, "train", 1))
    peer = plain.attend(3)
    peer.say(*chunks(KEY, b"sound"))
    peer.ended()
    other = plain.attend(4)
    other.say(*chunks((1, "train", 1), b"sound"))
    assert plain.service.next() == WorkResult(4, (1, "train", 1), b"sound")


# 9 and 10: agents that stop and agents that die


@pytest.fixture
def busy(plain, tmp_path):
    """A real agent that is in the middle of a download, and so must be heard."""
    state = tmp_path / "agent"
    command = [
        sys.executable,
        "-m",
        "fedlearn.agent",
        "--insecure",
        "--client",
        "3",
        "--state",
        str(state),
    ]
    with open(tmp_path / "agent.log", "wb") as log:
        made = subprocess.Popen(
            [*command, "--coordinator", f"127.0.0.1:{plain.service.port}"],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    until(lambda: plain.service.rounds.attending)
    task = pb.Task(key=proto(KEY), plan="{}", sizes=[1000])
    plain.service.ask(
        [WorkOrder(3, KEY, task, (b"not all of it",))], float("inf"), None
    )
    yield made
    made.kill()
    made.wait()


def test_a_stopped_agent_is_released_and_a_short_stall_is_not(busy, plain):
    os.kill(busy.pid, signal.SIGSTOP)
    time.sleep(2)
    os.kill(busy.pid, signal.SIGCONT)
    time.sleep(1.5)  # longer than it takes to notice, had the stall begun a silence
    assert plain.service.attending() == [3] and "silent" not in plain.counters
    os.kill(busy.pid, signal.SIGSTOP)
    until(lambda: plain.counters.get("silent"))
    assert plain.service.attending() == []
    os.kill(busy.pid, signal.SIGCONT)
    until(
        lambda: plain.service.attending() == [3]
    )  # and it is welcome again, with its work still open


def test_a_killed_agent_is_gone_at_once_and_its_work_waits(busy, plain):
    busy.kill()
    until(lambda: not plain.service.attending())
    assert "silent" not in plain.counters
    again = plain.attend(3)
    assert again.hear("task").key == proto(KEY)


# 11, 12 and 19: the coordinator's own bad days


def test_who_is_sent_away_for_a_while_comes_back_spread_over_a_window(plain):
    here = [plain.attend(client) for client in range(5)]
    plain.service.stop(False)
    told = [peer.hear("goodbye") for peer in here]
    assert {(one.again_min_ms, one.again_max_ms, one.done) for one in told} == {
        (500, 3000, False)
    }
    waits = []
    for draw in (0.0, 0.5, 1.0):
        machine = attendance.Attendance(0, "test", partial(float, draw))
        machine.opened(0.0)
        waits += [
            one.after_s
            for one in machine.heard(pb.CoordinatorFrame(goodbye=told[0]), 0.0)
            if isinstance(one, Connect)
        ]
    assert waits == [0.5, 1.75, 3.0]


def test_an_agent_that_comes_while_the_coordinator_drains_is_sent_away_too(
    plain, monkeypatch
):
    monkeypatch.setattr(streams, "DRAIN_S", 0.1)
    plain.service._soon(lambda: plain.service.rounds.drain((0.5, 3.0)))
    peer = plain.connect(3)
    peer.say(hello(3))
    assert peer.hear("goodbye").again_max_ms == 3000
    peer.ended()


def test_a_fault_of_the_service_itself_ends_the_run(plain):
    plain.service.repair(3, KEY, pb.Task(), ())
    plain.service._soon(lambda: plain.service.rounds.book.open_work[99])
    with pytest.raises(RunError, match="the exchange failed: KeyError: 99"):
        plain.service.next()
