"""Stopping a run of a fleet: the wish is in the list of runs, and the coordinator looks for it."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from fedlearn.errors import RecordError, RunStopped, UserError
from fedlearn.release import rollouts
from fedlearn.release.run_store import OVER, FleetRun, RunStore
from fedlearn.server.fleet_service import FleetService

REASON = "its operator stopped it"

# How often the coordinator looks for the wish.
_LOOK_S = 0.5


def want_stop(fleet: Path, number: int) -> FleetRun:
    """Write down that a run is to be stopped, and return it.

    Raises UserError for a folder that is no fleet's, and for a run that is not there or over.
    """
    rollouts.opened(fleet).close()
    store = RunStore(fleet)
    try:
        runs = {run.number: run for run in store.runs()}
        run = runs.get(number)
        if run is None:
            numbers = ", ".join(map(str, runs)) or "none yet"
            raise UserError(f"'{fleet}' has no run {number}; its runs: {numbers}")
        # Said, and not ignored: the user may mean another run.
        if run.phase in OVER:
            raise UserError(f"run {number} is {run.phase.name.lower()} already")
        store.want_stop(number)
        return run
    finally:
        store.close()


class StopWatch:
    """Looks for the wish as long as a run goes on: a ``with`` block around the run."""

    def __init__(self, fleet: Path, number: int, service: FleetService) -> None:
        """Take the run's number, and whom to tell."""
        self._fleet = fleet
        self._number = number
        self._service = service
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="stop", daemon=True)

    def __enter__(self) -> None:
        """Begin to look."""
        # That of the run before.
        self._service.stopped = None
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Look no more: the wish must not reach the next run."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        # SQLite's connections are of one thread.
        store = RunStore(self._fleet)
        try:
            while not self._over.wait(_LOOK_S):
                if store.is_stop_wanted(self._number):
                    self._service.stop_run(RunStopped(REASON))
                    return
        except RecordError as error:
            # The run goes on; who asks for its end is told why nothing comes of it.
            self._service.log.note(f"run {self._number} cannot be stopped: {error}")
        finally:
            store.close()
