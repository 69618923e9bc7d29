"""The call by which an agent enrolls, and what its failures mean."""

from __future__ import annotations

import random
import time
from typing import Any

import grpc

from fedlearn.errors import RunError, UserError
from fedlearn.exchange import methods
from fedlearn.exchange.addresses import channel_options, detour
from fedlearn.exchange.exchange_pb2 import EnrolReply, EnrolRequest

# How long an enrollment is tried again while the coordinator has too many connections, and the
# pauses between, drawn at random.
BUSY_S = 10.0
_AGAIN_S = (0.1, 0.6)

# gRPC's words for a connection that the other end closed before TLS.
_CLOSED = "handshake read failed"


def exchanged(
    coordinator: str, ca: bytes, request: EnrolRequest, timeout_s: float
) -> EnrolReply:
    """Return the coordinator's reply to an enrollment; raises UserError or RunError."""
    # Only the token's authority is trusted here, none of the system's.
    credentials = grpc.ssl_channel_credentials(ca)
    # A new channel is a new socket: a try that was turned away holds up no other.
    options = (*channel_options(coordinator), ("grpc.use_local_subchannel_pool", 1))
    give_up_s = time.monotonic() + min(BUSY_S, timeout_s)
    while True:
        with grpc.secure_channel(coordinator, credentials, options) as channel:
            try:
                reply: EnrolReply = methods.enroll(channel)(request, timeout=timeout_s)
                return reply
            except grpc.RpcError as error:
                if not _is_full(error) or time.monotonic() > give_up_s:
                    raise _refusal(coordinator, error) from None
        time.sleep(random.uniform(*_AGAIN_S))


def _is_full(error: Any) -> bool:
    """Tell whether a coordinator closed the connection before it heard the request.

    It does so when strangers have all that it takes, and soon ends them. gRPC tells in words
    only; a token that was sent is never sent again.
    """
    details = (error.details() or "").lower()
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return False
    return _CLOSED in details


def _refusal(coordinator: str, error: Any) -> UserError | RunError:
    """Return our error for gRPC's."""
    code = error.code()
    details = error.details() or ""
    # A person has to mend these; other failures may pass by themselves.
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT):
        return UserError(f"{coordinator} refuses: {details}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return UserError(
            f"{coordinator} does not enroll agents; "
            "give the coordinator's enrollment port"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return _unavailable(coordinator, details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RunError(
            f"{coordinator} did not answer in time{detour(coordinator)}; "
            "if the next try says that the token was used, ask for a new one"
        )
    return RunError(f"{coordinator} failed: {details[:200]}")


def _unavailable(coordinator: str, details: str) -> UserError | RunError:
    """Return the error for a coordinator to which no connection was made.

    gRPC tells the reason in words only.
    """
    reason = details.lower()
    if "hostname" in reason or "peer name" in reason:
        host = coordinator.rpartition(":")[0]
        return UserError(
            f"the coordinator's certificate is not for the name {host}; "
            f"there: fedlearn pki server --name {host}"
        )
    if _CLOSED in reason:
        return RunError(
            f"{coordinator} closes the connection{detour(coordinator)}: it has too many "
            "now, or this is no enrollment port; try again in a minute "
            f"({details[:300]})"
        )
    if "handshake" in reason or "ssl" in reason or "certificate" in reason:
        today = time.strftime("%Y-%m-%d", time.gmtime())
        return UserError(
            f"{coordinator} could not prove that it is the coordinator of this token; "
            f"check the address, the token and this device's clock ({today}). "
            f"The token was not sent ({details[:300]})"
        )
    return RunError(
        f"{coordinator} cannot be reached, or is not an enrollment port"
        f"{detour(coordinator)} ({details[:300]})"
    )
