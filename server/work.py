"""What a run asks of its clients and what comes of it: plain values, no network.

A piece of work has a key (round, kind, turn) and belongs to one client. Whoever carries it
is a `WorkService`: `fedlearn.server.service` over gRPC, `fedlearn.runs.superlink` over
Flower's Grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key


@dataclass(frozen=True)
class WorkOrder:
    """What one client is to do: the task as it is sent, its payloads, and a check.

    check: answer → the reason why it cannot be counted, or None.
    """

    client: int
    key: Key
    task: pb.Task
    payloads: tuple[bytes, ...]
    check: Callable[[bytes], str | None] = lambda data: None


@dataclass(frozen=True)
class WorkResult:
    """A client's answer, stored; or why there is none. Once for each piece of work."""

    client: int
    key: Key
    data: bytes | None = None
    failure: str | None = None


@dataclass(frozen=True)
class ModelMissing:
    """A client lacks the model that a difference starts from: `repair` sends it."""

    client: int
    key: Key


class EventLog(Protocol):
    """Notes an event: of a client, of a piece of its work, with a reason and figures."""

    def __call__(
        self,
        event: str,
        client: int | None = None,
        key: Key | None = None,
        text: str = "",
        **figures: float,
    ) -> None:
        """Note an event; never waits and never raises."""


class WorkService(Protocol):
    """Carries work orders to clients, and results back to the thread of the run."""

    @property
    def log(self) -> EventLog:
        """Return where events are noted."""

    def attending(self) -> list[int]:
        """Return the clients that are connected, sorted."""

    def ask(self, orders: Sequence[WorkOrder], deadline_s: float, enough: int) -> None:
        """Open a batch; it ends after deadline_s, or when ``enough`` have answered."""

    def next(self) -> WorkResult | ModelMissing:
        """Wait for what comes next. Raises RecordError when the journal fails."""

    def repair(
        self, client: int, key: Key, task: pb.Task, payloads: tuple[bytes, ...]
    ) -> None:
        """Answer `ModelMissing`: send the work anew, the missing model first."""

    def refuse(self, client: int, key: Key, reason: str) -> None:
        """Tell a client that its stored answer cannot be counted."""

    def recall(self, client: int, key: Key, data: bytes) -> None:
        """Note an answer that the journal holds from before a restart."""

    def forget(self, before: int) -> None:
        """Forget the answers of the rounds before one."""


def journal_key(client: int, key: Key) -> str:
    """Return the name of an answer in the journal."""
    work_round, kind, turn = key
    return f"{client}/{work_round}/{kind}/{turn}"
