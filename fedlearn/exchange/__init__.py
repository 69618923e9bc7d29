"""The exchange between agents and the coordinator: its messages and services.

It imports grpc and protobuf alone. Both ends read frames by
`fedlearn.exchange.exchange_pb2` and drive pure state machines (`fedlearn.server.rounds`,
`fedlearn.clients.agent.attendance`), so that everything that can happen between them is
tested without a network.
"""

# Versions of the protocol that this software speaks.
OLDEST, NEWEST = 1, 1

# gRPC's own limit of one message: more is refused before it is read.
FRAME_BYTES = 4 << 20

# Of a transfer that may be under way: two chunks of the largest size.
WINDOW_BYTES = 2 << 20

# Options of both ends' channels. Silence is noticed by heartbeats of our own and by the
# kernel's keepalive: gRPC's pings cost a third of a heartbeat, and a busy machine that
# answers them late would lose healthy connections.
CHANNEL = (
    ("grpc.max_receive_message_length", FRAME_BYTES),
    ("grpc.max_send_message_length", FRAME_BYTES),
    ("grpc.default_compression_algorithm", 0),
    # Off: it measures the link with pings at every frame, so at every heartbeat: a third
    # of what one costs. The window below stands in for it.
    ("grpc.http2.bdp_probe", 0),
    # Off: gRPC walks all keepalive timers, one for each connection, whenever a short timer
    # ends, which is ten times the cost of everything else at 5,000 idle agents.
    ("grpc.keepalive_time_ms", 2**31 - 1),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
)
