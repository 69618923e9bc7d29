"""The network side of a fleet's coordinator: a service that runs come to and leave again."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Sequence

from fedlearn.errors import RunStopped
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key
from fedlearn.server.fleet import FleetRounds
from fedlearn.server.journal import Journal
from fedlearn.server.listening import Address
from fedlearn.server.observe import Log
from fedlearn.server.service import Service
from fedlearn.server.work import EventLog, ModelMissing, WorkOrder, WorkResult


class FleetService(Service):
    """See the module. One run at a time; without one, answers are nobody's."""

    def __init__(
        self, rounds: FleetRounds, journal: Journal, address: Address, log: Log
    ) -> None:
        """Take the parts. journal: the fleet's own, which stores nothing."""
        super().__init__(rounds, journal, address, log)
        self._fleet = rounds
        self._own_journal = journal
        # Why the run that is here has to end.
        self.stopped: RunStopped | None = None

    def enter(
        self, run: bytes, experiment: str, limit_bytes: int, journal: Journal
    ) -> None:
        """Begin a run over the agents that attend; its answers go to its own journal."""
        self._drop_events()
        self._thread.call(self._enter(run, experiment, limit_bytes, journal)).result()

    def leave(self) -> None:
        """End the run; its agents stay. Its journal may be closed afterwards."""
        self._thread.call(self._leave()).result()
        # An error of the run's is not the fleet's; the fleet's own is raised by `attending`.
        self._drop_events()

    def stop_run(self, reason: RunStopped) -> None:
        """Have the run that is here end, whatever it waits for; any thread may call it."""
        self.stopped = reason
        self.events.put(reason)

    def _drop_events(self) -> None:
        """Forget what came for a run: it would count in the next, whose rounds have its numbers."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.events.get_nowait()

    async def _enter(
        self, run: bytes, experiment: str, limit_bytes: int, journal: Journal
    ) -> None:
        self.journal = journal
        self._perform(self._fleet.enter(run, experiment, limit_bytes))

    async def _leave(self) -> None:
        self._perform(self._fleet.leave())
        self.journal = self._own_journal
        # A full journal was the run's trouble, and is not the fleet's.
        if self._failure is None:
            self.trouble = None


class RunService:
    """A fleet's service as a run sees it: the run's clients alone attend.

    Implements `fedlearn.server.work.WorkService`.
    """

    def __init__(self, service: FleetService, clients: int) -> None:
        """Take the service. clients: of the run, ids go from 0 to below."""
        self._service = service
        self._clients = clients

    @property
    def log(self) -> EventLog:
        """Return where events are noted."""
        return self._service.log

    def attending(self) -> list[int]:
        """Return the run's clients that are connected, sorted; raises RunStopped."""
        self._check_stopped()
        attending = self._service.attending()
        return [client for client in attending if client < self._clients]

    def ask(self, orders: Sequence[WorkOrder], deadline_s: float, enough: int) -> None:
        """Open a batch; it ends after deadline_s, or when ``enough`` have answered."""
        self._service.ask(orders, deadline_s, enough)

    def next(self) -> WorkResult | ModelMissing:
        """Wait for what comes next. Raises RunStopped, RecordError when the journal fails."""
        # The wish may have come before the run did, whose first events are dropped.
        self._check_stopped()
        return self._service.next()

    def repair(
        self, client: int, key: Key, task: pb.Task, payloads: tuple[bytes, ...]
    ) -> None:
        """Answer `ModelMissing`: send the work anew, the missing model first."""
        self._service.repair(client, key, task, payloads)

    def refuse(self, client: int, key: Key, reason: str) -> None:
        """Tell a client that its stored answer cannot be counted."""
        self._service.refuse(client, key, reason)

    def recall(self, client: int, key: Key, data: bytes) -> None:
        """Note an answer that the journal holds from before a restart."""
        self._service.recall(client, key, data)

    def forget(self, before: int) -> None:
        """Forget the answers of the rounds before one."""
        self._service.forget(before)

    def _check_stopped(self) -> None:
        if self._service.stopped is not None:
            raise self._service.stopped
