"""A link whose bandwidth changes: nothing is lost, and nothing comes while it is dead."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from fedlearn.scenarios.radio import Radio, RadioThread

DATA = bytes(range(256)) * 2000


async def echo(reader, writer):
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            writer.write(piece)
    writer.close()


def carried(rate: float, dead_first: bool) -> tuple[bool, bytes]:
    """Return whether anything came while the link was dead, and all that came back."""

    async def go():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        radio = Radio(server.sockets[0].getsockname()[1], 0.002)
        port = await radio.open()
        radio.rate = 0.0 if dead_first else rate
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(DATA)
        early = False
        if dead_first:
            with pytest.raises(asyncio.TimeoutError):
                early = bool(await asyncio.wait_for(reader.read(1), 0.2))
            radio.rate = rate
        data = await asyncio.wait_for(reader.readexactly(len(DATA)), 30.0)
        writer.close()
        radio.close()
        server.close()
        # The relay's ends reach the server.
        await asyncio.sleep(0.1)
        return early, data

    return asyncio.run(go())


def test_all_bytes_come_in_their_order():
    assert carried(1e9, dead_first=False) == (False, DATA)


def test_bytes_wait_while_the_link_is_dead():
    assert carried(1e9, dead_first=True) == (False, DATA)


def test_a_thread_has_the_link_and_counts_what_came_back():
    with echoing() as port:
        radio = Radio(port, 0.0, piece_bytes=16)
        thread = RadioThread(radio)
        try:
            # The rate is such that 800 bytes take half a second each way, at least.
            radio.rate = 2 * 8 * 800
            began_s = time.monotonic()
            with socket.create_connection(("127.0.0.1", thread.port), 30.0) as end:
                end.sendall(bytes(800))
                data = b""
                while len(data) < 800:
                    data += end.recv(800)
        finally:
            thread.close()
    assert sum(size for _, size in radio.came) == 800
    assert max(size for _, size in radio.came) <= 16
    assert radio.came[-1][0] - began_s > 0.5


def test_what_is_on_its_way_to_who_has_gone_does_not_take_up_the_link():
    with echoing() as port:
        radio = Radio(port, 0.0, piece_bytes=16)
        thread = RadioThread(radio)
        try:
            radio.rate = 8 * 1000
            # At this rate the echo of it takes 100 s.
            with socket.create_connection(("127.0.0.1", thread.port), 30.0) as gone:
                gone.sendall(bytes(100_000))
                assert gone.recv(1)
            radio.rate = 1e9
            with socket.create_connection(("127.0.0.1", thread.port), 30.0) as end:
                end.sendall(b"here")
                assert end.recv(4) == b"here"
        finally:
            thread.close()


@contextlib.contextmanager
def echoing():
    """Yield a port of a thread that sends back what comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(
                        target=answer, args=(connection,), daemon=True
                    ).start()

        def answer(connection):
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(1 << 16):
                    connection.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
