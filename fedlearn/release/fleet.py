"""A fleet's folder, and the coordinator that serves it until it is told to end.

FLEET/rollouts.sqlite   rollouts, reports and wishes
FLEET/devices.sqlite    who attends since when, figures, questions and their answers
FLEET/packages/         what rollouts are about
FLEET/runs.sqlite       runs that are to be done, and what came of them
FLEET/journal/          locked by the coordinator; a run's answers are in the run's folder
FLEET/fleet.log         what happened
FLEET/address.json      where agents attend; the ports stay over a restart
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedlearn.errors import RecordError, reason_of
from fedlearn.exchange.addresses import joined
from fedlearn.records.names import ADDRESS_FILE, JOURNAL_FOLDER
from fedlearn.release import fleet_status
from fedlearn.release.fleet_figures import exposition
from fedlearn.release.fleet_runs import do_next
from fedlearn.release.shelf import PackageShelf
from fedlearn.reporting.fleet_page import fleet_page
from fedlearn.server.device_store import DeviceStore
from fedlearn.server.fleet import FleetRounds
from fedlearn.server.fleet_board import FleetBoard, FleetLimits
from fedlearn.server.fleet_service import FleetService
from fedlearn.server.journal import Journal
from fedlearn.server.listening import Address
from fedlearn.server.observe import Log
from fedlearn.server.pages import LOOPBACK, HttpPages, health
from fedlearn.server.rollout_store import RolloutStore
from fedlearn.system import files

LOG_FILE = "fleet.log"

# How often the coordinator looks whether it has failed.
_LOOK_S = 0.5


@dataclass(frozen=True)
class FleetOptions:
    """Where a fleet's coordinator listens, and for whom.

    devices: ids go from 0 to below. shown: which events are printed, see `Log`. limits: from
    where on something is an event. metrics_port: of figures and the fleet's page, 0: any that
    is free, None: without.
    """

    address: Address
    devices: int = 1000
    shown: str = "notes"
    limits: FleetLimits = field(default_factory=FleetLimits)
    metrics_port: int | None = None


def serve(folder: Path, options: FleetOptions, is_over: Callable[[], bool]) -> None:
    """Serve a fleet until `is_over`, or until KeyboardInterrupt.

    Raises RunError for an address that cannot be listened on, RecordError for a disk that
    fails, UserError for an authority without keys.
    """
    try:
        files.make_folder(folder)
    except OSError as error:
        raise RecordError(f"'{folder}' cannot be used: {reason_of(error)}") from None
    # First of all: it holds the folder's lock.
    journal = Journal(folder / JOURNAL_FOLDER)
    log = Log(folder / LOG_FILE, options.shown)
    with contextlib.ExitStack() as stack:
        # From the last to the first: no event may reach what is closed.
        stack.callback(log.close)
        stack.callback(journal.close)
        store = RolloutStore(folder)
        stack.callback(store.close)
        devices = DeviceStore(folder)
        stack.callback(devices.close)
        board = FleetBoard(devices, log, options.limits)
        stack.callback(board.flush)
        now = time.monotonic()
        shelf = PackageShelf(folder)
        rounds = FleetRounds(options.devices, store, shelf, log.note, now, board)
        address = _address_of(folder, options.address)
        service = FleetService(rounds, journal, address, log)
        stack.callback(service.stop, over=False)
        service.start()
        if options.metrics_port is not None:
            pages = _pages(folder, options.metrics_port, service)
            stack.callback(pages.close)
            log.note(f"figures at http://{LOOPBACK}:{pages.port}/metrics")
        _announce(folder, service, log)
        while not is_over():
            # Raises what the service has failed with.
            service.attending()
            if not service.events.empty():
                service.next()
            if not do_next(folder, service):
                time.sleep(_LOOK_S)


def _pages(folder: Path, port: int, service: FleetService) -> HttpPages:
    """Serve a fleet's figures, its health and its page. Raises RunError."""

    def figures() -> tuple[int, str]:
        return 200, exposition(fleet_status.status(folder), service.figures())

    def page() -> tuple[int, str]:
        return 200, fleet_page(fleet_status.status(folder))

    def healthy() -> tuple[int, str]:
        return health(service.figures)

    return HttpPages(port, {"/": page, "/metrics": figures, "/healthz": healthy})


def _address_of(folder: Path, address: Address) -> Address:
    """Return where to listen: where agents know the fleet, if no port is asked for."""
    try:
        before = json.loads((folder / ADDRESS_FILE).read_text())
        port = int(before["port"])
        enroll_port = int(before["enrol"])
    except (OSError, ValueError, KeyError, TypeError):
        return address
    return replace(
        address,
        port=address.port or port,
        enroll_port=address.enroll_port or enroll_port,
    )


def _announce(folder: Path, service: FleetService, log: Log) -> None:
    """Write down where agents attend, and note it."""
    place = joined(service.address.host, service.port)
    ports = {
        "host": service.address.host,
        "port": service.port,
        "enrol": service.enroll_port,
    }
    files.replace(folder / ADDRESS_FILE, json.dumps(ports).encode())
    if service.address.pki is None:
        log.note(
            f"WITHOUT TLS: whoever reaches {place} can say what it has installed; "
            "agents need --insecure"
        )
    else:
        log.note(f"agents attend at {place}, and enroll at port {service.enroll_port}")
