"""States of ClientApps: on disk, bit for bit, and in no checkpoint."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedlearn.memory.states import States
from fedlearn.records.writing import RunFolder
from fedlearn.runs import checkpoint
from fedlearn.strategies import remember as memory
from tests.jobs import CONFIG, run


def state(value: float) -> RecordDict:
    return RecordDict(
        {
            "a": ArrayRecord(
                {
                    "w": Array(np.full((2, 3), value, np.float32)),
                    "n": Array(np.array(7)),
                }
            ),
            "m": MetricRecord({"loss": value, "all": [1, 2]}),
            "c": ConfigRecord({"key": b"\x00\xff", "name": "é"}),
        }
    )


def test_a_state_comes_back_as_it_was(tmp_path):
    states = States(tmp_path / "states.sqlite")
    assert states.get(3) is None
    states.put(3, state(0.1))
    states.put(4, RecordDict())
    found = states.get(3)
    assert (
        found is not None
        and found["m"] == state(0.1)["m"]
        and found["c"] == state(0.1)["c"]
    )
    arrays = found.array_records["a"]
    assert (
        arrays["w"].numpy().tobytes() == np.full((2, 3), 0.1, np.float32).tobytes()
        and arrays["n"].numpy() == 7
    )
    assert states.get(4) is None  # an empty one takes no room
    states.put(3, RecordDict())
    emptied = states.get(3)
    assert emptied is not None and len(emptied) == 0
    states.close()


def count(message, context, call_next):
    """Be a mod whose clients change their updates by how often they were asked."""
    asked = (
        int(context.state.config_records["n"]["n"])
        if "n" in context.state.config_records
        else 0
    )
    reply = call_next(message, context)
    context.state["n"] = ConfigRecord({"n": asked + 1})
    for record in reply.content.array_records.values():
        for name in list(record):
            record[name] = Array(record[name].numpy() * np.float32(1 + 0.01 * asked))
    return reply


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(sys.modules, "counting_mod", SimpleNamespace(count=count))
    return CONFIG + '[client]\nmods = ["counting_mod:count"]\n'


def test_a_resumed_run_goes_on_with_the_states(config, tmp_path):
    whole = run(tmp_path / "whole", "experiment.rounds=8", config=config)
    without = run(tmp_path / "without", "experiment.rounds=8")
    assert whole.sha256 != without.sha256  # the states matter
    run(tmp_path / "run", "experiment.rounds=5", config=config)
    assert (
        run(tmp_path / "run", "experiment.rounds=8", config=config, resume=True).sha256
        == whole.sha256
    )
    sizes = {
        path.stat().st_size
        for folder in (whole.folder, without.folder)
        for path in (folder / "checkpoint").glob("*.safetensors")
    }
    assert max(sizes) - min(sizes) < 200  # the name of the versions, and no state


def test_a_checkpoint_that_holds_all_states_is_taken_over(config, tmp_path):
    """Put the states where they used to be, and lose the file in which they are."""
    whole = run(tmp_path / "whole", "experiment.rounds=8", config=config)
    before = run(tmp_path / "run", "experiment.rounds=5", config=config)
    found = checkpoint.whole(before.folder)[0]
    arrays = {
        name: array for name, array in found.arrays.items() if name != "states.versions"
    }
    states = States(before.folder / "checkpoint" / "states.sqlite")
    held = {
        client: kept for client in range(12) if (kept := states.get(client)) is not None
    }
    states.close()
    assert len(held) > 6
    told = found.memory | {
        "clients": {
            str(client): memory.save(kept, arrays) for client, kept in held.items()
        }
    }
    for path in (before.folder / "checkpoint").iterdir():
        path.unlink()
    folder = RunFolder(before.folder)
    checkpoint.write(
        folder, checkpoint.Checkpoint(found.round, found.model, told, arrays)
    )
    folder.close()
    assert (
        run(tmp_path / "run", "experiment.rounds=8", config=config, resume=True).sha256
        == whole.sha256
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"] == 8
