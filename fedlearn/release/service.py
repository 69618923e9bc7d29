"""The registry over HTTP: packages are uploaded, listed and fetched, by token.

What arrives is checked as a package in a folder is. It gets its name in the registry in one
transaction, so that nobody ever sees half of one. Errors are JSON: {"error": {"name", "text"}}.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteError
from starlette.requests import ClientDisconnect

from fedlearn.errors import FedlearnError, PackageError, UserError, one_line
from fedlearn.package import content, signature
from fedlearn.package.content import Package
from fedlearn.release import tar
from fedlearn.release.access import Holder, holder_of
from fedlearn.release.registry import Reference, Registry
from fedlearn.release.tables import Version
from fedlearn.system import files

UPLOADS_FOLDER = ".uploads"

# Of a whole package, unless the server's owner says otherwise.
LARGEST_BYTES = 1 << 30

# What a client may take for the next piece of its body.
PIECE_S = 60.0

# Packages that arrive at a time: each takes its own size on the disk.
MOST_UPLOADS = 4

# After a day an upload that a killed server left is no upload any more.
_STALE_S = 86_400.0

_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})")


@dataclass(frozen=True)
class Settings:
    """What a server's owner decides.

    keys: fingerprint → PEM, one of which has to have signed; empty: unsigned packages too.
    """

    registry: Path
    holders: Sequence[Holder]
    keys: Mapping[str, bytes] = field(default_factory=dict)
    largest_bytes: int = LARGEST_BYTES


def service(settings: Settings) -> FastAPI:
    """Return the application, as uvicorn serves it."""
    # Its pages of documentation would load scripts from elsewhere, and its schema asks for
    # no token.
    app = FastAPI(
        title="fedlearn registry", docs_url=None, redoc_url=None, openapi_url=None
    )
    api = _Api(settings)
    reads = [Depends(api.reader)]
    routes: list[tuple[str, Callable[..., Any]]] = [
        ("/v1/models", api.models),
        ("/v1/models/{name}", api.model),
        ("/v1/models/{name}/{which}", api.version),
        ("/v1/models/{name}/{which}/package.tar", api.tar),
        ("/v1/models/{name}/{which}/files/{path:path}", api.file),
    ]
    for path, endpoint in routes:
        app.get(path, dependencies=reads, response_model=None)(endpoint)
    app.put("/v1/packages", response_model=None)(api.upload)
    app.add_exception_handler(FedlearnError, _failed)
    app.add_exception_handler(StarletteError, _refused)
    app.add_exception_handler(Exception, _broken)
    return app


class _Api:
    """The endpoints. Those that are no coroutines run in threads, each with its own database."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._uploads = asyncio.Semaphore(MOST_UPLOADS)
        self._room = settings.registry / UPLOADS_FOLDER
        with Registry(settings.registry, create=True):
            files.make_folder(self._room)
        self._sweep()

    def reader(self, request: Request) -> Holder:
        """Return who asks; raises HTTPException for a stranger."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        holder = None
        if kind.lower() == "bearer":
            holder = holder_of(token.strip(), self._settings.holders)
        if holder is None:
            raise HTTPException(
                401,
                "give a token: Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )
        return holder

    def models(self) -> dict[str, Any]:
        """List the models, with their newest version and their aliases."""
        with Registry(self._settings.registry) as registry:
            return {
                "models": [
                    {
                        "name": name,
                        "newest": registry.versions(name)[0].counter,
                        "aliases": registry.aliases(name),
                    }
                    for name in registry.names()
                ]
            }

    def model(self, name: str) -> dict[str, Any]:
        """List the versions of a model, the newest first."""
        with Registry(self._settings.registry) as registry:
            # Raises for a name that there is not.
            registry.find(Reference(name))
            aliases = registry.aliases(name)
            versions = [_facts(version, aliases) for version in registry.versions(name)]
        return {"name": name, "aliases": aliases, "versions": versions}

    def version(self, name: str, which: str) -> dict[str, Any]:
        """Tell what a version is, and its files. which: a counter, an alias, or newest."""
        with Registry(self._settings.registry) as registry:
            version = registry.find(_reference(name, which))
            listed = registry.manifest(version).listed
            facts = _facts(version, registry.aliases(name))
            facts["files"] = [
                {"path": path, "bytes": entry.bytes, "sha256": entry.sha256}
                for path, entry in listed.items()
            ]
            facts["signatures"] = [
                path for path in registry.paths(version) if path in content.SIGNATURES
            ]
        return facts

    def file(self, name: str, which: str, path: str, request: Request) -> Response:
        """Return a file of a version, or the rest of one that broke off (Range)."""
        with Registry(self._settings.registry) as registry:
            version = registry.find(_reference(name, which))
            data = registry.file(version, path)
        return _bytes_response(data, request)

    def tar(self, name: str, which: str, request: Request) -> Response:
        """Return a version's package as one tar file."""
        with Registry(self._settings.registry) as registry:
            version = registry.find(_reference(name, which))
            paths = registry.paths(version)
            data = tar.packed({path: registry.file(version, path) for path in paths})
        return _bytes_response(data, request)

    async def upload(self, request: Request) -> JSONResponse:
        """Take a package as one tar file (`tar c -C DIR .`), checked whole or not at all."""
        holder = self.reader(request)
        if not holder.writes:
            raise HTTPException(403, f"the token of '{holder.name}' reads only")
        self._check_length(request)
        if self._uploads.locked():
            raise HTTPException(
                503, "too many uploads at a time", {"Retry-After": "10"}
            )
        async with self._uploads, self._folder() as folder:
            with open(folder / "package.tar", "wb+") as stream:
                await _receive(request, stream, self._settings.largest_bytes)
                stream.seek(0)
                facts, is_new = await run_in_threadpool(
                    self._keep, stream, folder / "package", holder
                )
        return JSONResponse(facts, 201 if is_new else 200)

    def _keep(
        self, stream: BinaryIO, folder: Path, holder: Holder
    ) -> tuple[dict[str, Any], bool]:
        """Check a package that has arrived, and add it to the registry."""
        files.make_folder(folder)
        tar.unpack(stream, folder)
        try:
            package = content.read(folder, needs_deltas=True)
        # Of the folder here, whose name means nothing to who sent it.
        except UserError:
            raise PackageError("missing", "the tar file has no manifest.json") from None
        self._check_signature(package)
        with Registry(self._settings.registry) as registry:
            name = package.manifest.name
            before = {version.sha256 for version in registry.versions(name)}
            version = registry.add(
                package, who=holder.name, run="uploaded", replaces=False
            )
            facts = _facts(version, registry.aliases(name))
        return facts, version.sha256 not in before

    def _check_signature(self, package: Package) -> None:
        """Refuse what no accepted key has signed. Raises PackageError."""
        if self._settings.keys:
            signature.verify(package, self._settings.keys)

    def _check_length(self, request: Request) -> None:
        """Refuse a body that says itself that it is too long, before it is read."""
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._settings.largest_bytes:
            raise _too_long(self._settings.largest_bytes)

    @asynccontextmanager
    async def _folder(self) -> AsyncIterator[Path]:
        """Yield a folder for one upload, on the registry's own disk."""
        folder = Path(tempfile.mkdtemp(dir=self._room))
        try:
            yield folder
        finally:
            await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what a killed server left; another one may use the newer ones."""
        for folder in self._room.iterdir():
            if time.time() - folder.stat().st_mtime > _STALE_S:
                shutil.rmtree(folder, ignore_errors=True)


async def _receive(request: Request, stream: BinaryIO, most: int) -> None:
    """Write a request's body to a file. Raises HTTPException for a long or a slow one."""
    pieces = request.stream()
    length = 0
    try:
        while True:
            piece = await asyncio.wait_for(anext(pieces), PIECE_S)
            length += len(piece)
            if length > most:
                raise _too_long(most)
            stream.write(piece)
    except StopAsyncIteration:
        return
    except asyncio.TimeoutError:
        raise HTTPException(408, f"nothing came for {PIECE_S:g} s") from None
    # Nobody is there to read the answer; the folder goes as after any failure.
    except ClientDisconnect:
        raise HTTPException(400, "the connection ended inside of the package") from None


