"""The exchange between agents and the coordinator: its messages and services; imports grpc and protobuf alone.

Both ends read frames by `fedlearn.exchange.exchange_pb2` and drive pure state machines (`fedlearn.server.rounds`,
`fedlearn.clients.agent.attendance`), so that everything that can happen between them is tested without a network.
"""

OLDEST, NEWEST = 1, 1
"""Versions of the protocol that this software speaks."""

FRAME_BYTES = 4 << 20
"""gRPC's limit of one message, which stays as it is: more is refused before it is read."""

WINDOW_BYTES = 2 << 20
"""Of a transfer that may be under way: two chunks of the largest size."""

CHANNEL = (
    ("grpc.max_receive_message_length", FRAME_BYTES),
    ("grpc.max_send_message_length", FRAME_BYTES),
    ("grpc.default_compression_algorithm", 0),
    (
        "grpc.http2.bdp_probe",
        0,
    ),  # it measures the link with pings at every frame, so at every heartbeat: a third of what one costs
    # Never; its timers, one for each connection, cost ten times what everything else about 5,000 idle agents does: gRPC walks all of
    # them whenever a short one ends.
    ("grpc.keepalive_time_ms", 2**31 - 1),
    (
        "grpc.http2.lookahead_bytes",
        WINDOW_BYTES,
    ),  # in its place: what may be under way is known
)
"""Options of both ends' channels. Silence is noticed by heartbeats of our own: gRPC's keepalive never notices a stopped process."""
