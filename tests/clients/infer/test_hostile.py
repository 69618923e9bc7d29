"""A short form of ``python -m tests.clients.infer.hostile``."""

import asyncio

from tests.clients.infer import hostile
from tests.clients.infer.graphs import scaled


def test_damaged_requests_are_answered_or_refused(tmp_path):
    model = scaled(tmp_path / "m.onnx")
    statuses = asyncio.run(hostile.fuzz(model, 4000, seed=1))
    assert statuses["400"] > 1000 and statuses["200"] > 20 and statuses["waits"] > 100


def test_a_process_under_attack_goes_on_and_stays_small(tmp_path):
    hostile.over_sockets(scaled(tmp_path / "m.onnx"), 100, seed=1)
