"""A coordinator that outlives runs: runs and rollouts are what it does with its agents.

`FleetRounds` is `fedlearn.server.rounds` with releases: it tells devices what they are to have,
sends them the files that they ask for, and takes their reports. What has to outlive this
process is in a `RolloutStore` before anybody is told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, of, proto
from fedlearn.exchange.release_frames import (
    OFFER_KIND,
    OFFER_PLACE,
    RELEASE_KIND,
    Offer,
    WrongFrame,
    packed_offer,
    report_of,
    wanted_frame,
)
from fedlearn.exchange.releases import InstalledReport, ReleaseId, WantedRelease
from fedlearn.exchange.transfer import Transfer, careful_pace
from fedlearn.server import frames
from fedlearn.server.actions import Action, SendToAgent
from fedlearn.server.fleet_board import FleetBoard
from fedlearn.server.rollout import (
    KeepProgress,
    KeepReport,
    Rollout,
    RolloutAction,
    RolloutNote,
    SendWanted,
)
from fedlearn.server.rollout_plan import RolloutPlan, RolloutProgress
from fedlearn.server.rollout_store import RolloutStore
from fedlearn.server.rounds import Rounds

# How often wishes of ``fedlearn rollout`` are looked for.
POLL_S = 0.5

# Files that are in memory for devices that fetch them at a time.
FILES = 4

# Of an answer: a fleet without a run takes none.
_NO_ANSWER = 0


class Shelf(Protocol):
    """Where a fleet's packages lie."""

    def offer(self, wanted: WantedRelease) -> Offer:
        """Return what a device is told of a release. Raises FedlearnError, OSError."""

    def file(self, release: ReleaseId, place: int) -> bytes | None:
        """Return a file by its place among the manifest's sorted paths; None: no such file."""


