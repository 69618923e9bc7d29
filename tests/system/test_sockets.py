"""A process's own connections: seen, kept alive by the kernel, and ended."""

import socket

import pytest

from fedlearn.system import sockets


@pytest.fixture(params=[("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def ends(request):
    """Both ends of a connection."""
    host, family = request.param
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener, socket.create_connection(listener.getsockname()[:2]) as near:
        far, _ = listener.accept()
        with far:
            yield near, far


def found(end: socket.socket) -> sockets.Connection:
    """Return a connection as it is seen from outside of its owner."""
    (connection,) = [
        connection
        for connection in sockets.connections()
        if connection.descriptor == end.fileno()
    ]
    return connection


def test_connections_are_seen_with_both_ends_and_what_came(ends):
    near, far = ends
    assert found(near).local == near.getsockname()[:2] == found(far).peer
    assert found(near).peer == far.getsockname()[:2]
    assert found(far).heard_bytes == 0
    near.sendall(b"hello")
    far.recv(5)
    assert found(far).heard_bytes == 5
    # Neither listeners nor files are connections.
    assert all(connection.peer[1] for connection in sockets.connections())


def test_an_ipv4_peer_has_its_own_address_on_a_socket_for_both():
    try:
        listener = socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True
        )
    except (OSError, ValueError):
        pytest.skip("this machine has no IPv6")
    port = listener.getsockname()[1]
    with listener, socket.create_connection(("127.0.0.1", port)):
        far, _ = listener.accept()
        with far:
            assert found(far).peer[0] == "127.0.0.1"


def test_the_kernel_asks_within_half_a_minute_whether_the_other_end_is_there(ends):
    near, _ = ends
    sockets.keep_alive(found(near))
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    idle_s = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    pause_s = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
    count = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
    assert idle_s + pause_s * count == 25


def test_a_connection_is_ended_and_its_number_is_no_other_connections(ends):
    near, far = ends
    gone = found(far)
    sockets.end(gone)
    assert near.recv(1) == b""
    # It stays open for its owner to close, and one that has its number now is left alone.
    far.close()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = socket.create_connection(listener.getsockname())
        with other, listener.accept()[0] as answer:
            stale = sockets.Connection(other.fileno(), gone.local, gone.peer, 0)
            sockets.end(stale)
            answer.sendall(b"still here")
            assert other.recv(10) == b"still here"


def test_open_files_are_counted():
    before = sockets.open_files()
    with socket.socket(), socket.socket():
        assert sockets.open_files() == before + 2
    assert sockets.open_files() == before
