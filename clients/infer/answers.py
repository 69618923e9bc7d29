"""Answers of HTTP, and the bytes that they are on a connection."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fedlearn.clients.infer.refusal import Refusal
from fedlearn.errors import one_line

JSON = "application/json"
BINARY = "application/octet-stream"

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


@dataclass(slots=True)
class HttpAnswer:
    """An answer. headers: besides those of its length, its type and the connection."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    def encoded(self, keep_alive: bool, is_head: bool) -> bytes:
        """Return the answer as bytes; is_head: without the body, whose length is told.

        It has no date: a board may have no clock (RFC 9110, section 6.6.1).
        """
        lines = [b"HTTP/1.1 %d %b" % (self.status, _PHRASES[self.status])]
        lines.append(b"content-length: %d" % len(self.body))
        if self.body:
            lines.append(b"content-type: " + self.content_type.encode())
        for name, value in self.headers:
            lines.append(f"{name}: {value}".encode("latin-1"))
        if not keep_alive:
            lines.append(b"connection: close")
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        return head if is_head else head + self.body


def of_json(value: Any, status: int = 200) -> HttpAnswer:
    """Return a JSON answer."""
    return HttpAnswer(status, json.dumps(value).encode())


def of_refusal(refusal: Refusal) -> HttpAnswer:
    """Return what the protocol has for an error: an object with one sentence."""
    answer = of_json({"error": one_line(refusal)}, refusal.status)
    if refusal.retry_s is not None:
        answer.headers = (("retry-after", str(refusal.retry_s)),)
    return answer
