"""The registry's server: uvicorn with TLS, and connections that cannot be held without a word."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedlearn.errors import RunError, UserError

# What a connection may take for the head of a request; its body has a limit of its own.
HEAD_S = 15.0

# Connections at a time; more are told to come again (503).
MOST_CONNECTIONS = 200


@dataclass(frozen=True)
class Place:
    """Where the server listens. certificate, key: PEM files; None: without TLS."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None


class Impatient(H11Protocol):
    """uvicorn's own protocol, which ends a connection whose request does not come.

    uvicorn waits for ever for the rest of a head, so a few strangers would take all
    connections.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Go on waiting where the head is not whole yet, by the first moment's limit."""
        super().data_received(data)
        if self._is_answering:
            self._stop()
        elif self._timer is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop()
        super().connection_lost(exc)

    @property
    def _is_answering(self) -> bool:
        # None before the first request, whatever uvicorn's annotation says.
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def _wait(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self._expire)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        if not self._is_answering:
            self.transport.close()


def serve(app: FastAPI, place: Place, ready: Callable[[str], None]) -> None:
    """Serve until this process is told to end.

    ready: is called with the address once it listens; a port of 0 is any free one. Raises
    UserError for a place or a certificate that cannot be used.
    """
    config = uvicorn.Config(
        app,
        http=Impatient,
        # No part of the registry speaks it, and loading it takes time.
        ws="none",
        ssl_certfile=place.certificate,
        ssl_keyfile=place.key,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
    )
    try:
        # Reads the certificate.
        config.load()
    except OSError as error:
        raise UserError(
            f"--cert {place.certificate} --key {place.key}: {error.strerror or error}; give "
            "a certificate and its key (PEM), as fedlearn pki makes them"
        ) from None
    with _listening(place) as listener:
        kind = "http" if place.certificate is None else "https"
        host = f"[{place.host}]" if ":" in place.host else place.host
        ready(f"{kind}://{host}:{listener.getsockname()[1]}")
        server = uvicorn.Server(config)
        server.run(sockets=[listener])
    if not server.started:
        raise RunError("the registry could not begin to serve")


@contextlib.contextmanager
def _listening(place: Place) -> Iterator[socket.socket]:
    """Yield a socket that is bound. Raises UserError for a place that cannot be used."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((place.host, place.port))
            # From now on: who is told the address may call before uvicorn is ready.
            listener.listen(MOST_CONNECTIONS)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"cannot listen at {place.host}:{place.port}: {reason}; give another --host "
                "or --port"
            ) from None
        yield listener
    finally:
        listener.close()
