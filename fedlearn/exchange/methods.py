"""The two gRPC services of `exchange.proto`, for callers and for servers.

Written by hand in place of `exchange_pb2_grpc.py`: what the compiler generates refuses
every grpcio older than its own, and a Jetson has what it has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import grpc

from fedlearn.exchange import exchange_pb2 as pb

EXCHANGE, ENROLLMENT = "fedlearn.exchange.Exchange", "fedlearn.exchange.Enrolment"


class CallContext(Protocol):
    """What a server's methods use of `grpc.aio.ServicerContext`."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """Return what TLS knows of the caller."""

    def peer(self) -> str:
        """Return the caller's end of the connection, as gRPC names it."""

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End the call with an error."""


class AttendContext(CallContext, Protocol):
    """The stream of one agent, as its server sees it."""

    async def read(self) -> pb.AgentFrame | object:
        """Return the next frame, or `grpc.aio.EOF`."""

    async def write(self, frame: pb.CoordinatorFrame | bytes) -> None:
        """Send a frame; see `fedlearn.exchange.transfer.packed` for bytes."""


Attend = Callable[[AsyncIterator[pb.AgentFrame], AttendContext], Awaitable[None]]
Enroll = Callable[[pb.EnrolRequest, CallContext], Awaitable[pb.EnrolReply]]


def _bytes(frame: pb.AgentFrame | pb.CoordinatorFrame | bytes) -> bytes:
    """Return a frame's bytes; those with a chunk are bytes already (see `packed`)."""
    if isinstance(frame, bytes):
        return frame
    return bytes(frame.SerializeToString())


def attend(channel: Any) -> Any:
    """Return the call ``Exchange.Attend`` of a channel (sync or aio).

    AgentFrames go out, CoordinatorFrames come in.
    """
    return channel.stream_stream(
        f"/{EXCHANGE}/Attend",
        request_serializer=_bytes,
        response_deserializer=pb.CoordinatorFrame.FromString,
    )


def enroll(channel: Any) -> Any:
    """Return the call ``Enrolment.Enrol`` of a channel (sync or aio).

    An EnrolRequest goes out, an EnrolReply comes in.
    """
    return channel.unary_unary(
        f"/{ENROLLMENT}/Enrol",
        request_serializer=pb.EnrolRequest.SerializeToString,
        response_deserializer=pb.EnrolReply.FromString,
    )


def attend_handler(answer: Attend) -> grpc.GenericRpcHandler:
    """Return what a server adds to serve ``Exchange.Attend`` by ``answer``."""
    handler = grpc.stream_stream_rpc_method_handler(
        answer,
        request_deserializer=pb.AgentFrame.FromString,
        response_serializer=_bytes,
    )
    return grpc.method_handlers_generic_handler(EXCHANGE, {"Attend": handler})


def enroll_handler(answer: Enroll) -> grpc.GenericRpcHandler:
    """Return what a server adds to serve ``Enrolment.Enrol`` by ``answer``."""
    handler = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=pb.EnrolRequest.FromString,
        response_serializer=pb.EnrolReply.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(ENROLLMENT, {"Enrol": handler})
