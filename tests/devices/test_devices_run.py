"""Whole runs on simulated devices."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedlearn.data.samples import IGNORE, Samples
from fedlearn.plan import Plan
from fedlearn.runs.devices import Workload
from tests.jobs import CONFIG, Ran, run, strategy

TWO = (
    CONFIG
    + '[devices]\nprofiles = { "slow" = 6, "fast" = 6 }\n'
    + """
[devices.profile.slow]
like = "pi-4"
flops = 1e5
up_mbps = 0.1
down_mbps = 0.1

[devices.profile.fast]
like = "server"
"""
)
"""Twelve clients on digits.

The slow need about 0.2 s for a payload of 2.6 kB, and 8 s for their samples.
"""


def told(ran: Ran) -> list[dict[str, Any]]:
    return [line["devices"] for line in ran.lines if line["round"]]


def test_devices_alone_change_no_result(tmp_path):
    plain = run(tmp_path / "plain")
    timed = run(tmp_path / "timed", config=TWO)
    assert plain.sha256 == timed.sha256
    assert "devices" not in plain.summary and "devices" not in plain.lines[1]
    assert (
        timed.summary["devices"]["seconds"]
        == sum(d["seconds"] for d in told(timed))
        > 0
    )


def test_the_clock_is_the_same_with_any_engine(tmp_path):
    serial = run(tmp_path / "serial", config=TWO)
    pool = run(tmp_path / "pool", "engine.workers=2", config=TWO, engine="pool")
    assert told(serial) == told(pool)


def test_fewer_bytes_take_less_time(tmp_path):
    raw = run(tmp_path / "raw", "devices.profile.slow.flops=1e9", config=TWO)
    small = run(
        tmp_path / "small",
        "devices.profile.slow.flops=1e9",
        "codec.up=eden1",
        config=TWO,
    )
    assert small.summary["devices"]["seconds"] < 0.7 * raw.summary["devices"]["seconds"]
    assert small.summary["devices"]["joules"] < raw.summary["devices"]["joules"]


LATE = ("devices.deadline_s=2", "experiment.min_clients=1")


COARSE = ("codec.down=pred+cvq(1,1)", "codec.up=ef+topk(0.1)+tern")


@pytest.mark.parametrize(
    "codecs",
    [(), COARSE, (*COARSE, "devices.profile.slow.down_mbps=1e-4")],
    ids=["whole", "differences", "never had the model"],
)
def test_late_clients_are_left_out_and_a_resumed_run_is_the_same(codecs, tmp_path):
    ran = run(tmp_path / "whole", *LATE, *codecs, config=TWO)
    assert ran.code == 0
    assert all(d["seconds"] == 2 for d in told(ran) if d["late"])
    assert (
        sum(d["late"] for d in told(ran))
        == ran.summary["failed"]
        == ran.summary["devices"]["late"]
        > 0
    )
    reasons = [reason for line in ran.lines for reason in line["failures"].values()]
    assert all(
        r.startswith("late: ") and r.endswith("the round ends after 2") for r in reasons
    )
    part = run(tmp_path / "part", *LATE, *codecs, "experiment.rounds=1", config=TWO)
    assert part.code == 0
    again = run(tmp_path / "part", *LATE, *codecs, config=TWO, resume=True)
    assert again.sha256 == ran.sha256
    assert told(again) == told(ran)


def test_a_deadline_that_nobody_meets_ends_the_run(tmp_path, capsys):
    assert run(tmp_path / "none", "devices.deadline_s=0.001", config=TWO).code == 3
    assert "late: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "config",
    [
        TWO,
        strategy(
            "flwr.serverapp.strategy:FedAvg", fraction_train=0.5, fraction_evaluate=0.0
        )
        + TWO[len(CONFIG) :],
    ],
    ids=["ours", "flower's"],
)
def test_the_fastest_are_asked_whatever_the_strategy(config, tmp_path):
    sets = ("devices.cohort=fastest", "devices.fairness=0.3")
    ran = run(tmp_path / "fast", *sets, config=config)
    assert ran.code == 0
    asked = [
        {name: row["clients"] for name, row in d["by_profile"].items()}
        for d in told(ran)
    ]
    assert all(
        sum(counts.values()) == 6 and counts["fast"] >= 4 for counts in asked
    )  # two places are drawn
    assert all(line["clients"] == 6 for line in ran.lines[1:])
    run(tmp_path / "part", *sets, "experiment.rounds=2", config=config)
    assert (
        run(tmp_path / "part", *sets, config=config, resume=True).sha256 == ran.sha256
    )


def test_only_clients_that_are_there_are_asked(tmp_path):
    sets = ("devices.profile.slow.available=0.01", "devices.profile.slow.period_h=100")
    waits = run(tmp_path / "all", *sets, config=TWO)
    there = run(
        tmp_path / "available",
        *sets,
        "devices.cohort=available",
        "evaluate.clients=true",
        config=TWO,
    )
    assert (
        sum(row["away"] for d in told(waits) for row in d["by_profile"].values()) > 3600
    )
    assert [d["by_profile"]["fast"]["away"] for d in told(there)] == [0.0] * 3
    assert [line["clients"] for line in there.lines[1:]] == [6] * 3
    assert there.lines[-1]["clients_evaluation"]["clients"] == 12  # of all clients
    fast = run(
        tmp_path / "fast",
        *sets,
        "devices.cohort=fastest",
        "devices.fairness=1",
        config=TWO,
    )
    assert [d["by_profile"] for d in told(fast)] == [
        {"fast": d["by_profile"]["fast"]} for d in told(fast)
    ]
    more = run(
        tmp_path / "more",
        *sets,
        "devices.cohort=fastest",
        "strategy.fraction_train=0.75",
        "experiment.rounds=1",
        config=TWO,
    )
    assert [
        (d["by_profile"]["slow"]["clients"], d["by_profile"]["fast"]["clients"])
        for d in told(more)
    ] == [(3, 6)]


def test_the_report_tells_of_time_energy_and_inference(tmp_path):
    ran = run(tmp_path / "run", "devices.target=0.5", config=TWO)
    page = (ran.folder / "report.html").read_text()
    assert (
        "Simulated devices" in page
        and "to 50.00 % accuracy" in page
        and "waiting for others" in page
    )
    for name in ("accuracy_time", "accuracy_joules", "devices"):
        assert (ran.folder / "plots" / f"{name}.png").stat().st_size > 5000
    summary = ran.summary["devices"]
    assert 0 < summary["seconds_to_target"] < summary["seconds"]
    manifest = json.loads((ran.folder / "manifest.json").read_text())["devices"]
    assert manifest["profiles"]["slow"]["clients"] == 6
    assert manifest["input_bytes"] == 64
    assert manifest["inference"]["slow"]["edge_s"] == manifest["flops"]["forward"] / 1e5
    assert manifest["inference"]["fast"]["where"] == "device"


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["devices.mix=egde"], "[devices] unknown mix 'egde'. Did you mean 'edge'?"),
        (
            ["devices.cohort=fastest"],
            '[devices] cohort = "fastest" needs devices; add mix = "edge", or profiles',
        ),
        (["devices.deadline_s=3"], "[devices] deadline_s = 3 needs devices"),
        (
            ["devices.mix=edge", "devices.cloud=sever"],
            "[devices] unknown profile 'sever'. Did you mean 'server'?",
        ),
        (["devices.mix=edge", "devices.profiles.pi-4=1"], "mix and profiles both say"),
        (["devices.profiles.pi-4=0"], "greater than 0"),
        (
            ["devices.profile.mine.flop=1"],
            "unknown key 'devices.profile.mine.flop'. Did you mean 'flops'?",
        ),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(sets, message, tmp_path, capsys):
    ran = run(tmp_path / "run", *sets)
    assert ran.code == 2
    assert message in capsys.readouterr().err
    assert not (ran.folder / "config.toml").exists()


def samples_of(x, y, modality="image") -> Workload:
    population = SimpleNamespace(modality=modality)
    runner: Any = SimpleNamespace(
        samples=lambda client, held_out: Samples(x, y), population=population
    )
    return Workload(runner)


def test_a_line_of_which_the_last_character_counts_is_read_as_a_whole():
    y = np.full((2, 8), IGNORE, np.int16)
    y[0, 7] = y[1, 3] = 5  # lines of 8 and 4 characters, as LEAF has them
    work = samples_of(np.zeros((2, 8), np.uint8), y, "text")
    assert work.samples(0, "train", Plan(1, 0, epochs=3, batch_size=1)) == 3 * 2 * 0.75


def test_a_straggler_goes_through_the_samples_of_its_epochs():
    work = samples_of(np.zeros((10, 4)), np.zeros(10, np.int64))
    plan = Plan(1, 0, epochs=4, batch_size=5, stragglers=1.0)
    assert {work.samples(client, "train", plan) for client in range(50)} == {
        10,
        20,
        30,
        40,
    }
