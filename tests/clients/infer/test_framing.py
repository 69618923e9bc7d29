"""Requests out of bytes: what is one, what is none, and in pieces of any size."""

import random

import pytest

from fedlearn.clients.infer.framing import Framing, HttpLimits
from fedlearn.clients.infer.refusal import Refusal
from tests.clients.infer.hostile import CORPUS, compared, mutated

LIMITS = HttpLimits(head_bytes=512, headers=8, body_bytes=64)


def requests(data: bytes, step: int | None = None, limits: HttpLimits = LIMITS):
    """Return all requests of some bytes, which come in pieces of ``step``."""
    framing = Framing(limits)
    out = []
    for start in range(0, len(data), step or len(data)):
        framing.feed(data[start : start + (step or len(data))])
        while (request := framing.next()) is not None:
            out.append(request)
    return out


def refusal(data: bytes, limits: HttpLimits = LIMITS) -> Refusal:
    with pytest.raises(Refusal) as caught:
        requests(data, limits=limits)
    return caught.value


@pytest.mark.parametrize("step", [None, 1, 2, 7])
def test_requests_come_in_pieces_of_any_size(step):
    data = (
        b"POST /a?b=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nX: 1\r\nx:  2 \r\n\r\nabc"
        b"\r\nGET http://h/c HTTP/1.0\r\n\r\n"
        b"PUT /d HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
        b"4\r\nwxyz\r\n2;e=1\r\n01\r\n0\r\nt: 1\r\n\r\n"
        b"GET /e HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
    )
    a, c, d, e = requests(data, step)
    assert (a.method, a.path, a.query, a.body) == (b"POST", b"/a", b"b=1", b"abc")
    assert a.headers[b"x"] == b"1, 2"
    assert (c.path, c.keep_alive) == (b"/c", False)
    assert (d.body, d.keep_alive) == (b"wxyz01", True)
    assert (e.path, e.keep_alive) == (b"/e", False)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\n folded: 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\0\r\n\r\n", 400),
        (b"P / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
        (b"P / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n", 400),
        (
            b"P / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            400,
        ),
        (
            b"P / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"P / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"P / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"P / HTTP/1.1\r\nHost: h\r\nExpect: much\r\n\r\n", 417),
        (b"P / HTTP/1.1\r\nHost: h\r\nContent-Length: 65\r\n\r\n", 413),
        (b"P / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n41\r\n", 413),
        (b"P / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (b"P / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a: b\r\n" * 8 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: " + b"h" * 512, 431),
        (b"GET /" + b"a" * 600 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01", 400),  # TLS
    ],
)
def test_what_is_no_request_is_refused_by_its_status(data, status):
    assert refusal(data).status == status


def test_many_small_chunks_may_not_pass_the_limit_together():
    head = b"P / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert len(requests(head + b"1\r\nx\r\n" * 64 + b"0\r\n\r\n")[0].body) == 64
    assert refusal(head + b"1\r\nx\r\n" * 65).status == 413


def test_a_client_that_waits_is_told_once_to_go_on():
    framing = Framing(LIMITS)
    framing.feed(
        b"P / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    assert framing.next() is None
    assert framing.take_continue() is True
    assert framing.take_continue() is False
    framing.feed(b"ab")
    request = framing.next()
    assert request is not None and request.body == b"ab"


def test_what_is_accepted_means_the_same_to_another_reader():
    """h11 reads it as we do: otherwise a proxy and this server could be played apart."""
    draw = random.Random(1)
    counts = {"same": 0, "refused": 0}
    for _ in range(1500):
        counts[compared(mutated(draw.choice(CORPUS), draw))] += 1
    assert counts["same"] > 100 and counts["refused"] > 100
