"""A fleet's service between runs: what is left of one reaches neither the fleet nor the next."""

import pytest

from fedlearn.errors import RecordError, RunStopped
from fedlearn.release.shelf import PackageShelf
from fedlearn.server.fleet import FleetRounds
from fedlearn.server.fleet_service import FleetService, RunService
from fedlearn.server.journal import Journal
from fedlearn.server.listening import Address
from fedlearn.server.observe import Log
from fedlearn.server.rollout_store import RolloutStore


@pytest.fixture
def service(tmp_path):
    store = RolloutStore(tmp_path)
    rounds = FleetRounds(3, store, PackageShelf(tmp_path), lambda text: None, 0.0)
    journal = Journal(tmp_path / "journal")
    log = Log(tmp_path / "fleet.log", "nothing")
    service = FleetService(rounds, journal, Address("127.0.0.1", 0, 0, None), log)
    service.start()
    yield service
    service.stop(False)
    journal.close()
    store.close()
    log.close()


def begin(service, folder, name=b"a" * 16):
    journal = Journal(folder)
    service.enter(name, "{}", 1 << 20, journal)
    return journal


def test_a_stop_reaches_its_run_and_no_other(service, tmp_path):
    journal = begin(service, tmp_path / "one")
    run = RunService(service, 3)
    service.stop_run(RunStopped("enough"))
    for question in (run.next, run.attending):
        with pytest.raises(RunStopped, match="enough"):
            question()
    service.leave()
    journal.close()
    # The fleet's own loop raises what lies there.
    assert service.events.empty()
    assert service.attending() == []


def test_what_a_closed_journal_says_late_is_nobodys_trouble(service, tmp_path):
    journal = begin(service, tmp_path / "one")
    # An answer of many bytes is on its way to disk while the run ends.
    service.events.put(RecordError("the run's disk is full"))
    service.leave()
    journal.close()
    assert service.events.empty()
    written = journal.append({"kind": "answer"}, b"late")
    assert isinstance(written.exception(), RecordError)
    service._thread.call(_told(service, written, journal)).result()
    assert service.events.empty()
    assert service.trouble is None


async def _told(service, written, journal):
    service._stored(None, written, journal)
