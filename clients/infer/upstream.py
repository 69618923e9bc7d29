"""A larger model on another machine, asked by the Open Inference Protocol over HTTP.

Connections stay open, tensors go as bytes, and whatever goes wrong on the way is one
exception with one sentence: its caller answers by itself then.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from fedlearn.clients.infer import json_text, rest
from fedlearn.clients.infer.addresses import MODEL_NAME
from fedlearn.clients.infer.question import TIMEOUT, TIMING
from fedlearn.clients.infer.refusal import Refusal
from fedlearn.clients.infer.tensors import DATATYPES, Array, to_bytes
from fedlearn.errors import FedlearnError, UserError, reason_of

# What an answer may have; a model's outputs are small.
_MOST_HEAD_BYTES = 64 << 10
_MOST_BODY_BYTES = 64 << 20

# Connections that stay open while nothing is asked.
_IDLE_CONNECTIONS = 8

_MODEL_PATH = "/v2/models/"


class UpstreamError(FedlearnError):
    """The other machine did not answer, not in time, or with something else."""


class UpstreamLateError(UpstreamError):
    """No answer came within the time that it had."""


@dataclass(frozen=True)
class UpstreamAddress:
    """Where a model is. name: "": as the one that serves here is called."""

    host: str
    port: int
    is_secure: bool
    name: str = ""

    @property
    def text(self) -> str:
        """Return it as a person would write it."""
        scheme = "https" if self.is_secure else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"


@dataclass(frozen=True)
class UpstreamFiles:
    """PEM files. ca: whose machines are trusted; None: the system's. certificate: our own."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return what connections are made with; raises UserError for files that are none."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--upstream-ca, --upstream-cert, --upstream-key: {reason_of(error)}"
            ) from None
        return context


@dataclass(frozen=True)
class UpstreamAnswer:
    """What the other machine computed. service_s: how long it says that took; 0: it does not."""

    version: str
    outputs: dict[str, Array]
    service_s: float


