"""HTTP/1.1 requests out of bytes (RFC 9112): strict, bounded, and without a socket.

What two readers could understand differently is refused, because a proxy before this
server may be the other one: bare line feeds, folded lines, two lengths, and spaces before
a colon. `tests/clients/infer/hostile.py` compares it with another reader over mutations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from fedlearn.clients.infer.refusal import Refusal, bad

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) HTTP/(\d)\.(\d)")
# In one pass in C over all lines. No byte fits in two ways, so it takes linear time.
_FIELD_LINES = re.compile(rb"(?:" + _TOKEN + rb":[\t -~\x80-\xff]*\r\n)*")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[\t -~\x80-\xff]*)?")
_LENGTH = re.compile(rb"\d{1,15}")
_AUTHORITY = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)

# Of the line before a chunk; extensions of chunks are read over.
_CHUNK_LINE_BYTES = 256

_END = b"\r\n\r\n"


@dataclass(frozen=True)
class HttpLimits:
    """What one request may have. body_bytes: after chunks are put together."""

    # An ordinary head has 300 bytes; browsers with cookies send some kilobytes.
    head_bytes: int = 16 << 10
    headers: int = 64
    body_bytes: int = 16 << 20


# Not frozen, and with slots: one is made for each request.
@dataclass(slots=True)
class HttpRequest:
    """One request. path, query: as they came, escapes included. headers: names in lower case."""

    method: bytes
    path: bytes
    query: bytes
    headers: dict[bytes, bytes]
    keep_alive: bool
    body: bytes = b""


@dataclass(slots=True)
class _Coming:
    """A request whose head is here. length: of its body in bytes; None: it has chunks."""

    request: HttpRequest
    length: int | None
    waits: bool
    body: bytearray = field(default_factory=bytearray)
    in_trailer: bool = False


class Framing:
    """One connection's bytes, as requests in their order."""

    def __init__(self, limits: HttpLimits) -> None:
        """Begin with a connection's first byte."""
        self._limits = limits
        self._buffer = bytearray()
        # Up to here the buffer has been searched for the end of a head.
        self._searched = 0
        self._coming: _Coming | None = None

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes as they come, in pieces of any size."""
        self._buffer += data

    @property
    def held_bytes(self) -> int:
        """Return how many bytes of requests that are not whole lie here."""
        coming = len(self._coming.body) if self._coming else 0
        return len(self._buffer) + coming

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing of a next request has come."""
        return not self._buffer and self._coming is None

    def take_continue(self) -> bool:
        """Tell, once, whether the client waits for "100 Continue" before it sends a body."""
        coming = self._coming
        if coming is None or not coming.waits:
            return False
        coming.waits = False
        # Who has begun to send does not wait.
        return not self._buffer

    def next(self) -> HttpRequest | None:
        """Return the next request; None: it is not whole yet.

        Raises Refusal for what is no request or beyond the limits. Nothing that follows
        can be read then: where it would begin is unknown.
        """
        if self._coming is None:
            head = self._take_head()
            if head is None:
                return None
            self._coming = self._begun(head)
        coming = self._coming
        body = self._take_body(coming)
        if body is None:
            return None
        self._coming = None
        coming.request.body = body
        return coming.request

    def _take_head(self) -> bytes | None:
        """Return a head's bytes without the empty line; None: it is not whole yet."""
        buffer = self._buffer
        # Some clients send an empty line after a body (RFC 9112, section 2.2).
        while buffer.startswith(b"\r\n"):
            del buffer[:2]
        end = buffer.find(_END, self._searched)
        if end > self._limits.head_bytes or (
            end < 0 and len(buffer) > self._limits.head_bytes
        ):
            raise Refusal(
                431,
                "too_large",
                f"the head has more than {self._limits.head_bytes} bytes",
            )
        if end < 0:
            # The end may have begun to come.
            self._searched = max(0, len(buffer) - len(_END) + 1)
            _check_first(buffer)
            return None
        head = bytes(buffer[: end + 2])
        del buffer[: end + len(_END)]
        self._searched = 0
        return head

    def _begun(self, head: bytes) -> _Coming:
        """Return a request whose body comes next; raises Refusal."""
        line, _, fields = head.partition(b"\r\n")
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise bad("the request line is no request line of HTTP/1.1")
        method, target, major, minor = match.groups()
        if major != b"1":
            raise Refusal(505, "unsupported", "this server speaks HTTP/1.1 only")
        headers = _headers(fields, self._limits.headers)
        is_old = minor == b"0"
        if not is_old and b"host" not in headers:
            raise bad("a request of HTTP/1.1 needs one Host header")
        path, _, query = _own_part(target).partition(b"?")
        words = headers.get(b"connection", b"").lower()
        keep_alive = b"keep-alive" in words if is_old else b"close" not in words
        request = HttpRequest(method, path, query, headers, keep_alive)
        length = _body_length(headers, is_old)
        if length is not None and length > self._limits.body_bytes:
            raise self._too_large()
        return _Coming(request, length, _expects_continue(headers, is_old))

    def _take_body(self, coming: _Coming) -> bytes | None:
        """Return a request's whole body; None: it is not all here."""
        buffer = self._buffer
        if coming.length is None:
            while not coming.in_trailer:
                if not self._take_chunk(coming):
                    return None
            return self._after_trailer(coming)
        if len(buffer) < coming.length:
            return None
        body = bytes(buffer[: coming.length])
        del buffer[: coming.length]
        return body

    def _take_chunk(self, coming: _Coming) -> bool:
        """Move one chunk into the body; False: it is not all here. Raises Refusal."""
        buffer = self._buffer
        end = buffer.find(b"\r\n", 0, _CHUNK_LINE_BYTES)
        if end < 0:
            if len(buffer) >= _CHUNK_LINE_BYTES:
                raise bad("the line before a chunk is too long")
            return False
        match = _CHUNK_LINE.fullmatch(buffer, 0, end)
        if match is None:
            raise bad("the line before a chunk has no length in hexadecimal digits")
        length = int(match[1], 16)
        if len(coming.body) + length > self._limits.body_bytes:
            raise self._too_large()
        if length == 0:
            del buffer[: end + 2]
            coming.in_trailer = True
            return True
        last = end + 2 + length
        if len(buffer) < last + 2:
            return False
        if buffer[last : last + 2] != b"\r\n":
            raise bad("a chunk is longer than its line says")
        coming.body += buffer[end + 2 : last]
        del buffer[: last + 2]
        return True

    def _after_trailer(self, coming: _Coming) -> bytes | None:
        """Return the body once the lines after the last chunk are here; they mean nothing."""
        buffer = self._buffer
        if buffer.startswith(b"\r\n"):
            del buffer[:2]
            return bytes(coming.body)
        end = buffer.find(_END)
        if end < 0:
            if len(buffer) > self._limits.head_bytes:
                raise Refusal(
                    431, "too_large", "the trailer after the body is too long"
                )
            return None
        _headers(bytes(buffer[: end + 2]), self._limits.headers)
        del buffer[: end + len(_END)]
        return bytes(coming.body)

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            "too_large",
            f"the body has more than {self._limits.body_bytes} bytes; send fewer samples "
            "at once, or raise --body-bytes",
        )


