"""What a strategy asks of one client or in one round is done, refused by name, or told."""

import numpy as np
from safetensors.numpy import load_file

from tests.jobs import run, strategy
from tests.strategies.test_start import loud

SHORT = "experiment.rounds=2"


def test_settings_for_all_clients_are_those_of_the_config(tmp_path):
    theirs = run(tmp_path / "theirs", SHORT, config=strategy("tests.askers:Same"))
    sets = (SHORT, "train.epochs=3", "train.batch_size=20")
    ours = run(tmp_path / "ours", *sets, config=strategy("tests.askers:Asks"))
    assert theirs.code == ours.code == 0
    assert theirs.sha256 == ours.sha256


def test_clients_with_settings_of_their_own_are_told_apart_by_every_engine(tmp_path):
    text = strategy("tests.askers:EachItsOwn")
    serial = run(tmp_path / "serial", SHORT, config=text)
    asks = run(tmp_path / "asks", SHORT, config=strategy("tests.askers:Asks"))
    assert serial.sha256 != asks.sha256
    stacked = run(tmp_path / "stacked", SHORT, config=text, engine="stacked")
    models = [load_file(ran.folder / "model.safetensors") for ran in (serial, stacked)]
    for name, values in models[0].items():
        assert np.abs(values - models[1][name]).max() < 1e-5


def test_a_client_that_is_drawn_twice_counts_twice(tmp_path):
    app = '[client]\napp = "tests.faults:by_client"\n'
    text = strategy("tests.askers:Twice") + app
    ran = run(tmp_path / "run", "experiment.rounds=1", config=text)
    first = run(tmp_path / "first", "experiment.rounds=1", config=text, engine="pool")
    assert ran.code == 0
    assert ran.sha256 == first.sha256
    # It works once: client 3 moves by 4, client 0 by 1.
    assert (ran.lines[1]["clients"], ran.lines[1]["failed"]) == (2, 0)
    start = run(
        tmp_path / "zero", "experiment.rounds=1", config=text.replace("Twice", "Asks")
    )
    models = [load_file(r.folder / "model.safetensors") for r in (start, ran)]
    # Those of Asks move by 2, 3 and 6.
    for name, values in models[0].items():
        moved = models[1][name] - values
        assert np.allclose(moved, (4 + 1 + 4) / 3 - (2 + 3 + 6) / 3, atol=1e-5)


def test_what_no_client_can_do_is_one_line(tmp_path, capsys):
    assert run(tmp_path / "run", config=strategy("tests.askers:Elsewhere")).code == 3
    error = capsys.readouterr().err
    assert "a message to node 12 in round 1; the nodes are 0 to 11" in error
    assert len(error.strip().splitlines()) == 1


def test_a_key_that_no_client_reads_is_told_once_with_the_nearest(tmp_path, capsys):
    text = strategy("tests.askers:Misspells")
    code, output, _ = loud(tmp_path, capsys, text)
    assert code == 0
    line = "config says 'epoch', which no client reads. Did you mean 'epochs'?"
    assert output.count(line) == 1
    assert output.count("config says 'stage', which no client reads.") == 1