@dataclass(frozen=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


def address_of(url: str) -> UpstreamAddress:
    """Return the address of ``http[s]://HOST:PORT[/v2/models/NAME]``. Raises UserError."""
    wrong = UserError(
        f"--upstream '{url}': give http://HOST:PORT or https://HOST:PORT, and "
        f"{_MODEL_PATH}NAME after it where the model has another name there"
    )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise wrong
    name = ""
    if parts.path not in ("", "/"):
        name = parts.path.removeprefix(_MODEL_PATH)
        if parts.path == name or not MODEL_NAME.fullmatch(name):
            raise wrong
    if parts.query or parts.fragment or parts.username:
        raise wrong
    is_secure = parts.scheme == "https"
    return UpstreamAddress(
        parts.hostname, port or (443 if is_secure else 80), is_secure, name
    )


class Upstream:
    """One model on another machine."""

    def __init__(
        self, address: UpstreamAddress, name: str, context: ssl.SSLContext | None = None
    ) -> None:
        """Connect to nothing yet. name: of the model, where the address has none."""
        self.address = address
        self.on_their_way = 0
        self._context = context if address.is_secure else None
        self._idle: list[_Connection] = []
        self._path = f"{_MODEL_PATH}{address.name or name}"

    async def infer(
        self, inputs: Mapping[str, Array], timeout_s: float
    ) -> UpstreamAnswer:
        """Return what the model makes of inputs. Raises UpstreamError, in time."""
        head, body = _question(inputs, timeout_s)
        request = (
            f"POST {self._path}/infer HTTP/1.1\r\nhost: {self.address.host}\r\n"
            f"inference-header-content-length: {len(head)}\r\n"
            f"content-length: {len(head) + len(body)}\r\n\r\n"
        ).encode()
        headers, answer = await self._within(request + head + body, timeout_s)
        try:
            return _answer(headers, answer)
        except (Refusal, ValueError, KeyError, TypeError) as error:
            raise UpstreamError(
                f"{self.address.text} answers what is no inference: {reason_of(error)}"
            ) from None

    async def ready_s(self, timeout_s: float) -> float:
        """Return how many seconds the model takes to say that it is ready.

        Raises UpstreamError.
        """
        request = (
            f"GET {self._path}/ready HTTP/1.1\r\nhost: {self.address.host}\r\n\r\n"
        )
        begin = time.perf_counter()
        await self._within(request.encode(), timeout_s)
        return time.perf_counter() - begin

    @property
    def open_connections(self) -> int:
        """Return how many connections are open, asked over or not."""
        return self.on_their_way + len(self._idle)

    async def connect(self, count: int) -> None:
        """Open connections until there are so many; what cannot be opened is none."""
        try:
            while self.open_connections < min(count, _IDLE_CONNECTIONS):
                self._idle.append(await self._opened())
        except (OSError, ValueError):
            # The next request finds out, and says it.
            return

    def close(self) -> None:
        """Close what stays open."""
        while self._idle:
            self._idle.pop().writer.close()

    async def _within(
        self, request: bytes, timeout_s: float
    ) -> tuple[dict[bytes, bytes], bytes]:
        """Return an answer's headers and body; raises UpstreamError."""
        self.on_their_way += 1
        try:
            return await asyncio.wait_for(self._exchange(request), timeout_s)
        # Until Python 3.11 it was no TimeoutError.
        except (asyncio.TimeoutError, TimeoutError):
            raise UpstreamLateError(
                f"{self.address.text} did not answer within {timeout_s:.3g} s"
            ) from None
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise UpstreamError(
                f"{self.address.text} does not answer: {reason_of(error)}"
            ) from None
        finally:
            self.on_their_way -= 1

    async def _exchange(self, request: bytes) -> tuple[dict[bytes, bytes], bytes]:
        """Send a request, over an open connection if there is one; raises what goes wrong."""
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._over(connection, request)
            # It was closed while nothing was asked. An inference may be asked twice.
            except (ConnectionError, asyncio.IncompleteReadError):
                continue
        return await self._over(await self._opened(), request)

    async def _opened(self) -> _Connection:
        """Return a new connection; raises OSError."""
        reader, writer = await asyncio.open_connection(
            self.address.host,
            self.address.port,
            ssl=self._context,
            limit=_MOST_HEAD_BYTES,
        )
        return _Connection(reader, writer)

    async def _over(
        self, connection: _Connection, request: bytes
    ) -> tuple[dict[bytes, bytes], bytes]:
        is_whole = False
        try:
            connection.writer.write(request)
            await connection.writer.drain()
            status, headers = _head(await connection.reader.readuntil(b"\r\n\r\n"))
            length = int(headers.get(b"content-length", b"-1"))
            if not 0 <= length <= _MOST_BODY_BYTES:
                raise ValueError("the answer has no length, or a huge one")
            body = await connection.reader.readexactly(length)
            is_whole = headers.get(b"connection", b"").lower() != b"close"
        finally:
            # What is not whole cannot carry another request, nor what was cancelled.
            if is_whole and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append(connection)
            else:
                connection.writer.close()
        if status != 200:
            raise UpstreamError(f"{self.address.text} {_refused(status, body)}")
        return headers, body


def _question(inputs: Mapping[str, Array], timeout_s: float) -> tuple[bytes, bytes]:
    """Return the JSON of a request, and the tensors that follow it."""
    entries = []
    blobs = []
    for name, tensor in inputs.items():
        blob = to_bytes(np.ascontiguousarray(tensor))
        blobs.append(blob)
        entries.append(
            {
                "name": name,
                "shape": list(tensor.shape),
                "datatype": DATATYPES[tensor.dtype],
                "parameters": {rest.SIZE: len(blob)},
            }
        )
    parameters = {
        "binary_data_output": True,
        TIMEOUT: max(1, int(1e6 * timeout_s)),
        TIMING: True,
    }
    head = json_text.dumps({"parameters": parameters, "inputs": entries})
    return head, b"".join(blobs)


def _answer(headers: Mapping[bytes, bytes], body: bytes) -> UpstreamAnswer:
    """Return what a body says; raises Refusal, ValueError, KeyError or TypeError."""
    length = headers.get(b"inference-header-content-length")
    size = len(body) if length is None else int(length)
    head = json_text.loads(body[:size])
    tail = memoryview(body)[size:]
    start = 0
    outputs = {}
    for value in head["outputs"]:
        name, tensor, start = rest.tensor(value, tail, start)
        outputs[name] = tensor
    parameters = head.get("parameters") or {}
    service_s = float(parameters.get(TIMING, 0)) / 1e6
    return UpstreamAnswer(str(head.get("model_version", "")), outputs, service_s)


def _head(data: bytes) -> tuple[int, dict[bytes, bytes]]:
    """Return an answer's status and its headers, names in lower case. Raises ValueError."""
    first, *lines = data[:-4].split(b"\r\n")
    version, _, remainder = first.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise ValueError("the answer is no HTTP/1.1")
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    return int(remainder[:3]), headers


def _refused(status: int, body: bytes) -> str:
    """Return what a refusal says, short."""
    try:
        value: Any = json_text.loads(body)
        reason = str(value["error"])
    except (ValueError, KeyError, TypeError):
        reason = "without a reason"
    return f"refused ({status}): {reason[:200]}"
