"""A fleet's folder, and the coordinator that serves it until it is told to end.

FLEET/rollouts.sqlite   rollouts, reports and wishes
FLEET/packages/         what rollouts are about
FLEET/journal/          locked by the coordinator; a fleet without a run stores no answers
FLEET/fleet.log         what happened
FLEET/address.json      where agents attend; the ports stay over a restart
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fedlearn.errors import RecordError, reason_of
from fedlearn.exchange.addresses import joined
from fedlearn.records.names import ADDRESS_FILE, JOURNAL_FOLDER
from fedlearn.release.shelf import PackageShelf
from fedlearn.server.fleet import FleetRounds
from fedlearn.server.journal import Journal
from fedlearn.server.listening import Address
from fedlearn.server.observe import Log
from fedlearn.server.rollout_store import RolloutStore
from fedlearn.server.service import Service
from fedlearn.system import files

LOG_FILE = "fleet.log"

# How often the coordinator looks whether it has failed.
_LOOK_S = 0.5


@dataclass(frozen=True)
class FleetOptions:
    """Where a fleet's coordinator listens, and for whom.

    devices: ids go from 0 to below. shown: which events are printed, see `Log`.
    """

    address: Address
    devices: int = 1000
    shown: str = "notes"


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
    store = RolloutStore(folder)
    service = None
    try:
        rounds = FleetRounds(
            options.devices, store, PackageShelf(folder), log.note, time.monotonic()
        )
        address = _address_of(folder, options.address)
        service = Service(rounds, journal, address, log)
        service.start()
        _announce(folder, service, log)
        while not is_over():
            # Raises what the service has failed with.
            service.attending()
            if not service.events.empty():
                service.next()
            time.sleep(_LOOK_S)
    finally:
        if service is not None:
            service.stop(over=False)
        store.close()
        journal.close()
        log.close()


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


def _announce(folder: Path, service: Service, log: Log) -> None:
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
