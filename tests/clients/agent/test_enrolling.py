"""An enrollment while a coordinator has too many connections."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from fedlearn.clients.agent import enrolling, identity
from fedlearn.errors import RunError
from fedlearn.server import identity as authority
from fedlearn.server import tokens
from tests.server.test_identity import enrolling as enrolling_at


@pytest.fixture
def pki(tmp_path):
    authority.make(tmp_path / "pki")
    return tmp_path / "pki"


@contextlib.contextmanager
def front(port: int, full: int) -> Iterator[tuple[int, list[int]]]:
    """Give a port that closes the first connections at once and then leads to another."""
    closed: list[int] = []
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        threads: list[threading.Thread] = []

        def start(call, *arguments) -> None:
            threads.append(threading.Thread(target=call, args=arguments))
            threads[-1].start()

        def pump(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 16):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near = stack.enter_context(listener.accept()[0])
                    if len(closed) < full:
                        closed.append(near.fileno())
                        near.close()
                        continue
                    place = ("127.0.0.1", port)
                    far = stack.enter_context(socket.create_connection(place))
                    start(pump, near, far)
                    start(pump, far, near)

        start(serve)
        yield listener.getsockname()[1], closed
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(20)


def test_a_board_tries_again_while_the_coordinator_is_full(pki, tmp_path):
    token = identity.read_token(tokens.new_token(pki, 9))
    with enrolling_at(pki) as port, front(port, full=3) as (door, closed):
        board = identity.enroll(f"127.0.0.1:{door}", token, tmp_path / "board")
    assert board.client == 9 and len(closed) == 3


def test_a_coordinator_that_stays_full_is_said_to_be(pki, tmp_path, monkeypatch):
    monkeypatch.setattr(enrolling, "BUSY_S", 0.3)
    token = identity.read_token(tokens.new_token(pki, 9))
    with (
        front(1, full=10**6) as (door, closed),
        pytest.raises(RunError, match="it has too many now") as refusal,
    ):
        identity.enroll(f"127.0.0.1:{door}", token, tmp_path / "board")
    assert "try again in a minute" in str(refusal.value) and len(closed) > 1
    # Nobody heard the token, so it still works.
    assert tokens.redeem(pki, token.secret) == 9
