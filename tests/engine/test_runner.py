"""Nothing of one client reaches the next, and a user's own code is seeded."""

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from safetensors.numpy import load_file
from torch import nn

from fedlearn.clients.local import _split_series
from tests.faults import client_app, moved, reply
from tests.jobs import CONFIG, run, strategy


def noisy_mod(message: Message, context: Context, call_next) -> Message:
    """A mod that draws from numpy's global generator, as local differential privacy would."""
    answer = call_next(message, context)
    record = next(iter(answer.content.array_records.values()))
    noise = {
        k: v.numpy()
        + np.random.normal(size=v.shape).astype(np.float32) * np.float32(0.01)
        for k, v in record.items()
    }
    answer.content["arrays"] = ArrayRecord(
        {k: type(record[k])(v) for k, v in noise.items()}
    )
    return answer


class Remembers(nn.Module):
    """A model with a buffer that no state holds and that every forward pass changes."""

    def __init__(self, input_shape, classes) -> None:
        super().__init__()
        self.linear = nn.Linear(int(np.prod(input_shape)), classes)
        self.seen: torch.Tensor
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen + 1
        return self.linear(x.flatten(1)) * (1 + 0.01 * self.seen)


class Tied(nn.Module):
    """A model whose second layer is its first, turned round."""

    def __init__(self, input_shape, classes) -> None:
        super().__init__()
        size = int(np.prod(input_shape))
        self.first, self.again, self.last = (
            nn.Linear(size, size),
            nn.Linear(size, size),
            nn.Linear(size, classes),
        )
        self.again.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.again(torch.relu(self.first(x.flatten(1)))))


def _fails_late(message: Message, context: Context) -> Message:
    """Change the state, then fail every other time: the change must not last."""
    state: Any = context.state
    sent: Any = message.content
    client = int(context.node_config["partition-id"])
    calls = int(state["calls"]["n"]) if "calls" in state else 0
    state["calls"] = MetricRecord({"n": calls + 1})
    if (client + int(sent["config"]["server-round"])) % 2:
        raise RuntimeError("after the change")
    return reply(message, moved(message, calls + 1), **{"num-examples": 5})


fails_late = client_app(_fails_late)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG + '[client]\nmods = ["tests.engine.test_runner:noisy_mod"]\n',
        CONFIG.replace('"logistic"', '"tests.engine.test_runner:Remembers"'),
        strategy("fedavg", fraction_train=1.0)
        + '[client]\napp = "tests.engine.test_runner:fails_late"\n',
    ],
    ids=[
        "a mod with noise",
        "a buffer of no state",
        "a state changed before a failure",
    ],
)
def test_serial_and_pool_agree_on_code_that_is_not_ours(config, tmp_path):
    runs = [run(tmp_path / "serial", config=config)]
    runs += [
        run(tmp_path / f"pool{n}", f"engine.workers={n}", config=config, engine="pool")
        for n in (1, 2)
    ]
    assert {r.code for r in runs} == {0}
    # First: where one client failed, its reason says more than another hash does.
    serial, *pools = (r.failures for r in runs)
    assert pools == [serial, serial]
    assert len({r.sha256 for r in runs}) == 1


@pytest.mark.parametrize("name", ["fedavg", "minibatch-sgd"])
def test_tied_weights_stay_tied_in_what_is_left(name, tmp_path):
    config = (
        strategy(name, fraction_train=0.5)
        .replace('"logistic"', '"tests.engine.test_runner:Tied"')
        .replace("lr = 0.5", "lr = 0.05")
    )
    ran = run(tmp_path / "run", "codec.up=q8", "codec.down=q8", config=config)
    model = load_file(ran.folder / "model.safetensors")
    assert np.array_equal(model["first.weight"], model["again.weight"])
    parts = run(
        tmp_path / "parts",
        "experiment.rounds=1",
        "codec.up=q8",
        "codec.down=q8",
        config=config,
    )
    assert parts.code == 0
    assert (
        run(
            tmp_path / "parts",
            "codec.up=q8",
            "codec.down=q8",
            config=config,
            resume=True,
        ).sha256
        == ran.sha256
    )


@pytest.mark.parametrize("name", ["fedavg", "minibatch-sgd"])
def test_momentum_does_not_carry_batchnorm_statistics_away(name, tmp_path):
    config = strategy(name, server_momentum=0.9, fraction_train=0.5).replace(
        'name = "logistic"', 'name = "resnet-small"\nnorm = "batch"'
    )
    config = config.replace(
        "lr = 0.5", "lr = 0.01\nsteps = 1" if name == "fedavg" else "lr = 0.01"
    )
    ran = run(tmp_path / "run", "experiment.rounds=6", config=config)
    assert ran.code == 0
    assert all(line["loss"] is not None for line in ran.lines)
    model = load_file(ran.folder / "model.safetensors")
    assert all((v >= 0).all() for k, v in model.items() if k.endswith("running_var"))


def test_series_hold_out_the_end_of_each_recording_and_no_window_overlaps():
    y = np.array([0] * 10 + [1] * 5 + [0])
    train, test = _split_series(y, 0.2)
    assert test.tolist() == [8, 9, 14]
    assert train.tolist() == [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 15]
