"""The two gRPC services of `exchange.proto`, for callers and for servers.

Written by hand in place of `exchange_pb2_grpc.py`: what the compiler generates refuses every grpcio older than its own, and a
Jetson has what it has.
"""

from __future__ import annotations

from typing import Any

import grpc

from fedlearn.exchange import exchange_pb2 as pb

EXCHANGE, ENROLLMENT = "fedlearn.exchange.Exchange", "fedlearn.exchange.Enrolment"


def _bytes(frame: Any) -> bytes:
    """Return a frame's bytes; those with a chunk are bytes already (see `fedlearn.exchange.transfer.packed`)."""
    made: bytes = frame if isinstance(frame, bytes) else frame.SerializeToString()
    return made


def attend(channel: Any) -> Any:
    """Return the call ``Exchange.Attend`` of a channel (sync or aio): AgentFrames out, CoordinatorFrames in."""
    return channel.stream_stream(
        f"/{EXCHANGE}/Attend",
        request_serializer=_bytes,
        response_deserializer=pb.CoordinatorFrame.FromString,
    )


def enroll(channel: Any) -> Any:
    """Return the call ``Enrolment.Enrol`` of a channel (sync or aio): an EnrolRequest out, an EnrolReply in."""
    return channel.unary_unary(
        f"/{ENROLLMENT}/Enrol",
        request_serializer=pb.EnrolRequest.SerializeToString,
        response_deserializer=pb.EnrolReply.FromString,
    )


def attend_handler(answer: Any) -> grpc.GenericRpcHandler:
    """Return what a server adds to serve ``Exchange.Attend`` by ``answer(request_iterator, context)``."""
    handler = grpc.stream_stream_rpc_method_handler(
        answer,
        request_deserializer=pb.AgentFrame.FromString,
        response_serializer=_bytes,
    )
    return grpc.method_handlers_generic_handler(EXCHANGE, {"Attend": handler})


def enroll_handler(answer: Any) -> grpc.GenericRpcHandler:
    """Return what a server adds to serve ``Enrolment.Enrol`` by ``answer(request, context)``."""
    handler = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=pb.EnrolRequest.FromString,
        response_serializer=pb.EnrolReply.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(ENROLLMENT, {"Enrol": handler})
