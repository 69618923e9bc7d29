"""Connections: order, ends, and every limit, over real sockets."""

import asyncio
import json
import re
import socket

import pytest

from fedlearn.clients.infer.framing import HttpLimits
from fedlearn.clients.infer.http import ConnectionLimits
from tests.clients.infer.graphs import scaled
from tests.clients.infer.serving import HEAD, closed, serving


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return scaled(tmp_path_factory.mktemp("model") / "scaled.onnx")


def infer(number: float, *lines: bytes) -> bytes:
    entry = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [number, 0, 0]}
    body = json.dumps({"id": str(number), "inputs": [entry]}).encode()
    fields = b"".join(line + b"\r\n" for line in lines)
    return HEAD + fields + b"content-length: %d\r\n\r\n" % len(body) + body


CLOSE = b"connection: close"


def exchanged(model, data: bytes, **options) -> bytes:
    async def ask():
        async with serving(model, **options) as here:
            return await here.exchange(data)

    return asyncio.run(ask())


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+)", answer)]


def test_pipelined_requests_are_answered_in_their_order(model):
    page = b"GET /v2 HTTP/1.1\r\nhost: h\r\n\r\n"
    data = b"".join(infer(n) + page for n in range(40)) + infer(40, CLOSE)
    answer = exchanged(model, data)
    assert statuses(answer) == [200] * 81
    assert re.findall(rb'"id":"(\d+)"|"extensions"', answer)[:4] == [
        b"0",
        b"",
        b"1",
        b"",
    ]
    ids = [int(word) for word in re.findall(rb'"id":"(\d+)"', answer)]
    assert ids == list(range(41))


def test_a_client_that_sends_no_more_is_answered(model):
    async def ask():
        async with serving(model) as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(infer(1) + infer(2))
            writer.write_eof()
            answer = await reader.read()
            await closed(writer)
            return answer

    assert statuses(asyncio.run(ask())) == [200, 200]


def test_head_has_the_length_and_no_body(model):
    head = b"HEAD /v2 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
    answer = exchanged(model, head)
    assert answer.endswith(b"\r\n\r\n")
    whole = exchanged(model, head.replace(b"HEAD", b"GET"))
    assert answer == whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def test_an_expected_100_comes_before_the_body_is_sent(model):
    async def ask():
        async with serving(model) as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            head, _, body = infer(3, b"expect: 100-continue", CLOSE).partition(
                b"\r\n\r\n"
            )
            writer.write(head + b"\r\n\r\n")
            interim = await reader.readuntil(b"\r\n\r\n")
            writer.write(body)
            answer = await reader.read()
            await closed(writer)
            return interim, answer

    interim, answer = asyncio.run(ask())
    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert statuses(answer) == [200]


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"nonsense\r\n\r\n", 400, "no request line"),
        (HEAD + b"content-length: 9999\r\n\r\n", 413, "--body-bytes"),
        (HEAD + b"a: " + b"b" * 3000, 431, "head has more"),
        (HEAD + b"a: b\r\n" * 30 + b"\r\n", 431, "more than 20 headers"),
        (HEAD + b"expect: x\r\n\r\n", 417, "100-continue"),
    ],
)
def test_what_is_beyond_a_limit_is_answered_and_ends(model, data, status, words):
    framing = HttpLimits(head_bytes=2048, headers=20, body_bytes=1024)
    # What was sound before it is answered first.
    answer = exchanged(model, infer(1) + data, framing=framing)
    assert statuses(answer) == [200, status]
    assert words in answer.decode()
    assert b"connection: close" in answer


def test_methods_that_a_path_does_not_have(model):
    get = b"GET /v2/models/m/infer HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
    answer = exchanged(model, get)
    assert statuses(answer) == [405] and b"allow: POST" in answer
    post = b"POST /v2 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
    answer = exchanged(model, post)
    assert statuses(answer) == [405] and b"allow: GET, HEAD" in answer


def test_slow_and_idle_clients_are_ended(model):
    limits = ConnectionLimits(idle_s=0.1, request_s=0.1)

    async def ask():
        async with serving(model, limits=limits) as here:
            slow = asyncio.create_task(here.exchange(HEAD))
            idle = asyncio.create_task(here.exchange(b""))
            answers = await slow, await idle
            while here.http.connections:
                await asyncio.sleep(0.01)
            return answers

    slow, idle = asyncio.run(ask())
    assert statuses(slow) == [408] and b"took too long" in slow
    assert idle == b""


def test_a_client_that_takes_no_answers_costs_no_memory_and_ends(model):
    """It asks for 50 MB of answers and reads none."""
    limits = ConnectionLimits(answer_s=0.1)

    async def ask():
        async with serving(model, limits=limits) as here:
            entry = socket.create_connection(("127.0.0.1", here.port))
            entry.setblocking(False)
            page = b"GET /status HTTP/1.1\r\nhost: h\r\n\r\n" * 200_000
            loop = asyncio.get_running_loop()
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(loop.sock_sendall(entry, page), 60)
            entry.close()
            while here.http.connections:
                await asyncio.sleep(0.01)

    asyncio.run(ask())


def test_connections_are_counted_and_turned_away(model):
    limits = ConnectionLimits(connections=2)

    async def ask():
        async with serving(model, limits=limits) as here:
            pairs = [
                await asyncio.open_connection("127.0.0.1", here.port) for _ in range(2)
            ]
            while len(here.http.connections) < 2:
                await asyncio.sleep(0.01)
            third = await here.exchange(b"")
            for _, writer in pairs:
                await closed(writer)
            while here.http.connections:
                await asyncio.sleep(0.01)
            return third, await here.exchange(infer(1, CLOSE)), here.served.measures

    third, fourth, measures = asyncio.run(ask())
    assert statuses(third) == [503] and b"retry-after: 1" in third
    assert statuses(fourth) == [200]
    assert measures.refused["connections"] == 1


def test_one_address_cannot_take_all_connections(model):
    async def ask():
        async with serving(model, limits=ConnectionLimits(per_address=1)) as here:
            first = here.http.connection()
            second = here.http.connection()
            assert here.http.admit(first, "192.0.2.1") == ""
            assert here.http.admit(second, "192.0.2.1") == "address"
            # This machine's own clients are not told apart by it.
            assert here.http.admit(second, "") == ""
            here.http.forget(first, "192.0.2.1")
            here.http.forget(second, "")
            assert not here.http.addresses

    asyncio.run(ask())


def test_requests_that_are_coming_are_bounded_together(model):
    limits = ConnectionLimits(held_bytes=50_000)

    async def ask():
        async with serving(model, limits=limits) as here:
            part = HEAD + b"content-length: 90000\r\n\r\n" + b"x" * 30_000
            _, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(part)
            while here.http.held_bytes < 30_000:
                await asyncio.sleep(0.01)
            answer = await here.exchange(part)
            assert here.http.held_bytes <= 30_000
            await closed(writer)
            return answer

    answer = asyncio.run(ask())
    assert statuses(answer) == [503] and b"retry-after" in answer
