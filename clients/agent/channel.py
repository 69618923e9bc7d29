"""The gRPC channel of an agent, and the identity that it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from fedlearn.clients.agent.identity import Identity, read_identity
from fedlearn.errors import UserError
from fedlearn.exchange.addresses import channel_options

# Of an agent's channel, besides those of both ends.
OPTIONS = (
    # gRPC's own waits stay below the agent's bounds, which decide when to try.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite its name this is the connect timeout. The agent's own patience is shorter, and grows
    # where a link is slow.
    ("grpc.min_reconnect_backoff_ms", 90_000),
    ("grpc.max_reconnect_backoff_ms", 700),
    # So that a new channel is a new socket.
    ("grpc.use_local_subchannel_pool", 1),
)


def own_identity(state: Path, coordinator: str) -> Identity:
    """Return the identity in an agent's folder; raises UserError where there is none."""
    identity = read_identity(state)
    if identity is None:
        raise UserError(
            f"there is no identity in '{state}'; get a token from the coordinator "
            "(fedlearn token --client ID), then: fedlearn enroll "
            f"--coordinator {coordinator} --token - --state {state}"
        )
    return identity


def open_channel(coordinator: str, identity: Identity | None) -> Any:
    """Return a channel to a coordinator (HOST:PORT); identity: None for a channel without TLS."""
    options = (*channel_options(coordinator), *OPTIONS)
    if identity is None:
        return grpc.aio.insecure_channel(coordinator, options)
    # The agent's own certificate too: to the coordinator a client is who that says.
    credentials = grpc.ssl_channel_credentials(
        identity.ca, identity.key, identity.certificate
    )
    return grpc.aio.secure_channel(coordinator, credentials, options)
