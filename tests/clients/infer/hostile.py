"""Hostile HTTP: ``python -m tests.clients.infer.hostile [--count N] [--seed N] [--sockets]``.

Sound requests are damaged and read by the server's own parser and protocol, in this process
and through a real model. Each must be answered, refused, or wait for more: nothing may be
raised, take long, or stay in memory. What is accepted must mean the same to another reader
of HTTP (h11). ``--sockets`` sends some to a server of its own as well, slowly, by halves
and oversized.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import h11
import numpy as np

from fedlearn.clients.infer.framing import Framing, HttpLimits
from fedlearn.clients.infer.refusal import Refusal

LIMITS = HttpLimits(head_bytes=2048, headers=20, body_bytes=4096)
LONG_S = 1.0
"""Seconds of processor time that one request may take."""


def _request(head: str, body: bytes = b"") -> bytes:
    lines = f"{head}\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
    return lines.encode() + body


def _binary(values: np.ndarray, **more) -> bytes:
    entry = {
        "name": "x",
        "shape": list(values.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": values.nbytes},
    }
    head = json.dumps({"id": "1", "inputs": [entry], **more}).encode()
    line = f"POST /v2/models/m/infer HTTP/1.1\r\nInference-Header-Content-Length: {len(head)}"
    return _request(line, head + values.tobytes())


def _json(**more) -> bytes:
    entry = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.5, -2, 3e2]}
    body = json.dumps({"id": "a", "inputs": [{**entry, **more}]}).encode()
    return _request("POST /v2/models/m/infer HTTP/1.1", body)


_VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)
CORPUS = [
    _json(),
    _json(data=[[1, 2, 3]]),
    _json(datatype="UINT8", data=[0, 1, 255]),
    _binary(_VALUES),
    _binary(_VALUES, parameters={"binary_data_output": True, "timeout": 10_000_000}),
    _binary(_VALUES, outputs=[{"name": "y", "parameters": {"classification": 2}}]),
    _request("GET /v2 HTTP/1.1"),
    _request("GET /v2/models/m/versions/1/ready HTTP/1.1"),
    _request("HEAD /v2/health/live HTTP/1.1"),
    _request("GET http://h:80/metrics?a=b HTTP/1.1"),
    _request("DELETE /v2/models/m/infer HTTP/1.0"),
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nabcde\r\n10\r\n0123456789abcdef\r\n0\r\nT: x\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nConnection: close\r\n"
    b"Content-Length: 4\r\n\r\nabcd",
]

WORDS = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"\r\n\r\n",
        b"\xff",
    ),
    *(b"chunked", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n"),
    *(b"Content-Length: 99999999999999999999\r\n", b"Expect: 100-continue\r\n"),
    *(b"Connection: close\r\n", b"HTTP/1.0", b"HTTP/1.1", b"HTTP/9.9", b"Host: x\r\n"),
    *(
        b"ffffffff\r\n",
        b"0\r\n\r\n",
        b"-1",
        b"1e400",
        b"NaN",
        b"null",
        b"[[[[[[[[",
        b"{}",
    ),
    *(b'"shape":[-1]', b'"shape":[2147483647,2147483647]', b'"data":[]', b'"x"'),
    *(b'"datatype":"BYTES"', b'"binary_data_size":-1', b"9" * 400, b"\xed\xa0\x80"),
    *(b"/../../etc/passwd", b"%00", b"*", b"http://", b"\x16\x03\x01"),
)


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return a damaged copy: bytes changed, cut, doubled, moved, or words put in."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        place = draw.randrange(len(out) + 1)
        kind = draw.randrange(6)
        if kind == 0 and out:
            out[place % len(out)] = draw.randrange(256)
        elif kind == 1:
            out[place:place] = draw.choice(WORDS)
        elif kind == 2:
            del out[place : place + draw.randrange(1, 12)]
        elif kind == 3:
            end = place + draw.randrange(1, 40)
            out[place:place] = out[place:end]
        elif kind == 4 and out:
            out[place % len(out)] ^= 1 << draw.randrange(8)
        else:
            other = draw.choice(CORPUS)
            start = draw.randrange(len(other))
            out[place:] = other[start:]
    return bytes(out)


def compared(data: bytes) -> str:
    """Return "same" where both readers read the same requests, "refused" where we refuse.

    Raises AssertionError where we accept what h11 refuses or reads otherwise.
    """
    framing = Framing(LIMITS)
    framing.feed(data)
    other = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    other.receive_data(data)
    while True:
        try:
            request = framing.next()
        except Refusal:
            return "refused"
        if request is None:
            return "same"
        try:
            _check_same(request, other, data)
        except h11.RemoteProtocolError as error:
            # Empty lines before a request, which h11 takes for an empty request.
            if "no request line" in str(error):
                return "refused"
            raise AssertionError(data) from error
        if not request.keep_alive:
            return "same"


def _check_same(request, other: h11.Connection, data: bytes) -> None:
    event = other.next_event()
    assert isinstance(event, h11.Request), data
    assert event.method == request.method, data
    target = request.path + (b"?" + request.query if request.query else b"")
    assert target.rstrip(b"?") in event.target, data
    body = b""
    while not isinstance(event := other.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data), (event, data)
        body += bytes(event.data)
    assert body == request.body, data
    # The other reader goes on only after an answer.
    status = h11.Response(status_code=200, headers=[("content-length", "0")])
    other.send(status)
    other.send(h11.EndOfMessage())
    if request.keep_alive:
        other.start_next_cycle()


class _Transport(asyncio.Transport):
    """A connection's other end in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_extra_info(self, name, default=None):
        return ("127.0.0.1", 1) if name == "peername" else default

    def set_write_buffer_limits(self, high=None, low=None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True


async def fuzz(model: Path, count: int, seed: int, say=print) -> Counter[str]:
    """Send so many damaged requests to a server of this process; returns the statuses.

    Raises AssertionError for one that raises, takes long, or leaves memory behind.
    """
    from tests.clients.infer.serving import serving

    statuses: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    raised: list[dict] = []
    loop.set_exception_handler(lambda loop, context: raised.append(context))
    begin = time.monotonic()
    async with serving(model, framing=LIMITS) as here:
        for number in range(count):
            draw = random.Random(seed * 1_000_003 + number)
            data = mutated(draw.choice(CORPUS), draw)
            status = await _sent(here, data, draw)
            assert not raised, (number, data, raised)
            statuses[status] += 1
            if number % 4 == 0:
                compared(data)
            if number % 50_000 == 49_999:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
                rate = number / (time.monotonic() - begin)
                say(f"{number + 1} requests, {rate:.0f}/s, peak {peak} MB", flush=True)
        assert not here.http.connections
        assert here.http.held_bytes == 0
        assert here.served.batcher.waiting_rows == 0
    return statuses


async def _sent(here, data: bytes, draw: random.Random) -> str:
    """Send bytes over one connection, in one to three pieces; returns the first status."""
    connection = here.http.connection()
    transport = _Transport()
    connection.connection_made(transport)
    begin = time.process_time()
    cuts = sorted(draw.randrange(len(data) + 1) for _ in range(draw.randrange(3)))
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        buffer = connection.get_buffer(-1)
        piece = data[start:end]
        buffer[: len(piece)] = piece
        connection.buffer_updated(len(piece))
    # What is queued is answered in the next turns of the loop.
    while not here.served.batcher.is_idle:
        await asyncio.sleep(0)
    duration_s = time.process_time() - begin
    assert duration_s < LONG_S, (duration_s, data)
    connection.connection_lost(None)
    if not transport.written:
        return "waits"
    assert transport.written.startswith(b"HTTP/1.1 "), transport.written
    return transport.written[9:12].decode()


def attack(port: int, count: int, seed: int) -> Counter[str]:
    """Send damaged requests over real sockets, and hold others half open; returns statuses."""
    statuses: Counter[str] = Counter()
    held = [_half_open(port, number) for number in range(40)]
    for number in range(count):
        draw = random.Random(seed * 7_919 + number)
        data = mutated(draw.choice(CORPUS), draw)
        if number % 10 == 0:
            data = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n" + draw.choice(
                (
                    b"Content-Length: 99999999\r\n\r\n" + b"x" * 100_000,
                    b"a: " + b"b" * 200_000,
                    b"a: b\r\n" * 5000,
                    b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 30_000,
                )
            )
        statuses[_tried(port, data)] += 1
    for entry in held:
        entry.close()
    return statuses


