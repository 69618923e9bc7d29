"""Connections of agents: which client attends by which, and when silence ends one.

Pure: times are seconds of any clock that never goes back.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# How often an agent is to be heard without work: at most, and at least. A heartbeat costs
# the coordinator 0.14 ms, so many clients are heard less often: of all together it hears
# IDLE_RATE in a second, which is 0.35 % of a core.
IDLE_S = 200.0
LEAST_IDLE_S = 20.0
IDLE_RATE = 25.0

# How often with work.
BUSY_S = 1.0

# Silence that ends a connection without work, and with it: a busy agent may miss three
# heartbeats, so that a stall of two seconds releases nobody.
SILENT_S = 2 * IDLE_S
LEASE_S = 4.5

# Back-off for an agent whose connection another with the same identity took over, so that
# duplicates do not evict each other in a tight loop.
REPLACED_AGAIN_S = (10.0, 30.0)

# When an agent may come back whose certificate expired on its connection: with a renewed one, and
# not all at once that were enrolled together.
EXPIRED_AGAIN_S = (0.0, 3.0)

# How long a new connection may keep silent.
HELLO_S = 5.0

NEVER = float("inf")


def idle_s(clients: int) -> float:
    """Return the seconds between heartbeats of an agent without work; clients: of the run."""
    return min(IDLE_S, max(LEAST_IDLE_S, clients / IDLE_RATE))


@dataclass
class Session:
    """One connection. client: of its certificate, or None until the hello decides.

    version: of the protocol, as its welcome said.
    """

    number: int
    client: int | None
    heard: float
    greeted: bool = False
    version: int = 0
    # When `SessionTable.silent` looks at it again.
    alarm: float = NEVER


class SessionTable:
    """All connections. ``attending``: client → the number of its connection."""

    def __init__(self, is_busy: Callable[[int], bool]) -> None:
        """Begin without connections. is_busy: whether a client has work to do."""
        self.by_number: dict[int, Session] = {}
        self.attending: dict[int, int] = {}
        self._is_busy = is_busy
        # (due, connection); an entry that is not its connection's alarm is void.
        self._alarms: list[tuple[float, int]] = []

    def add(self, number: int, client: int | None, now: float) -> None:
        """Take a connection; client: of its certificate."""
        session = Session(number, client, now)
        self.by_number[number] = session
        self._set_alarm(session)

    def remove(self, number: int) -> int | None:
        """Forget a connection; returns the client that attended by it, if one did."""
        session = self.by_number.pop(number, None)
        if session is None or session.client is None:
            return None
        # The client may attend by a newer connection already.
        if self.attending.get(session.client) != number:
            return None
        del self.attending[session.client]
        return session.client

    def of(self, client: int) -> int | None:
        """Return the number of the connection by which a client attends."""
        return self.attending.get(client)

    def greet(self, session: Session, client: int) -> None:
        """Note that a client attends by this connection from now on."""
        session.client = client
        session.greeted = True
        self.attending[client] = session.number

    def renew_lease(self, number: int, now: float) -> None:
        """Count silence from now: an agent cannot know of work before it is sent."""
        session = self.by_number[number]
        # A frame may have been heard after the time of this event.
        session.heard = max(session.heard, now)
        self._set_alarm(session)

    def silent(self, now: float) -> Iterator[tuple[Session, float]]:
        """Yield each connection that is silent too long, and its limit in seconds."""
        while self._alarms and self._alarms[0][0] <= now:
            due, number = heapq.heappop(self._alarms)
            session = self.by_number.get(number)
            if session is None or session.alarm != due:
                continue
            session.alarm = NEVER
            limit = self._silence_limit(session)
            # The same sum as the alarm's: a difference may round to less than the limit,
            # and never come due.
            if session.heard + limit <= now:
                yield session, limit
            else:
                self._set_alarm(session)

    def next_alarm(self) -> float:
        """Return when `silent` is due."""
        if not self._alarms:
            return NEVER
        return self._alarms[0][0]

    def _silence_limit(self, session: Session) -> float:
        """Return the seconds of silence that end a connection."""
        if not session.greeted:
            return HELLO_S
        if session.client is not None and self._is_busy(session.client):
            return LEASE_S
        return SILENT_S

    def _set_alarm(self, session: Session) -> None:
        """Set a connection's alarm, unless it is due before already."""
        due = session.heard + self._silence_limit(session)
        if due >= session.alarm:
            return
        session.alarm = due
        heapq.heappush(self._alarms, (due, session.number))
        # Most entries are void then: of ended connections, or of idle ones set earlier.
        if len(self._alarms) > 2 * len(self.by_number) + 100:
            self._alarms = [(s.alarm, s.number) for s in self.by_number.values()]
            heapq.heapify(self._alarms)
