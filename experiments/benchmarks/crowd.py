"""Thousands of idle agents in a few processes, each with a connection and a certificate of its own.

An agent here is the real agent's state machine (`fedlearn.clients.agent.attendance`) over a
real channel with the real agent's options: it says hello, sends its heartbeats when they are
due, and comes back by its own clock when the connection ends. It has no disk and no work. All
agents of a crowd share one key, for a coordinator tells them apart by their certificates.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import random
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedlearn.clients.agent import attendance
from fedlearn.clients.agent.actions import Action, Connect, Leave, SendFrame
from fedlearn.clients.agent.channel import OPTIONS
from fedlearn.errors import RunError
from fedlearn.exchange import methods
from fedlearn.exchange.addresses import channel_options


def enroll(folder: Path, clients: int) -> None:
    """Write ``crowd.json``: a key and a certificate for each client, signed by the folder's
    authority, in one go.
    """
    ca = x509.load_pem_x509_certificate((folder / "pki" / "ca.pem").read_bytes())
    signer = serialization.load_pem_private_key(
        (folder / "pki" / "ca.key").read_bytes(), None
    )
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificates = []
    for client in range(clients):
        builder = (
            x509.CertificateBuilder(
                ca.subject, subject, key.public_key(), 1_000_000 + client
            )
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(f"fedlearn://client/{client}")]
                ),
                critical=False,
            )
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
            )
        )
        certificates.append(
            builder.sign(signer, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
            .decode()
        )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    (folder / "crowd.json").write_text(
        json.dumps({"key": secret, "certificates": certificates})
    )


def open_files() -> None:
    """Let this process have as many connections as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def crowd(folder: str, port: int, clients: Sequence[int]) -> None:
    """Be many idle agents, for ever."""
    open_files()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_crowd(Path(folder), port, clients))


@dataclass
class _Idle:
    """One agent that never has work."""

    machine: attendance.Attendance
    channel: Callable[[], Any]  # makes one
    call: Any = None
    reader: asyncio.Task[None] | None = None
    wait_s: float = 0.0  # before it connects again
    anew: bool = True  # over a new channel

    async def live(self) -> None:
        """Attend for ever."""
        channel: Any = None
        while True:
            if self.anew:
                if channel is not None:
                    await channel.close()
                channel, self.anew = self.channel(), False
            self.call = methods.attend(channel)()
            self.reader = asyncio.create_task(self.read())
            # Its task is cancelled, and not the call: gRPC never wakes who writes to a call
            # that is cancelled before it is connected.
            await asyncio.wait([self.reader])
            self.call.cancel()
            if not self.reader.cancelled():
                self.reader.result()
            if self.machine.connected:
                await self.perform(self.machine.lost("the connection ended"))
            await asyncio.sleep(self.wait_s)

    async def read(self) -> None:
        """Attend over one connection."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.perform(self.machine.opened(time.monotonic()))
            while (frame := await self.call.read()) is not grpc.aio.EOF:
                await self.perform(self.machine.heard(frame, time.monotonic()))

    async def tick(self) -> None:
        """Let time pass."""
        now = time.monotonic()
        if self.machine.next_alarm(now) <= now:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self.perform(self.machine.tick(now))

    async def perform(self, actions: Sequence[Action]) -> None:
        """Do what the state machine asks."""
        for action in actions:
            if isinstance(action, SendFrame):
                await self.call.write(action.frame)
            elif isinstance(action, Connect):
                self.wait_s, self.anew = action.after_s, action.anew
                if self.reader is not None:
                    self.reader.cancel()
            elif isinstance(action, Leave):
                raise RunError(
                    f"client {self.machine.client} is sent away: {action.reason}"
                )


async def _crowd(folder: Path, port: int, clients: Sequence[int]) -> None:
    told = json.loads((folder / "crowd.json").read_text())
    ca, key = (folder / "pki" / "ca.pem").read_bytes(), told["key"].encode()
    target, draw = f"127.0.0.1:{port}", random.SystemRandom().random

    def agent(client: int) -> _Idle:
        credentials = grpc.ssl_channel_credentials(
            ca, key, told["certificates"][client].encode()
        )
        return _Idle(
            attendance.Attendance(client, "benchmark", draw),
            lambda: grpc.aio.secure_channel(
                target, credentials, (*channel_options(target), *OPTIONS)
            ),
        )

    made = [agent(client) for client in clients]
    await asyncio.gather(_ticks(made), *(agent.live() for agent in made))


async def _ticks(agents: Sequence[_Idle]) -> None:
    """Be the clock of all agents."""
    while True:
        await asyncio.sleep(1.0)
        for agent in agents:
            await agent.tick()