def _too_long(most: int) -> HTTPException:
    return HTTPException(413, f"a package has at most {most:,} bytes here")


def _reference(name: str, which: str) -> Reference:
    """Return the version that a path names. Raises UserError."""
    if which == "newest":
        return Reference(name)
    if which.isascii() and which.isdigit() and len(which) <= 18:
        return Reference(name, int(which))
    return Reference(name, alias=which)


def _facts(version: Version, aliases: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": version.name,
        "counter": version.counter,
        "sha256": version.sha256,
        "weights_sha256": version.weights_sha256,
        "bytes": version.bytes,
        "who": version.who,
        "time": version.time,
        "aliases": [word for word, to in aliases.items() if to == version.counter],
    }


def _bytes_response(data: bytes, request: Request) -> Response:
    """Return bytes, or those from a position on where a request asks for them (RFC 9110)."""
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{content.listed(data).sha256}"'}
    kind = "application/octet-stream"
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if match is None:
        return Response(data, media_type=kind, headers=headers)
    start = int(match[1])
    end = min(int(match[2] or len(data)), len(data) - 1)
    if start > end:
        headers["Content-Range"] = f"bytes */{len(data)}"
        return Response(status_code=416, headers=headers)
    headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
    return Response(data[start : end + 1], 206, headers, kind)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """Answer with an error of ours: a refused package, a wrong name, a disk that fails."""
    if isinstance(error, PackageError):
        return _answer(422, error.name, one_line(error))
    if isinstance(error, UserError):
        is_upload = request.method == "PUT"
        return _answer(
            409 if is_upload else 404,
            "conflict" if is_upload else "unknown",
            one_line(error),
        )
    return _answer(500, "registry", one_line(error))


async def _refused(request: Request, error: Exception) -> JSONResponse:
    """Answer with what HTTP itself has a number for."""
    refusal = cast(StarletteError, error)
    names = {
        401: "token",
        403: "right",
        404: "unknown",
        408: "slow",
        413: "limits",
        503: "busy",
    }
    name = names.get(refusal.status_code, "request")
    return _answer(refusal.status_code, name, str(refusal.detail), refusal.headers)


async def _broken(request: Request, error: Exception) -> JSONResponse:
    """Answer where we have a bug; uvicorn logs it."""
    return _answer(500, "internal", "the registry failed; its log says why")


def _answer(
    status: int, name: str, text: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    body = {"error": {"name": name, "text": text}}
    return JSONResponse(body, status, dict(headers or {}))
