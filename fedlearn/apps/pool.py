"""What `fedlearn.apps.grid` asks of those who answer an app's messages.

`fedlearn.apps.workers` answers by processes of this machine, `fedlearn.apps.agents` by
agents elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from flwr.app import ArrayRecord, RecordDict

from fedlearn.apps.replies import NodeRequest
from fedlearn.apps.work import NodeAnswer, Work


class Answerers(Protocol):
    """Answer messages: those of one node one after another."""

    def ready(self) -> None:
        """Wait until messages can be answered; raises ConfigError."""

    def push(self, work: Work) -> None:
        """Take a message; it goes out when its node is free."""

    def answers(self) -> Iterator[NodeAnswer]:
        """Yield answers that are there after a moment."""

    def done(self, node: int, state: int) -> None:
        """Let the next message of a node go out. state: the turn that left its state."""


class ReplyStore(Protocol):
    """Keep the replies of a run over its end."""

    def find(self, request: NodeRequest) -> NodeAnswer | None:
        """Return the answer that a message had; None: it was not answered yet."""

    def add(self, request: NodeRequest, answer: NodeAnswer) -> Future[None]:
        """Write an answer down; the future is done when it is on disk."""


@dataclass(frozen=True)
class AppNodes:
    """Those who answer a run's messages.

    unpack: the content of a reply's payload, see `fedlearn.apps.messages.unpacked`: what
    the other end holds, and the originals of that; raises PayloadError. close: over tells
    whether the run is.
    """

    answerers: Answerers
    replies: ReplyStore
    unpack: Callable[
        [bytes, Mapping[str, ArrayRecord], Mapping[str, ArrayRecord]], RecordDict
    ]
    close: Callable[[bool], None]
