"""How often a client gets a certificate, and what a flood of requests costs."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from fedlearn.clients.agent import identity as agents
from fedlearn.records.names import LOG_FILE
from fedlearn.server import identity, tokens
from fedlearn.server.observe import Log
from fedlearn.server.renewals import Allowance, Renewals

HOUR_S = 3600.0


def test_a_client_has_a_burst_and_then_one_an_hour_and_takes_it_from_nobody():
    allowance = Allowance()
    assert [allowance.take(4, 50.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert allowance.take(5, 50.0)
    assert not allowance.take(4, 49.0 + HOUR_S)
    assert allowance.take(4, 50.0 + HOUR_S)
    assert not allowance.take(4, 51.0 + HOUR_S)
    # A long silence gives the burst again, and no more.
    later = [allowance.take(4, 100 * HOUR_S) for _ in range(5)]
    assert later == [True] * 3 + [False] * 2


@pytest.fixture
def pki(tmp_path):
    identity.make(tmp_path / "pki", ["localhost"])
    return tmp_path / "pki"


def requests(pki: Path, client: int, count: int, counters: Counter[str]) -> list[int]:
    """Have a client ask so often; return the serial numbers that it gets."""
    request = agents.make_key_and_csr(pki.parent / "agent")
    _, serial = identity.identity_of(identity.sign(pki, client, request))
    log = Log(pki.parent / LOG_FILE, "nothing")
    service = Renewals(pki, counters, log)
    if client == 2:
        tokens.revoke(pki, client)

    async def ask():
        return [await service.answer(client, serial, request) for _ in range(count)]

    frames = asyncio.run(ask())
    log.close()
    certificates = [frame.certificate.certificate for frame in frames if frame]
    return [identity.identity_of(certificate)[1] for certificate in certificates]


def notes(pki: Path) -> list[str]:
    lines = (pki.parent / LOG_FILE).read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry["text"] for entry in entries if entry["event"] == "note"]


def test_a_flood_of_requests_costs_the_authority_no_more_than_the_burst(pki):
    counters = Counter[str]()
    assert len(requests(pki, 6, 40, counters)) == 3
    assert counters == {"renewed_too_often": 37}
    # The first certificate, and one for each renewal.
    issued = json.loads((pki / "issued.json").read_text())
    assert len(issued["certificates"]) == 4
    (note,) = notes(pki)
    assert "client 6: its certificate is not renewed: it asks too often" in note


def test_a_revoked_client_is_refused_and_noted_once(pki):
    assert requests(pki, 2, 2, Counter[str]()) == []
    (note,) = notes(pki)
    assert "client 2: its certificate is not renewed" in note and "revoked" in note
