"""Devices behind one counted link: a difference is a fraction, and a cut costs what was under way.

The short form of `python -m fedlearn.experiments.benchmarks.fleet_link`: the same agents, whose
bytes are judged and whose seconds are not.
"""

import pytest

from fedlearn.experiments.benchmarks import fleet_link
from fedlearn.experiments.benchmarks.fleet_place import fleet
from fedlearn.package.parts import WEIGHTS_FILE
from tests.clients.device import releases

AGENTS = 3
FAST = float("inf")

# Numbers of a model; whole, it is 640 kB.
SHAPE = (400, 400)

# Of a connection: less than half of the model, and more than the first chunks.
BYTES_A_CONNECTION = 300_000


@pytest.fixture
def ground():
    with fleet() as ground:
        yield ground


@pytest.mark.timeout(240)
def test_a_difference_is_a_fraction_and_whole_files_go_on_after_cuts(ground, tmp_path):
    one, two = releases.write_pair(tmp_path, SHAPE)
    whole = one.manifest.files[WEIGHTS_FILE].bytes
    trial = fleet_link.Trial(ground, AGENTS, one.folder)
    try:
        by_difference = trial.roll_out(ground.signed(two.folder), FAST, 0, 0)
        assert by_difference.tally.again_bytes == 0
        assert by_difference.down_bytes < AGENTS * whole / 10

        # No connection carries the model: who began anew each time would never have it.
        three = releases.write_wide(
            tmp_path / "three", 3, two.weights().reshape(SHAPE) + 1
        )
        trial.relay.bytes_a_connection = BYTES_A_CONNECTION
        trial.relay.cut_all()
        in_parts = trial.roll_out(ground.signed(three.folder), FAST, 0, 0)
        assert in_parts.tally.resumed >= AGENTS
        assert in_parts.cuts >= 2 * AGENTS
        assert in_parts.tally.again_bytes < in_parts.tally.chunk_bytes / 10
        assert whole < in_parts.tally.chunk_bytes / AGENTS < 1.2 * whole
    finally:
        trial.end()
