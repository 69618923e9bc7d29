"""The benchmark of large populations: its configs are sound, and a run of it tells what it
should.
"""

import json

import pytest

from fedlearn import config
from fedlearn.experiments.benchmarks.clients import CODECS, FLOWER, main, table


@pytest.mark.parametrize("case", ["synthetic", "digits", "own"])
@pytest.mark.parametrize("strategy", ["fedavg", FLOWER])
def test_every_measurement_is_a_valid_experiment(case, strategy):
    for codec in CODECS:
        found = config.validate(
            table(case, codec, 1_000_000, 9, "serial", strategy), "test"
        )
        assert found.experiment.name == f"{case}-1000000"


@pytest.mark.slow
def test_two_populations_beside_each_other(capsys):
    assert (
        main(
            [
                "own",
                "--clients",
                "100",
                "100000",
                "--rounds",
                "5",
                "--codecs",
                "shadow",
                "--json",
            ]
        )
        == 0
    )
    few, many = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (few["clients"], few["over"], many["clients"]) == (100, 1.0, 100_000)
    assert abs(few["checkpoint_bytes"] - many["checkpoint_bytes"]) < 100
    assert (
        min(
            each[key]
            for each in (few, many)
            for key in ("ms", "start_ms", "peak_mb", "record_ms")
        )
        > 0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ovn"], "no case ovn"),
        (["--clients", "19"], "at least 20"),
        (["--rounds", "4"], "at least 5"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
