"""Who attends: hellos, welcomes and goodbyes, and frames to those who are here. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from fedlearn.exchange import NEWEST, OLDEST
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.server import frames, sessions
from fedlearn.server.actions import Action, DropSession, SendToAgent
from fedlearn.server.sessions import REPLACED_AGAIN_S, Session, SessionTable


@dataclass(frozen=True)
class RunTerms:
    """What a welcome says of a run.

    run: 16 bytes that name it. experiment: JSON of what a client must build. clients: their
    number. limit_bytes: of an answer. releases: whether devices are told what to install.
    """

    run: bytes
    experiment: str
    clients: int
    limit_bytes: int
    releases: bool = False


class Reception:
    """Takes agents in and sends them away; ``counters`` counts events by name."""

    def __init__(
        self,
        terms: RunTerms,
        counters: Counter[str],
        is_busy: Callable[[int], bool],
        leave: Callable[[int], None],
    ) -> None:
        """Begin without connections.

        is_busy: whether a client has work to do. leave: called when a client left.
        """
        self.terms = terms
        self.counters = counters
        self.table = SessionTable(is_busy)
        # What everybody is told once it drains.
        self.farewell: pb.CoordinatorFrame | None = None
        self._leave = leave

    def gone(self, session: int) -> None:
        """Forget a connection that ended."""
        client = self.table.remove(session)
        if client is not None:
            self.counters["left"] += 1
            self._leave(client)

    def drop_silent(self, now: float) -> list[Action]:
        """End the connections that are silent too long."""
        actions: list[Action] = []
        for connection, limit_s in self.table.silent(now):
            self.counters["silent"] += 1
            reason = f"silent for {limit_s:g} s"
            actions.append(DropSession(connection.number, reason))
            self.gone(connection.number)
        return actions

    def turn_away(self, connection: Session, hello: pb.Hello) -> list[Action] | None:
        """End the connection of an agent that cannot attend; None: it can."""
        objection = self._objection(connection, hello)
        if objection is not None:
            reason, counter = objection
            return self.part(connection.number, reason, counter)
        # After the objections: who may not attend is not told to come back.
        if self.farewell is not None:
            self.counters["draining"] += 1
            reason = self.farewell.goodbye.reason
            return self._drop(connection.number, self.farewell, reason)
        return None

    def welcome(
        self, connection: Session, hello: pb.Hello, oldest_round: int
    ) -> list[Action]:
        """Take an agent in, in the place of another with the same identity.

        oldest_round: the first whose answers are still asked for.
        """
        actions = self._replace(hello.client)
        self.table.greet(connection, hello.client)
        self.counters["attended"] += 1
        connection.version = min(NEWEST, hello.newest)
        return [*actions, self._welcome(connection, oldest_round)]

    def welcome_all(self, oldest_round: int) -> list[Action]:
        """Tell everybody who attends that another run begins, or that none goes on."""
        numbers = sorted(self.table.attending.values())
        return [
            self._welcome(self.table.by_number[number], oldest_round)
            for number in numbers
        ]

    def _welcome(self, connection: Session, oldest_round: int) -> SendToAgent:
        """Return the frame that says what an agent takes part in."""
        welcome = pb.Welcome(
            version=connection.version,
            run=self.terms.run,
            experiment=self.terms.experiment,
            # Told in each welcome: this side decides how often it hears an agent.
            idle_ms=round(1000 * sessions.idle_s(self.terms.clients)),
            busy_ms=round(1000 * sessions.BUSY_S),
            lease_ms=round(1000 * sessions.LEASE_S),
            limit_bytes=self.terms.limit_bytes,
            round=oldest_round,
            releases=self.terms.releases,
        )
        frame = pb.CoordinatorFrame(welcome=welcome)
        return SendToAgent(connection.number, frame)

    def expire(self, session: int) -> list[Action]:
        """End the connection of a certificate that has expired; a renewed one may come back."""
        self.counters["expired"] += 1
        reason = "the certificate has expired"
        goodbye = frames.goodbye_until(reason, sessions.EXPIRED_AGAIN_S)
        return self._drop(session, goodbye, reason)

    def part(self, session: int, reason: str, counter: str) -> list[Action]:
        """Say why an agent cannot stay, and end its connection."""
        self.counters[counter] += 1
        return self._drop(session, frames.goodbye(reason), reason)

    def to_client(self, client: int, frame: pb.CoordinatorFrame) -> list[Action]:
        """Send a frame to a client, if it attends."""
        session = self.table.of(client)
        if session is None:
            return []
        return [SendToAgent(session, frame)]

    def _objection(
        self, connection: Session, hello: pb.Hello
    ) -> tuple[str, str] | None:
        """Return why an agent cannot attend, and the counter of that; None: it can."""
        if hello.newest < OLDEST or hello.oldest > NEWEST:
            older = "agent" if hello.newest < OLDEST else "coordinator"
            reason = (
                f"the agent speaks versions {hello.oldest} to {hello.newest}, "
                f"the coordinator {OLDEST} to {NEWEST}: upgrade the {older}"
            )
            return reason, "wrong_version"
        # The certificate decides who it is, and the hello must agree: otherwise an agent
        # with another's folder would work for the wrong client.
        owner = connection.client
        if owner is not None and owner != hello.client:
            reason = f"the certificate is client {owner}'s, not client {hello.client}'s"
            return reason, "wrong_identity"
        clients = self.terms.clients
        if hello.client >= clients:
            reason = (
                f"client {hello.client} is not of this experiment: "
                f"it has clients 0 to {clients - 1}"
            )
            return reason, "unknown_client"
        # Every hello is answered with all open work, payloads and all: once.
        if connection.greeted:
            return "a second hello", "hello_again"
        return None

    def _replace(self, client: int) -> list[Action]:
        """End the connection by which a client attends, if there is one."""
        before = self.table.of(client)
        if before is None:
            return []
        self.counters["replaced"] += 1
        reason = "another agent attends with the identity of this one"
        goodbye = frames.goodbye_until(reason, REPLACED_AGAIN_S)
        return self._drop(before, goodbye, "the client connected anew")

    def _drop(
        self, session: int, goodbye: pb.CoordinatorFrame, reason: str
    ) -> list[Action]:
        # Before the service says so: what else this connection says is of nobody.
        self.gone(session)
        return [SendToAgent(session, goodbye), DropSession(session, reason)]
