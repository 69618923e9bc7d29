"""The coordinator's two ports: one where agents attend, one where they enroll."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from fedlearn.errors import RunError
from fedlearn.exchange import CHANNEL, methods
from fedlearn.exchange.addresses import bare_host, joined
from fedlearn.server.binding import why_not
from fedlearn.server.descriptors import Admission
from fedlearn.server.enrollment import Enrollment
from fedlearn.server.gate import CertificateGate
from fedlearn.server.identity import server_credentials
from fedlearn.server.link import LinkService

# How long a connection may take until it speaks TLS and HTTP/2. At 1 kbit/s that is 35 s: such
# links need a coordinator that waits longer, where strangers hold what they can get.
HANDSHAKE_S = 10.0

# Calls of one connection at a time: an agent has one, and for a moment the one before.
STREAMS = 4

# How long a connection may be without a call.
IDLE_S = 20.0

# How long one at the enrollment's port may last, whatever it does, and how long its call is
# given to end after that.
ENROLLING_S = 30.0
ENROLLED_S = 10.0

# Seconds that calls are given to end when a server stops.
GRACE_S = 0.2


@dataclass(frozen=True)
class Address:
    """Where the coordinator listens; port 0: any that is free.

    host: a name or an address, an IPv6 one with brackets or without. pki: the authority's
    folder, None: without TLS.
    """

    host: str = "127.0.0.1"
    port: int = 0
    enroll_port: int = 0
    pki: Path | None = None


class Listeners:
    """The gRPC servers of one coordinator; the ports are 0 before `start`."""

    def __init__(self, address: Address) -> None:
        """Take where to listen."""
        self.address = address
        self.port = 0
        self.enroll_port = 0
        self._servers: list[grpc.aio.Server] = []
        self._enrollment: Enrollment | None = None

    async def start(
        self, attend: methods.Attend, gate: CertificateGate, limits: Admission
    ) -> None:
        """Serve streams by ``attend``, and probes of the link to whom a gate lets in.

        Raises RunError when a port cannot be used, UserError for a folder without keys.
        """
        pki = self.address.pki
        server = self._server(limits.attending, STREAMS)
        handlers = (methods.attend_handler(attend), LinkService(gate).handler())
        server.add_generic_rpc_handlers(handlers)
        if pki is None:
            self.port = self._bind(server, self.address.port, None)
        else:
            keys = server_credentials(pki)
            pair = [(keys.key, keys.certificate)]
            # Both sides show certificates; at the other port only the server does.
            mutual = grpc.ssl_server_credentials(
                pair, keys.ca, require_client_auth=True
            )
            self.port = self._bind(server, self.address.port, mutual)
            self._open_enrollment(pki, grpc.ssl_server_credentials(pair), limits)
        # Started together, after all ports are bound: a port that is taken ends the
        # start early.
        for each_server in self._servers:
            await each_server.start()

    async def stop(self) -> None:
        """Close the ports, and end the calls that are under way."""
        for server in self._servers:
            await server.stop(GRACE_S)

    def enrollments(self) -> dict[str, int]:
        """Return how many enrolled, and how many were refused for which reason."""
        if self._enrollment is None:
            return {}
        return dict(self._enrollment.counts)

    def _open_enrollment(
        self, pki: Path, credentials: grpc.ServerCredentials, limits: Admission
    ) -> None:
        self._enrollment = Enrollment(pki)
        # Here nobody is known, so a call that never ends has an end.
        ages = (
            # Whoever greets and then says nothing. At the other port `strangers` ends them:
            # gRPC walks all such timers, which thousands of agents would pay for.
            ("grpc.max_connection_idle_ms", _ms(IDLE_S)),
            ("grpc.max_connection_age_ms", _ms(ENROLLING_S)),
            ("grpc.max_connection_age_grace_ms", _ms(ENROLLED_S)),
        )
        server = self._server(limits.enrolling, 1, ages)
        server.add_generic_rpc_handlers((self._enrollment.handler(),))
        port = self.address.enroll_port
        self.enroll_port = self._bind(server, port, credentials, "--enroll-port")

    def _server(
        self, connections: int, calls: int, more: tuple[tuple[str, int], ...] = ()
    ) -> grpc.aio.Server:
        """Return a server. connections: at a time. calls: of one connection at a time."""
        options = (
            *CHANNEL,
            ("grpc.server_handshake_timeout_ms", _ms(HANDSHAKE_S)),
            ("grpc.max_concurrent_streams", calls),
            # More are accepted and closed at once, so that descriptors stay for files.
            # Old versions of grpcio have no such bound; `strangers` has another.
            ("grpc.max_allowed_incoming_connections", connections),
            # Without it two coordinators could share a port, and each miss half the agents.
            ("grpc.so_reuseport", 0),
            *more,
        )
        server = grpc.aio.server(options=options)
        self._servers.append(server)
        return server

    def _bind(
        self,
        server: grpc.aio.Server,
        port: int,
        credentials: grpc.ServerCredentials | None,
        option: str = "--port",
    ) -> int:
        """Return the port that a server got; raises RunError when it gets none.

        option: by which the user gives the port.
        """
        host = bare_host(self.address.host)
        place = joined(host, port)
        # Some versions of grpc return 0 for a port that is taken, others raise.
        bound = 0
        try:
            if credentials is None:
                bound = server.add_insecure_port(place)
            else:
                bound = server.add_secure_port(place, credentials)
        except RuntimeError:
            pass
        if not bound:
            reason = why_not(host, port, option)
            raise RunError(f"cannot listen on {place}: {reason}")
        return bound


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
