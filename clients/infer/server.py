"""The serving process: listens, answers, swaps its model, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlearn.clients.device import notify
from fedlearn.clients.infer import record
from fedlearn.clients.infer.batching import Batcher
from fedlearn.clients.infer.framing import HttpLimits
from fedlearn.clients.infer.http import ConnectionLimits, HttpServer
from fedlearn.clients.infer.joining import scores_place
from fedlearn.clients.infer.metrics import Measures
from fedlearn.clients.infer.model import ServedModel
from fedlearn.clients.infer.observer import Observer
from fedlearn.clients.infer.oip import OpenInference, Served
from fedlearn.clients.infer.pacing import Pacing
from fedlearn.clients.infer.placing import Placing, Way
from fedlearn.clients.infer.slot import ModelSlot
from fedlearn.clients.infer.tls import TlsFiles
from fedlearn.clients.infer.upstream import Upstream, UpstreamAddress, UpstreamFiles
from fedlearn.clients.placement import classes, routing
from fedlearn.clients.placement.place import Placer, PlaceSettings
from fedlearn.clients.placement.routing import Router
from fedlearn.errors import RunError, UserError

# Seconds in which what has begun is answered after SIGTERM.
GRACE_S = 10.0

# Seconds that a handshake of TLS may take.
_HANDSHAKE_S = 10.0

# A number takes 24 characters in JSON at most, as -1.7976931348623157e+308 with its comma.
_JSON_NUMBER_BYTES = 26

# What a body may have at least, and where samples can be of any length.
_LEAST_BODY_BYTES = 1 << 20
_OPEN_BODY_BYTES = 16 << 20

# How long the centre may take at least, where it is asked for what is unsure here.
_ROUTED_PATIENCE_S = 0.25

Say = Callable[[str], None]


@dataclass(frozen=True)
class InferSettings:
    """What the command's arguments say.

    model: a package, an .onnx file, or a record that names one. int8: a package's int8
    model. port: None: not by TCP.
    body_bytes: 0: by the model's input. deadline_s: of a request that says none itself.
    upstreams: larger models at the centre. routing: a file; None: by time.
    classes: a file of classes of service.
    """

    model: Path
    name: str
    int8: bool = False
    host: str = "127.0.0.1"
    port: int | None = 8000
    unix: Path | None = None
    grpc_port: int | None = None
    tls: TlsFiles | None = None
    batch: int = 32
    queue: int = 1024
    deadline_s: float = math.inf
    body_bytes: int = 0
    connections: int = 256
    upstreams: tuple[UpstreamAddress, ...] = ()
    upstream_files: UpstreamFiles | None = None
    routing: Path | None = None
    classes: Path | None = None


async def serve(settings: InferSettings, say: Say) -> None:
    """Serve a model until SIGTERM or SIGINT; say: takes lines for whoever reads the log.

    Raises UserError and ModelError for a model that cannot serve, RunError for an address
    that cannot be listened on.
    """
    slot = ModelSlot(settings.model, say, settings.int8)
    measures = Measures()
    service = None
    if settings.classes is not None:
        service = classes.read(settings.classes)
    observer = Observer(slot, say)
    batcher = Batcher(
        measures,
        settings.batch,
        settings.queue,
        observe=observer.answered,
        classes=service,
    )
    served = Served(
        settings.name,
        slot,
        batcher,
        measures,
        settings.deadline_s,
        observer=observer,
        classes=service,
    )
    if settings.upstreams:
        served.placing = _placing(settings, served, say)
    body_bytes = settings.body_bytes or _body_bytes(slot.model, settings.batch)
    http = HttpServer(
        OpenInference(served),
        measures,
        HttpLimits(body_bytes=body_bytes),
        ConnectionLimits(connections=settings.connections),
    )
    stopping = asyncio.Event()
    # Before it listens: from then on an orderly end is promised.
    _on_signals(slot, stopping)
    async with contextlib.AsyncExitStack() as stack:
        addresses = await _listen(settings, http, stack)
        if settings.grpc_port is not None:
            addresses.append(await _listen_grpc(settings, served, body_bytes, stack))
        tasks = [asyncio.create_task(http.sweep()), asyncio.create_task(notify.beat())]
        if served.classes is not None or served.placing is not None:
            pacing = Pacing(served, settings.batch)
            tasks.append(asyncio.create_task(pacing.run()))
        if record.is_record(settings.model):
            tasks.append(asyncio.create_task(slot.watch()))
        say(
            f"'{settings.name}' version {slot.model.version} serves on "
            f"{', '.join(addresses)}"
        )
        await stopping.wait()
        served.is_stopping = True
        say("stops: what has come is answered")
        # What the stack closes next listens no more, and then ends what is connected.
        for task in tasks:
            task.cancel()
    await batcher.drained()
    batcher.close()
    observer.close()
    if served.placing is not None:
        served.placing.close()


def _placing(settings: InferSettings, served: Served, say: Say) -> Placing:
    """Return what asks the models at the centre; raises UserError."""
    router = None
    place_settings = PlaceSettings()
    if settings.routing is not None:
        router = Router(routing.read(settings.routing))
        # Here, and not at the first request.
        classes_count = len(router.routing.first)
        scores_place(served.slot.model, router.routing.output, classes_count)
        # There is an answer already: a better one is worth some waiting.
        place_settings = PlaceSettings(patience_s=_ROUTED_PATIENCE_S)
    context = None
    if any(address.is_secure for address in settings.upstreams):
        context = (settings.upstream_files or UpstreamFiles()).context()
    ways = []
    for address in settings.upstreams:
        upstream = Upstream(address, settings.name, context)
        ways.append(Way(upstream, Placer(place_settings)))
    return Placing(ways, served.batcher, served.measures, say, router)


def _on_signals(slot: ModelSlot, stopping: asyncio.Event) -> None:
    """SIGTERM and SIGINT end the server; SIGHUP has it look at its model again."""
    loop = asyncio.get_running_loop()
    # Held, as the loop itself keeps no task alive.
    swaps: set[asyncio.Task[None]] = set()

    def swap() -> None:
        task = loop.create_task(slot.swap())
        swaps.add(task)
        task.add_done_callback(swaps.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, swap)


async def _listen(
    settings: InferSettings, http: HttpServer, stack: contextlib.AsyncExitStack
) -> list[str]:
    """Listen for HTTP; returns the addresses, and stops with the stack. Raises RunError."""
    loop = asyncio.get_running_loop()
    # Last to go, after nothing listens any more.
    stack.push_async_callback(http.stop, GRACE_S)
    addresses = []
    if settings.unix is not None:
        path = settings.unix
        with _listening(f"'{path}'"):
            _remove_stale(path)
            # For whoever runs this: others go by an address, with certificates.
            mask = os.umask(0o177)
            try:
                server = await loop.create_unix_server(http.connection, os.fspath(path))
            finally:
                os.umask(mask)
        stack.callback(_close, server, path)
        addresses.append(f"unix:{path}")
    if settings.port is not None:
        secure: dict[str, Any] = {}
        if settings.tls is not None:
            secure = {"ssl": settings.tls.context()}
            secure["ssl_handshake_timeout"] = _HANDSHAKE_S
        place = f"{settings.host} port {settings.port}"
        with _listening(place):
            server = await loop.create_server(
                http.connection, settings.host, settings.port, **secure
            )
        stack.callback(_close, server, None)
        port = server.sockets[0].getsockname()[1]
        scheme = "https" if secure else "http"
        addresses.append(f"{scheme}://{_bracketed(settings.host)}:{port}")
    return addresses


async def _listen_grpc(
    settings: InferSettings,
    served: Served,
    body_bytes: int,
    stack: contextlib.AsyncExitStack,
) -> str:
    """Listen for gRPC; returns the address, and stops with the stack. Raises RunError."""
    # Its own log would repeat our lines.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # 16 MB of memory that a board without it need not have.
    from fedlearn.clients.infer import rpc

    server = rpc.server(served, body_bytes, settings.connections)
    place = f"{_bracketed(settings.host)}:{settings.grpc_port}"
    with _listening(place):
        try:
            if settings.tls is None:
                port = server.add_insecure_port(place)
            else:
                port = server.add_secure_port(place, rpc.credentials(settings.tls))
        # gRPC does not say why.
        except RuntimeError:
            raise OSError(0, "gRPC cannot bind it; is it in use?") from None
    await server.start()
    stack.push_async_callback(server.stop, GRACE_S)
    return f"grpc://{_bracketed(settings.host)}:{port}"


@contextlib.contextmanager
def _listening(place: str) -> Any:
    """Raise RunError that names the place for what the system refuses."""
    try:
        yield
    except OSError as error:
        # The text of asyncio names the address a second time.
        reason = os.strerror(error.errno) if error.errno else error.strerror
        raise RunError(f"cannot listen on {place}: {reason}") from None


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on; raises UserError for anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UserError(f"--unix {path}: there is a file already, which is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise UserError(f"--unix {path}: another server listens there; name another path")


def _close(server: asyncio.AbstractServer, path: Path | None) -> None:
    server.close()
    if path is not None:
        path.unlink(missing_ok=True)


def _body_bytes(model: ServedModel, batch: int) -> int:
    """Return how large a body may be: a whole batch as JSON, if samples have one size."""
    values = 0
    for port in model.inputs:
        axes = port.shape[1:] if model.batches else port.shape
        if any(length < 0 for length in axes):
            return _OPEN_BODY_BYTES
        values += math.prod(axes)
    rows = batch if model.batches else 1
    return max(_LEAST_BODY_BYTES, rows * values * _JSON_NUMBER_BYTES)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
