"""Flower's own strategies on our Grid, unchanged.

And those of their defects that a run must not inherit.
"""

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.jobs import CONFIG, run, strategy

FLOWER = "flwr.serverapp.strategy"
OPTIONS: dict[str, dict[str, Any]] = {
    "FedAvg": {},
    "FedAvgM": {"server_momentum": 0.9},
    "FedAdagrad": {},
    "FedAdam": {},
    "FedYogi": {},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.2},
    "QFedAvg": {"client_learning_rate": 0.1, "train_loss_key": '"train_loss"'},
    "FedProx": {"proximal_mu": 0.1},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 4},
    "Bulyan": {"num_malicious_nodes": 1},
}
INNER = f'{{name = "{FLOWER}:FedAvg", fraction_train = 0.7}}'
PRIVATE: dict[str, tuple[dict[str, Any], str]] = {
    "DifferentialPrivacyServerSideFixedClipping": ({"clipping_norm": 5.0}, ""),
    "DifferentialPrivacyClientSideFixedClipping": (
        {"clipping_norm": 5.0},
        "flwr.clientapp.mod:fixedclipping_mod",
    ),
    "DifferentialPrivacyServerSideAdaptiveClipping": ({}, ""),
    "DifferentialPrivacyClientSideAdaptiveClipping": (
        {},
        "flwr.clientapp.mod:adaptiveclipping_mod",
    ),
}


def private(name: str, inner: str = INNER) -> str:
    options, mod = PRIVATE[name]
    config = strategy(
        f"{FLOWER}:{name}",
        strategy=inner,
        noise_multiplier=0.01,
        num_sampled_clients=8,
        **options,
    )
    return config + (f'[client]\nmods = ["{mod}"]\n' if mod else "")


CONFIGS = {
    n: strategy(f"{FLOWER}:{n}", fraction_train=0.7, **o) for n, o in OPTIONS.items()
} | {n: private(n) for n in PRIVATE}


@pytest.mark.parametrize("name", CONFIGS)
def test_runs_learns_and_is_the_same_twice_and_after_a_resume(name, tmp_path):
    config = CONFIGS[name]
    whole = run(tmp_path / "whole", config=config)
    assert whole.code == 0
    assert whole.lines[0]["accuracy"] < whole.summary["best_accuracy"]
    assert whole.summary["bytes_up"] > 0
    parts = run(tmp_path / "parts", "experiment.rounds=2", config=config)
    assert parts.code == 0
    resumed = run(tmp_path / "parts", config=config, resume=True)
    assert resumed.sha256 == whole.sha256


@pytest.mark.parametrize(
    "name", [name for name, config in CONFIGS.items() if "mods" not in config]
)
def test_one_client_in_three_failing_is_no_silent_success(name, tmp_path):
    config = CONFIGS[name].replace(
        "[strategy]", '[client]\napp = "tests.faults:third_fails"\n\n[strategy]'
    )
    if name == "QFedAvg":
        config = config.replace('"train_loss"', '"times"')
    ran = run(tmp_path / "run", config=config)
    assert ran.code in (0, 3)
    lines = ran.lines[1:]
    if ran.code == 0:
        assert any(line["failed"] for line in lines)
        assert all(
            "sensor unplugged" in reason
            for line in lines
            for reason in line["failures"].values()
        )
        models = [
            load_file(f)
            for f in sorted((tmp_path / "run" / "checkpoint").glob("*.safetensors"))
        ]
        assert not np.array_equal(models[0]["floats"], models[1]["floats"])


def test_an_app_without_its_run_config_is_told_where_to_set_it(tmp_path, capsys):
    config = strategy("fedavg") + '[client]\napp = "tests.faults:reads_run_config"\n'
    ran = run(tmp_path / "run", config=config)
    assert ran.code == 3
    message = capsys.readouterr().err
    assert "context.run_config['batch']" in message
    assert "which [client.run_config] does not have: set it there" in message
    assert "KeyError" not in message


@pytest.mark.parametrize(
    "name", ["fedavg", *(f"{FLOWER}:{n}" for n in ("FedAvg", "FedAdam", "Krum"))]
)
def test_all_clients_failing_ends_the_run_with_the_reason(name, tmp_path, capsys):
    options = {"num_malicious_nodes": 1} if name.endswith("Krum") else {}
    config = strategy(name, **options) + '[client]\napp = "tests.faults:all_fail"\n'
    ran = run(tmp_path / "run", config=config)
    assert ran.code == 3
    message = capsys.readouterr().err
    assert "round 1 learned nothing in 3 attempts" in message
    assert "no power" in message
    assert not (ran.folder / "summary.json").exists()


def test_a_client_of_nan_is_left_out(tmp_path):
    config = (
        strategy(f"{FLOWER}:FedAvg") + '[client]\napp = "tests.faults:one_is_nan"\n'
    )
    ran = run(tmp_path / "run", config=config)
    assert ran.code == 0
    assert all(
        list(line["failures"]) == ["1"] and "NaN" in line["failures"]["1"]
        for line in ran.lines[1:]
    )