def _half_open(port: int, number: int) -> socket.socket:
    entry = socket.create_connection(("127.0.0.1", port))
    entry.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n"[: 5 + number])
    return entry


def _tried(port: int, data: bytes) -> str:
    """Send bytes, end, and return the status; a reset counts as one."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as entry:
        try:
            entry.sendall(data)
            entry.shutdown(socket.SHUT_WR)
            answer = entry.recv(65536)
        except (ConnectionError, OSError) as error:
            # Some end without a word, as programs that crash do.
            entry.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            return type(error).__name__
    return answer[9:12].decode() or "closed"


def over_sockets(model: Path, count: int, seed: int) -> None:
    """Attack a server in a process of its own, and see that it goes on, and stays small."""
    from tests.clients.infer.serving import process

    with process(model, "--port", "0") as server:
        port = server.port()
        before = _memory_mb(server.popen.pid)
        statuses = attack(port, count, seed)
        after = _memory_mb(server.popen.pid)
        sound = _tried(port, CORPUS[0])
        print(f"sockets: {dict(statuses.most_common())}")
        print(f"sockets: {before} MB before, {after} MB after, then {sound}")
        assert sound == "200" and after < before + 64
        server.popen.terminate()
        assert server.popen.wait(30) == 0


def _memory_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run the fuzzer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sockets", type=int, default=0, metavar="N")
    given = parser.parse_args(argv)
    from tests.clients.infer.graphs import scaled

    with tempfile.TemporaryDirectory() as folder:
        model = scaled(Path(folder) / "model.onnx")
        statuses = asyncio.run(fuzz(model, given.count, given.seed))
        print(f"{given.count} requests: {dict(statuses.most_common())}")
        if given.sockets:
            over_sockets(model, given.sockets, given.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
