"""How many connections a coordinator takes, and which of too many strangers it ends."""

import contextlib
import socket
import time
from collections import Counter

import pytest

from fedlearn.server import descriptors, enrollment
from fedlearn.server.descriptors import Admission, admission
from fedlearn.server.enrollment import Enrollment
from fedlearn.server.strangers import PATIENCE_S, ROUND_S, Strangers, excess, peer_of
from fedlearn.system import sockets
from fedlearn.system.sockets import Connection


@pytest.mark.parametrize("clients", [1, 40, 5000])
@pytest.mark.parametrize("limit", [70, 1024, 20_000, 1 << 20])
def test_files_of_the_run_always_have_descriptors(limit, clients, monkeypatch):
    monkeypatch.setattr(sockets, "open_files", lambda: 50)
    limits = admission(limit, clients)
    standing = limit - 50 - limits.attending - limits.enrolling
    assert standing >= min(descriptors.RESERVE, limit // 4)
    assert min(limits.attending, limits.enrolling, limits.each) >= 1
    # Of one address there are never so many strangers that others have no room.
    assert limits.each < limits.attending + limits.enrolling


def test_where_there_is_room_all_clients_may_come_back_at_once_from_one_address():
    for clients in (1, 300, 5000):
        limits = admission(1 << 20, clients)
        assert limits.each > clients and limits.attending > 2 * clients


def stranger(host, port, heard_bytes=0):
    return Connection(port, ("127.0.0.1", 7400), (host, port), heard_bytes)


def test_the_silent_go_first_and_then_the_oldest():
    here = [
        stranger("192.0.2.1", 1, heard_bytes=517),
        stranger("192.0.2.1", 2),
        stranger("192.0.2.1", 3),
        stranger("192.0.2.1", 4),
        stranger("192.0.2.2", 5),
    ]
    order = {one.peer: one.descriptor for one in here}
    limits = Admission(attending=9, enrolling=9, each=2, strangers=9)
    assert [one.descriptor for one in excess(here, order, limits)] == [2, 3]
    # Of all addresses together, as well.
    limits = Admission(attending=9, enrolling=9, each=2, strangers=1)
    assert [one.descriptor for one in excess(here, order, limits)] == [2, 3, 4, 5]
    assert excess(here[:1], order, limits) == []


def test_addresses_of_one_network_of_ipv6_are_one():
    here = [stranger(f"2001:db8:1:1::{number}", number) for number in range(1, 6)]
    here += [stranger("2001:db8:1:2::1", 6), stranger("192.0.2.9", 7)]
    limits = Admission(attending=9, enrolling=9, each=2, strangers=9)
    assert [one.descriptor for one in excess(here, {}, limits)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("ipv4:192.0.2.1:4711", ("192.0.2.1", 4711)),
        ("ipv6:%5B::1%5D:39444", ("::1", 39444)),
        ("ipv6:[2001:db8::7]:5", ("2001:db8::7", 5)),
        ("ipv6:[::ffff:127.0.0.1]:5", ("127.0.0.1", 5)),
        ("unix:/tmp/socket", None),
        ("", None),
    ],
)
def test_the_other_end_is_read_as_grpc_names_it(text, peer):
    assert peer_of(text) == peer


class Members(list[sockets.End]):
    """Those who passed the gate, by their ends."""

    def peers(self) -> list[sockets.End]:
        return list(self)


def test_a_flood_leaves_room_and_members_alone():
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
        member = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        stack.enter_context(listener.accept()[0])
        counters = Counter[str]()
        limits = Admission(attending=99, enrolling=99, each=6, strangers=99)
        guard = Strangers([port], limits, Members([member.getsockname()]), counters)
        guests = []
        for _ in range(40):
            guests.append(
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            )
            stack.enter_context(listener.accept()[0])
        guests[3].sendall(b"hello")
        # What this process connects to itself counts as well: both ends are here.
        guard.look(time.monotonic())
        standing = [guest for guest in guests if not ended(guest)]
        assert len(standing) == 6 and guests[3] in standing
        assert not ended(member)
        assert counters == {"strangers": 34}


def test_who_attends_and_never_calls_is_ended_and_who_enrolls_is_not():
    with contextlib.ExitStack() as stack:
        ports = []
        guests = []
        for _ in range(2):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports.append(listener.getsockname()[1])
            for _ in range(2):
                guests.append(
                    stack.enter_context(
                        socket.create_connection(("127.0.0.1", ports[-1]))
                    )
                )
                stack.enter_context(listener.accept()[0])
        counters = Counter[str]()
        limits = Admission(attending=99, enrolling=99, each=99, strangers=99)
        members = Members([guests[0].getsockname()])
        guard = Strangers(ports, limits, members, counters)
        # As if these had come after it.
        guard._other_files -= 8
        guard.look(0.0)
        guard.look(PATIENCE_S - 1)
        assert not any(map(ended, guests))
        guard.look(PATIENCE_S + ROUND_S)
        assert [ended(guest) for guest in guests] == [False, True, False, False]
        assert counters == {"strangers": 1}


def ended(guest: socket.socket) -> bool:
    guest.setblocking(False)
    try:
        return guest.recv(1) == b""
    except BlockingIOError:
        return False


def test_a_flood_of_guesses_waits_in_line_and_a_single_one_does_not(tmp_path):
    service = Enrollment(tmp_path)
    assert service._wait_s(100.0) == enrollment.PAUSE_S
    for _ in range(200):
        last_s = service._wait_s(100.0)
    assert last_s == pytest.approx(201 / enrollment.REFUSALS)
    # The line is gone when its time is over.
    assert service._wait_s(200.0) == enrollment.PAUSE_S
