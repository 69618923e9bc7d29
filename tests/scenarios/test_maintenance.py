"""The scenario of maintenance, played whole: its own claims are the assertions."""

import json

import pytest

from fedlearn.commands import scenario


# Its parts have tests of their own.
@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_wear_is_learned_and_a_bad_release_recalled(tmp_path, capsys):
    folder = tmp_path / "m"
    assert scenario.main(["maintenance", "--out", str(folder)]) == 0
    facts = json.loads((folder / "outcome.json").read_text())["facts"]
    assert facts["bad_devices"] == 1
    assert facts["failed_requests"] == 0
    assert facts["accuracy_recalled"] > 0.9
    assert (folder / "scenario.png").read_bytes()[:4] == b"\x89PNG"
    assert "learning 1 begins from spindle 1" in capsys.readouterr().out
