"""The gRPC service of `link.proto`, for callers and for servers.

See `fedlearn.exchange.methods` for why it is written by hand.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from fedlearn.exchange import link_pb2 as pb
from fedlearn.exchange.methods import CallContext

LINK = "fedlearn.exchange.Link"

# Of a probe or an echo: what one call costs either end at most.
LARGEST_BYTES = 1 << 20

Measure = Callable[[pb.Probe, CallContext], Awaitable[pb.Echo]]


def measure(channel: Any) -> Any:
    """Return the call ``Link.Measure`` of a channel (sync or aio).

    A Probe goes out, an Echo comes in.
    """
    return channel.unary_unary(
        f"/{LINK}/Measure",
        request_serializer=pb.Probe.SerializeToString,
        response_deserializer=pb.Echo.FromString,
    )


def measure_handler(answer: Measure) -> grpc.GenericRpcHandler:
    """Return what a server adds to serve ``Link.Measure`` by ``answer``."""
    handler = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=pb.Probe.FromString,
        response_serializer=pb.Echo.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(LINK, {"Measure": handler})