def _own_part(target: bytes) -> bytes:
    """Return a target without scheme and host, as a proxy may send them; raises Refusal."""
    if not target.startswith(b"/"):
        target = _AUTHORITY.sub(b"", target, count=1) or b"/"
    if not target.startswith(b"/") and target != b"*":
        raise bad("the request's target is no path: it must begin with /")
    return target


def _check_first(buffer: bytearray) -> None:
    """Refuse what cannot become a request, such as TLS, at once and not by a timeout."""
    if buffer and not (buffer[:1].isalpha() or buffer[:1] == b"\r"):
        raise bad("this is no request of HTTP/1.1; is the client speaking TLS?")


def _headers(lines: bytes, most: int) -> dict[bytes, bytes]:
    """Return a head's fields; raises Refusal for lines of another form and too many.

    A field that comes twice is one list (RFC 9110, section 5.3), but for those that say
    where a body ends or whom a request is for.
    """
    if _FIELD_LINES.fullmatch(lines) is None:
        raise bad("a header is no line 'Name: value'")
    if lines.count(b"\r\n") > most:
        raise Refusal(431, "too_large", f"the request has more than {most} headers")
    headers: dict[bytes, bytes] = {}
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        name = name.lower()
        value = value.strip(b" \t")
        if name in headers:
            if name in (b"content-length", b"transfer-encoding", b"host"):
                raise bad(f"the header {name.decode()} comes twice")
            value = headers[name] + b", " + value
        headers[name] = value
    return headers


def _body_length(headers: dict[bytes, bytes], is_old: bool) -> int | None:
    """Return a body's bytes; None: it comes in chunks. Raises Refusal."""
    length = headers.get(b"content-length")
    coding = headers.get(b"transfer-encoding")
    if coding is not None:
        # With both, two readers would see two different next requests.
        if length is not None or is_old:
            raise bad("Transfer-Encoding goes with HTTP/1.1 and without Content-Length")
        if coding.lower() != b"chunked":
            raise Refusal(
                501, "unsupported", "the only Transfer-Encoding known here is chunked"
            )
        return None
    if length is None:
        return 0
    if not _LENGTH.fullmatch(length):
        raise bad("Content-Length is no number of bytes")
    return int(length)


def _expects_continue(headers: dict[bytes, bytes], is_old: bool) -> bool:
    """Tell whether a client waits before it sends its body; raises Refusal."""
    expectation = headers.get(b"expect")
    # An old client cannot know the interim answer (RFC 9110, section 10.1.1).
    if expectation is None or is_old:
        return False
    if expectation.lower() != b"100-continue":
        raise Refusal(417, "unsupported", "the only Expect known here is 100-continue")
    return True
