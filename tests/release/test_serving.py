"""The registry's server ends connections that say nothing, and answers the others."""

import contextlib
import socket
import subprocess
import sys

import pytest

from fedlearn.release import access

CODE = """
import sys
from fedlearn.commands.registry import main
from fedlearn.release import serving
serving.HEAD_S = 0.3
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    token = access.new_token(folder / "tokens", "board", access.READ)
    command = [
        sys.executable,
        "-c",
        CODE,
        "serve",
        "--registry",
        str(folder / "registry"),
    ]
    command += ["--token-file", str(folder / "tokens"), "--insecure", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    yield ("127.0.0.1", int(line.rsplit(":", 1)[1])), token
    process.terminate()
    # It ends in order, as a service has to.
    assert process.wait(20) in (0, -15)
    process.stdout.close()


@pytest.mark.parametrize("begin", [b"", b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_does_not_come_ends_the_connection(place, begin):
    with socket.create_connection(place[0], timeout=60) as silent:
        silent.sendall(begin)
        assert silent.recv(1000) == b""


def test_a_second_request_on_one_connection_is_waited_for_as_long(place):
    address, token = place
    head = (
        f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    with socket.create_connection(address, timeout=60) as connection:
        for _ in range(3):
            connection.sendall(head.encode())
            answer = b""
            while b'{"models":[]}' not in answer:
                piece = connection.recv(4000)
                assert piece, answer
                answer += piece
            assert answer.startswith(b"HTTP/1.1 200")
        # Half of a fourth one, and no more.
        connection.sendall(head.encode()[:30])
        assert connection.recv(1000) == b""


def test_a_head_without_end_is_refused(place):
    with socket.create_connection(place[0], timeout=60) as endless:
        endless.sendall(b"GET / HTTP/1.1\r\nA: " + b"x" * 200_000)
        answer = b""
        # Closed with bytes that nobody read, a connection may also be reset.
        with contextlib.suppress(ConnectionResetError):
            while piece := endless.recv(4000):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 400") or not answer


def test_a_port_that_is_taken_is_one_line(place, tmp_path, capsys):
    from fedlearn.commands.registry import main

    access.new_token(tmp_path / "tokens", "board", access.READ)
    options = [
        "--registry",
        str(tmp_path / "r"),
        "--token-file",
        str(tmp_path / "tokens"),
    ]
    port = str(place[0][1])
    assert main(["serve", *options, "--insecure", "--port", port]) == 2
    error = capsys.readouterr().err
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in error
    assert error.count("\n") == 1
