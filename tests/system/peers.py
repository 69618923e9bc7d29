"""Scripted agents: they say over real gRPC what a test has them say, to the real service."""

import contextlib
import queue
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedlearn.exchange import CHANNEL, NEWEST, OLDEST, methods
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, proto
from fedlearn.server import identity
from fedlearn.server.journal import Journal
from fedlearn.server.listening import Address
from fedlearn.server.rounds import Rounds
from fedlearn.server.service import Service
from fedlearn.server.work import WorkOrder

KEY: Key = (1, "train", 0)
LIMIT = 1 << 20
WAIT_S = 20.0
"""How long a test waits for what has to come before it fails."""


@dataclass
class Keys:
    """An authority, and credentials for whomever a test wants to be."""

    pki: Path
    made: dict[int, Any] = field(default_factory=dict)

    def of(self, client: int, anew: bool = False) -> Any:
        """Return a client's credentials."""
        if client not in self.made or anew:
            key = ec.generate_private_key(ec.SECP256R1())
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anyone")])
            request = (
                x509.CertificateSigningRequestBuilder()
                .subject_name(name)
                .sign(key, hashes.SHA256())
            )
            signed = identity.sign(
                self.pki, client, request.public_bytes(serialization.Encoding.PEM)
            )
            pem = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            self.made[client] = grpc.ssl_channel_credentials(
                (self.pki / "ca.pem").read_bytes(), pem, signed
            )
        return self.made[client]


def keys(folder: Path) -> Keys:
    """Return a new authority's."""
    identity.make(folder, ["127.0.0.1"])
    return Keys(folder)