class FleetRounds(Rounds):
    """See the module. ``notes`` takes a line for the log."""

    def __init__(
        self,
        devices: int,
        store: RolloutStore,
        shelf: Shelf,
        notes: Callable[[str], None],
        now: float,
        board: FleetBoard | None = None,
    ) -> None:
        """Take what was before. devices: ids go from 0 to below. Raises RecordError.

        board: makes events of what happens to devices; None: nobody looks at them.
        """
        # Without a name of a run: an agent enters none, and keeps what it has of others.
        super().__init__(b"", "{}", devices, _NO_ANSWER)
        terms = self._reception.terms
        self._reception.terms = replace(terms, releases=True)
        self._store = store
        self._shelf = shelf
        self._notes = notes
        self._board = board
        self._reports = store.reports()
        self.rollout: Rollout | None = None
        # Devices whose agents install releases.
        self.installing: set[int] = set()
        # Of those, the ones that fetch what is offered as they fetch files.
        self._fetching: set[int] = set()
        self._transfers: dict[int, dict[Key, Transfer]] = {}
        self._files: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._poll_due_s = now
        newest = store.newest()
        if newest is not None:
            self.rollout = Rollout(*newest, self._reports, now)

    # Events

    def heard(self, session: int, frame: pb.AgentFrame, now: float) -> list[Action]:
        """Take a frame of an agent."""
        connection = self.sessions.get(session)
        kind = frame.WhichOneof("frame")
        is_known = connection is not None and connection.greeted
        if connection is None or not is_known or connection.client is None:
            actions = super().heard(session, frame, now)
            if kind == "hello":
                actions += self._greeted(session, frame.hello, now)
            return actions
        if kind == "installed":
            connection.heard = now
            return self._installed(connection.client, frame.installed, now)
        if kind == "diagnosis":
            connection.heard = now
            self._diagnosed(connection.client, frame.diagnosis)
            return []
        if kind == "ack" and frame.ack.key.kind in (OFFER_KIND, RELEASE_KIND):
            connection.heard = now
            return self._fetched(session, connection.client, frame.ack, now)
        return super().heard(session, frame, now)

    def gone(self, session: int) -> list[Action]:
        """Forget a connection that ended."""
        connection = self.sessions.get(session)
        client = None if connection is None else connection.client
        actions = super().gone(session)
        # Unless it attends by a newer one already.
        if client is not None and client not in self.attending:
            self._forget_device(client)
        return actions

    def revoke(self, clients: Iterable[int]) -> list[Action]:
        """End connections and open work of clients whose certificates are revoked."""
        before = set(self.attending)
        actions = super().revoke(clients)
        # Their connections are no sessions any more when they end: `gone` knows nobody.
        self._forget_devices(before - set(self.attending))
        return actions

    def expire(self, sessions: Iterable[int]) -> list[Action]:
        """End connections whose certificates have expired."""
        before = set(self.attending)
        actions = super().expire(sessions)
        self._forget_devices(before - set(self.attending))
        return actions

    def tick(self, now: float) -> list[Action]:
        """End silent connections, let time pass for the rollout, and take wishes."""
        before = set(self.attending)
        actions = super().tick(now)
        self._forget_devices(before - set(self.attending))
        if self._poll_due_s <= now:
            self._poll_due_s = now + POLL_S
            actions += self._take_wishes(now)
            actions += self._ask_devices(now)
        if self.rollout is not None:
            actions += self._follow(self.rollout.tick(now))
        return actions

    def next_alarm(self) -> float:
        """Return when `tick` is due."""
        return min(super().next_alarm(), self._poll_due_s)

    # Runs

    def enter(self, run: bytes, experiment: str, limit_bytes: int) -> list[Action]:
        """Begin a run over the agents that attend; see `RunTerms`."""
        self.limit_bytes = limit_bytes
        terms = self._reception.terms
        self._reception.terms = replace(
            terms, run=run, experiment=experiment, limit_bytes=limit_bytes
        )
        self._oldest_round = 0
        return self._reception.welcome_all(self._oldest_round)

    def leave(self) -> list[Action]:
        """End the run: its work is not wanted any more, and its agents stay."""
        actions: list[Action] = []
        for client in sorted(self.book.open_work):
            for work in list(self.book.of(client)):
                cancel = frames.cancel(work.order.key, "the run has ended")
                actions += self._reception.to_client(client, cancel)
                self.book.close(work)
        # Another run has rounds of the same numbers.
        self.book.answered.clear()
        self.limit_bytes = _NO_ANSWER
        terms = self._reception.terms
        self._reception.terms = replace(
            terms, run=b"", experiment="{}", limit_bytes=_NO_ANSWER
        )
        self._oldest_round = 0
        return [*actions, *self._reception.welcome_all(self._oldest_round)]

    # Devices

    def _greeted(self, session: int, hello: pb.Hello, now: float) -> list[Action]:
        client = hello.client
        if self.attending.get(client) != session:
            return []
        # It says anew what it has.
        self._transfers.pop(client, None)
        if self._board is not None:
            self._board.attended(client, hello)
        if not hello.installs:
            # Said, because its wave will wait for it in vain.
            self._notes(f"client {client}: its agent installs no releases; upgrade it")
            return []
        self.installing.add(client)
        if hello.fetches:
            self._fetching.add(client)
        if self.rollout is None:
            return []
        return self._follow(self.rollout.connected(client, now))

    def _forget_devices(self, clients: Iterable[int]) -> None:
        """Forget devices that do not attend any more."""
        for client in sorted(clients):
            self._forget_device(client)

    def _forget_device(self, client: int) -> None:
        self.installing.discard(client)
        self._fetching.discard(client)
        # What was under way comes in smaller chunks: a link may never carry a large one.
        for transfer in self._transfers.pop(client, {}).values():
            transfer.break_off()
        if self._board is not None:
            self._board.left(client)
        if self.rollout is not None:
            self.rollout.gone(client)

    def _installed(
        self, client: int, message: pb.Installed, now: float
    ) -> list[Action]:
        """Take a device's report."""
        try:
            report = report_of(message)
        except WrongFrame:
            self.counters["wrong_report"] += 1
            return []
        if self._board is not None:
            self._board.reported(client, report)
        if self.rollout is not None:
            return self._follow(self.rollout.heard(client, report, now))
        if self._reports.get(client) != report:
            self._reports[client] = report
            self._store.keep_report(client, report)
        return []

    def _diagnosed(self, client: int, message: pb.Diagnosis) -> None:
        """Take what a device says of itself, if it was asked."""
        if self._board is None or not self._board.diagnosed(client, message):
            self.counters["wrong_diagnosis"] += 1

    def _ask_devices(self, now: float) -> list[Action]:
        """Have devices look at themselves where somebody wants to know."""
        if self._board is None:
            return []
        self._board.tick(now)
        actions: list[Action] = []
        for device, number in self._board.questions():
            session = self.attending.get(device)
            if session is not None:
                actions.append(SendToAgent(session, frames.diagnose(number)))
        return actions

    # Files

    def _fetched(
        self, session: int, client: int, ack: pb.Ack, now: float
    ) -> list[Action]:
        """Send more of a file, from where the device says."""
        key = of(ack.key)
        transfer = self._transfers.get(client, {}).get(key)
        if transfer is None:
            data = self._file(client, key)
            if data is None:
                reason = "this release is not wanted here any more"
                return [SendToAgent(session, frames.cancel(key, reason))]
            # Small at first: nobody knows yet what this link can bear.
            pace = self.book.paces.setdefault(client, careful_pace())
            transfer = Transfer([data], pace)
            self._transfers.setdefault(client, {})[key] = transfer
        if ack.again:
            transfer.break_off()
        chunks = transfer.acknowledged(ack.offset, now)
        if transfer.reached >= transfer.total:
            del self._transfers[client][key]
        return [
            SendToAgent(session, frames.chunk(proto(key), offset, transfer.total), data)
            for offset, data in chunks
        ]

    def _file(self, client: int, key: Key) -> bytes | None:
        """Return a file of what a device is to have; one copy for all that fetch it."""
        rollout = self.rollout
        wish = None if rollout is None else rollout.wanted(client)
        number, kind, place = key
        if wish is None or wish.release is None or wish.rollout != number:
            return None
        if kind == OFFER_KIND:
            return self._packed(wish) if place == OFFER_PLACE else None
        name = (wish.release.digest, place)
        if name not in self._files:
            data = self._shelf.file(wish.release, place)
            if data is None:
                return None
            self._files[name] = data
            if len(self._files) > FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(name)
        return self._files[name]

    def _packed(self, wish: WantedRelease) -> bytes:
        """Return what a device fetches of an offer."""
        return packed_offer(self._shelf.offer(wish))

    # Rollouts

    def _take_wishes(self, now: float) -> list[Action]:
        """Begin a rollout that was written down meanwhile, and do what operators want."""
        actions: list[Action] = []
        newest = self._store.newest()
        number = 0 if self.rollout is None else self.rollout.plan.number
        if newest is not None and newest[0].number > number:
            actions += self._begin(*newest, now)
        for wish in self._store.wishes():
            rollout = self.rollout
            if rollout is not None and rollout.plan.number == wish.number:
                events = {"pause": rollout.pause, "resume": rollout.resume}
                if wish.verb == "abort":
                    actions += self._follow(
                        rollout.abort("its operator aborted it", now)
                    )
                elif wish.verb in events:
                    actions += self._follow(events[wish.verb](now))
            # Only now: until its effect is on disk, a crash must not lose it.
            self._store.fulfilled(wish)
        return actions

    def _begin(
        self, plan: RolloutPlan, progress: RolloutProgress, now: float
    ) -> list[Action]:
        """Begin a rollout in the place of the one before."""
        reports = self._reports if self.rollout is None else self.rollout.reports
        self.rollout = Rollout(plan, progress, reports, now)
        self._transfers.clear()
        self._notes(f"rollout {plan.number} begins: {plan.release}")
        actions: list[Action] = []
        for client in sorted(self.installing):
            actions += self._follow(self.rollout.connected(client, now))
        return actions

    def _follow(self, actions: Sequence[RolloutAction]) -> list[Action]:
        """Do what the rollout asks, in order: the disk first, then who is told."""
        messages: list[Action] = []
        for action in actions:
            match action:
                case KeepProgress(number, progress):
                    self._store.keep_progress(number, progress)
                case KeepReport(device, report):
                    self._keep_report(device, report)
                case RolloutNote(text):
                    self._notes(text)
                case SendWanted(device, wish):
                    messages += self._offer(device, wish)
        return messages

    def _keep_report(self, device: int, report: InstalledReport) -> None:
        self._reports[device] = report
        self._store.keep_report(device, report)

    def _offer(self, device: int, wish: WantedRelease) -> list[Action]:
        session = self.attending.get(device)
        if session is None:
            return []
        # Told again at each connection, and each minute: on a slow link a manifest with
        # its signatures takes half of that.
        is_bare = device in self._fetching
        offer = Offer(wish) if is_bare else self._shelf.offer(wish)
        return [SendToAgent(session, wanted_frame(offer))]
