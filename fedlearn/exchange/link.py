"""The gRPC service of `link.proto`, for callers and for servers; see `fedlearn.exchange.methods` for why by hand."""

from __future__ import annotations

from typing import Any

import grpc

from fedlearn.exchange import link_pb2 as pb

LINK = "fedlearn.exchange.Link"

LARGEST_BYTES = 1 << 20
"""Of a probe or an echo: what one call costs either end at most."""


def measure(channel: Any) -> Any:
    """Return the call ``Link.Measure`` of a channel (sync or aio): a Probe out, an Echo in."""
    return channel.unary_unary(
        f"/{LINK}/Measure",
        request_serializer=pb.Probe.SerializeToString,
        response_deserializer=pb.Echo.FromString,
    )


def measure_handler(answer: Any) -> grpc.GenericRpcHandler:
    """Return what a server adds to serve ``Link.Measure`` by ``answer(request, context)``."""
    handler = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=pb.Probe.FromString,
        response_serializer=pb.Echo.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(LINK, {"Measure": handler})