def test_clients_without_examples_weigh_nothing_and_do_not_divide_by_zero(
    tmp_path, capsys
):
    config = (
        strategy(f"{FLOWER}:FedAvg") + '[client]\napp = "tests.faults:no_examples"\n'
    )
    assert run(tmp_path / "run", config=config).code == 3
    assert "0 examples" in capsys.readouterr().err


def test_a_client_with_other_metrics_loses_those_and_its_update_counts(tmp_path):
    config = (
        strategy(f"{FLOWER}:FedAvg") + '[client]\napp = "tests.faults:odd_metrics"\n'
    )
    ran = run(tmp_path / "run", config=config)
    assert ran.code == 0
    assert ran.lines[1]["failures"] == {}
    assert ran.lines[1]["metrics"] == {"train": {"extra": 1.0}}


@pytest.mark.parametrize("name", ["FedAdam", "QFedAvg", "FedAvg"])
def test_dtypes_stay_what_they_were(name, tmp_path):
    # FedAdam and QFedAvg return float64, FedAvg turns BatchNorm's int64 counters into floats.
    config = (
        CONFIGS[name]
        .replace('name = "logistic"', 'name = "resnet-small"\nnorm = "batch"')
        .replace("rounds = 3", "rounds = 1")
    )
    config = config.replace("lr = 0.5", "lr = 0.05\nsteps = 2")
    ran = run(tmp_path / "run", config=config)
    assert ran.code == 0
    model = load_file(ran.folder / "model.safetensors")
    assert {str(v.dtype) for k, v in model.items() if not k.endswith("tracked")} == {
        "float32"
    }
    counters = [v for k, v in model.items() if k.endswith("tracked")]
    assert {str(v.dtype) for v in counters} == {"int64"}
    assert (
        all(v == 2 for v in counters) or name != "FedAvg"
    )  # the others take a step of their own on counters too
    assert ran.summary["bytes_down"] < 1.02 * ran.summary["bytes_raw"] / 2


def test_too_few_nodes_is_an_error_not_an_endless_wait(tmp_path, capsys):
    ran = run(
        tmp_path / "run", config=strategy(f"{FLOWER}:FedAvg", min_available_nodes=13)
    )
    assert ran.code == 3
    assert "waits for more clients than the 12" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Breaks", "raised KeyError in round 1: 'typo'"),
        ("Poisons", "NaN or infinite values"),
    ],
)
def test_a_strategy_that_breaks_is_named(name, message, tmp_path, capsys):
    ran = run(tmp_path / "run", config=strategy(f"tests.faults:{name}"))
    assert ran.code == 3
    error = capsys.readouterr().err
    assert name in error and message in error and "Traceback" not in error


def test_a_strategy_that_no_checkpoint_holds_says_so_at_the_start(tmp_path, capsys):
    file = tmp_path / "c.toml"
    file.write_text(strategy("tests.faults:Forgetful"))
    from fedlearn.commands.simulate import main

    assert (
        main([str(file), "--out", str(tmp_path / "run"), "--set", "engine.kind=serial"])
        == 0
    )
    assert "keeps what no checkpoint holds (window (set))" in " ".join(
        capsys.readouterr().out.split()
    )


def test_ours_inside_a_wrapper_sees_what_the_wrapper_made_of_the_updates(tmp_path):
    # A wrapper that clips must clip: our FedAvg must not go round it by reading the
    # updates as they came.
    name = "DifferentialPrivacyServerSideFixedClipping"
    inner = '{name = "fedavg", fraction_train = 0.7}'
    clipped = (
        private(name, inner)
        .replace("clipping_norm = 5.0", "clipping_norm = 1e-6")
        .replace("noise_multiplier = 0.01", "noise_multiplier = 0.0")
    )
    ran = run(tmp_path / "run", config=clipped)
    models = [
        load_file(f)["floats"]
        for f in sorted((ran.folder / "checkpoint").glob("*.safetensors"))
    ]
    assert 0 < np.abs(models[1] - models[0]).max() < 2e-6


def test_a_standard_client_app_runs_on_our_grid_with_its_state(tmp_path):
    config = (
        strategy(f"{FLOWER}:FedAvg", fraction_train=1.0)
        + '[client]\napp = "tests.faults:by_client"\n'
    )
    whole = run(tmp_path / "whole", config=config)
    assert whole.code == 0
    # Every client moves by its number + 1: the mean of 1 … 12 is 6.5 a round.
    initial = run(tmp_path / "one", "experiment.rounds=1", config=config)
    models = [load_file(r.folder / "model.safetensors") for r in (initial, whole)]
    assert all(
        np.allclose(models[1][k] - models[0][k], 13.0, atol=1e-5) for k in models[0]
    )
    resumed = run(tmp_path / "one", config=config, resume=True)
    assert resumed.sha256 == whole.sha256
    assert json.loads((tmp_path / "one" / "summary.json").read_text())["rounds"] == 3
    pooled = run(tmp_path / "pooled", "engine.workers=2", config=config, engine="pool")
    assert pooled.sha256 == whole.sha256


def test_the_config_of_the_tests_is_what_they_say():
    assert 'name = "digits"' in CONFIG and "clients = 12" in CONFIG