class Peer:
    """One connection: what is said goes out in order, what comes is kept until it is asked for."""

    def __init__(self, port: int, credentials: Any = None) -> None:
        """Connect; without credentials: without TLS."""
        place = f"127.0.0.1:{port}"
        options = [
            *CHANNEL,
            ("grpc.use_local_subchannel_pool", 1),
        ]  # a connection of its own
        self.channel = (
            grpc.secure_channel(place, credentials, options)
            if credentials
            else grpc.insecure_channel(place, options)
        )
        self.said: queue.SimpleQueue[pb.AgentFrame | None] = queue.SimpleQueue()
        self.came: queue.SimpleQueue[pb.CoordinatorFrame | grpc.StatusCode] = (
            queue.SimpleQueue()
        )
        self.call = methods.attend(self.channel)(iter(self.said.get, None))
        self.listening = threading.Thread(target=self._listen, daemon=True)
        self.listening.start()

    def say(self, *frames: pb.AgentFrame) -> None:
        """Send frames."""
        for frame in frames:
            self.said.put(frame)

    def hear(self, kind: str) -> Any:
        """Return the next frame of a kind; fails when the connection ends before."""
        while True:
            found = self.next()
            assert not isinstance(found, grpc.StatusCode), (
                f"{found} ({self.call.details()}) where {kind} was expected"
            )
            if found.WhichOneof("frame") == kind:
                return getattr(found, kind)

    def next(self) -> pb.CoordinatorFrame | grpc.StatusCode:
        """Return what comes next; a status code is the end."""
        return self.came.get(timeout=WAIT_S)

    def ended(self) -> grpc.StatusCode:
        """Return how the connection ends, once it does."""
        while not isinstance(found := self.next(), grpc.StatusCode):
            pass
        return found

    def close(self) -> None:
        """End it."""
        self.said.put(None)
        self.call.cancel()
        self.channel.close()
        self.listening.join(WAIT_S)

    def _listen(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            for frame in self.call:
                self.came.put(frame)
        self.came.put(self.call.code())


def hello(client: int, oldest: int = OLDEST, newest: int = NEWEST) -> pb.AgentFrame:
    return pb.AgentFrame(
        hello=pb.Hello(oldest=oldest, newest=newest, software="scripted", client=client)
    )


def heartbeat() -> pb.AgentFrame:
    return pb.AgentFrame(heartbeat=pb.Heartbeat())


def chunks(
    key: Key, data: bytes, size: int = 1 << 18, **changed: int
) -> list[pb.AgentFrame]:
    """Return an answer as frames. changed: fields of the chunks that lie."""
    told: dict[str, Any] = {
        "key": proto(key),
        "total": len(data),
        "checksum": zlib.crc32(data),
        **changed,
    }
    return [
        pb.AgentFrame(chunk=pb.Chunk(offset=at, data=data[at : at + size], **told))
        for at in range(0, max(1, len(data)), size)
    ]


def failure(
    key: Key, text: str, reason: int = pb.Failure.FAILED
) -> list[pb.AgentFrame]:
    return [pb.AgentFrame(failure=pb.Failure(key=proto(key), reason=reason, text=text))]  # type: ignore[arg-type]


@dataclass
class Door:
    """A service that listens, and whoever connects to it."""

    service: Service
    keys: Keys | None
    peers: list[Peer] = field(default_factory=list)

    @property
    def counters(self) -> dict[str, int]:
        """Return what the coordinator has counted."""
        return dict(self.service.rounds.counters)

    def connect(self, client: int | None) -> Peer:
        """Return a connection with the certificate of a client, silent so far."""
        made = Peer(
            self.service.port,
            self.keys.of(client) if self.keys and client is not None else None,
        )
        self.peers.append(made)
        return made

    def attend(self, client: int) -> Peer:
        """Return a client's connection after its welcome."""
        made = self.connect(client)
        made.say(hello(client))
        made.hear("welcome")
        return made

    def ask(
        self,
        client: int,
        check: Callable[[bytes], str | None] = lambda data: None,
        key: Key = KEY,
        payload: bytes = b"",
    ) -> None:
        """Have the coordinator ask a client for something."""
        task = pb.Task(key=proto(key), plan="{}", sizes=[len(payload)])
        self.service.ask(
            [WorkOrder(client, key, task, (payload,), check)], float("inf"), None
        )


@contextlib.contextmanager
def door(
    folder: Path, keys: Keys | None, clients: int = 20, limit: int = LIMIT
) -> Iterator[Door]:
    """Give a service with nothing to do; keys: None for one without TLS."""
    rounds = Rounds(b"r" * 16, "{}", clients, limit)
    journal = Journal(folder / "journal")
    made = Door(Service(rounds, journal, Address(pki=keys.pki if keys else None)), keys)
    made.service.start()
    try:
        yield made
    finally:
        for peer in made.peers:
            peer.close()
        made.service.stop(True)
        journal.close()


Answer = Callable[[int, pb.Task, Sequence[bytes]], list[pb.AgentFrame]]


class Crowd:
    """Clients that answer whatever they are asked, each by a connection of its own, until they
    are sent away.
    """

    def __init__(
        self, port: int, keys: Keys | None, clients: Sequence[int], answer: Answer
    ) -> None:
        """Connect all of them."""
        self.answer = answer
        self.peers = {
            client: Peer(port, keys.of(client) if keys else None) for client in clients
        }
        self.errors: list[BaseException] = []
        self.threads = [
            threading.Thread(target=self._attend, args=one, daemon=True)
            for one in self.peers.items()
        ]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        """End, and raise what went wrong."""
        for peer in self.peers.values():
            peer.close()
        for thread in self.threads:
            thread.join(WAIT_S)
        if self.errors:
            raise self.errors[0]

    def _attend(self, client: int, peer: Peer) -> None:
        peer.say(hello(client))
        task, came = pb.Task(), bytearray()
        try:
            while not isinstance(frame := peer.came.get(), grpc.StatusCode):
                if frame.WhichOneof("frame") == "task":
                    task, came = frame.task, bytearray()
                elif frame.WhichOneof("frame") == "chunk":
                    came += frame.chunk.data
                    peer.say(pb.AgentFrame(ack=pb.Ack(key=task.key, offset=len(came))))
                    if len(came) == sum(task.sizes):
                        ends = accumulate(task.sizes)
                        peer.say(
                            *self.answer(
                                client,
                                task,
                                [
                                    bytes(came[end - n : end])
                                    for end, n in zip(ends, task.sizes, strict=True)
                                ],
                            )
                        )
                elif frame.WhichOneof("frame") == "goodbye":
                    return
        except BaseException as error:
            self.errors.append(error)
