"""What `fedlearn.clients.agent.attendance` asks of the agent, as values."""

from __future__ import annotations

from dataclasses import dataclass

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, proto
from fedlearn.exchange.transfer import Data

# Characters of a failure's text that are sent.
_TEXT_LENGTH = 500


@dataclass(frozen=True)
class SendFrame:
    """Send a frame; data: of its chunk, if it has one."""

    frame: pb.AgentFrame
    data: Data = b""


@dataclass(frozen=True)
class Begin:
    """Work on a task whose payloads have all come."""

    key: Key
    task: pb.Task
    payloads: tuple[bytes, ...]


@dataclass(frozen=True)
class Discard:
    """Stop the work on a task, where it runs, and remove its answer.

    The answer is stored elsewhere, or not wanted.
    """

    key: Key


@dataclass(frozen=True)
class Enter:
    """Take part in the run of a welcome, and recall the answers to it that the disk holds."""

    welcome: pb.Welcome


@dataclass(frozen=True)
class Note:
    """Write a line to the log."""

    text: str


@dataclass(frozen=True)
class Connect:
    """End the connection, if there is one, and connect again after some seconds.

    anew: by another socket. The old one may wait long before it sends again what was lost, as
    TCP doubles its pause with each try.
    """

    after_s: float
    anew: bool = False


@dataclass(frozen=True)
class Leave:
    """End for good; done: the run is over, otherwise something is wrong with this agent."""

    reason: str
    done: bool


@dataclass(frozen=True)
class Certificate:
    """Use a renewed certificate (PEM); expires: seconds since 1970."""

    certificate: bytes
    expires: int


Action = SendFrame | Begin | Discard | Enter | Note | Connect | Leave | Certificate


def failure_of(key: Key, reason: int, text: str) -> SendFrame:
    """Tell the coordinator that a piece of work has no answer; reason: of `pb.Failure`."""
    failure = pb.Failure(
        key=proto(key),
        reason=reason,  # type: ignore[arg-type]  # the enum is an int
        text=text[:_TEXT_LENGTH],
    )
    return SendFrame(pb.AgentFrame(failure=failure))
