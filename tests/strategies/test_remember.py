"""What strategies remember, as plain values."""

import json
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
)

from fedlearn.arrays import Entry, Layout
from fedlearn.strategies import remember as memory
from fedlearn.strategies.cohorts import takes_payloads
from fedlearn.strategies.fedavg import FedAvg as OurFedAvg
from fedlearn.strategies.fedprox import FedProx as OurFedProx
from fedlearn.strategies.minibatch_sgd import MinibatchSGD

VALUES = [
    None, True, 3, 2.5, "x", b"\x00\xff", [1, (2, "y")], {"a": {1: [None]}},
    MetricRecord({"n": 3, "l": [1.0, 2.0]}), ConfigRecord({"s": "x", "b": b"1"}),
    RecordDict({"m": MetricRecord({"n": 1})}),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_round_trip(value):
    arrays: memory.Arrays = {}
    text = json.dumps(memory.save(value, arrays))
    back = memory.load(json.loads(text), arrays)
    assert back == value
    assert type(back) is type(value)


def test_arrays_keep_dtype_shape_and_bits():
    for array in (
        np.arange(6.0).reshape(2, 3),
        np.float32(0.1),
        np.array(3),
        np.zeros((0, 2), np.int8),
    ):
        arrays: memory.Arrays = {}
        back = memory.load(json.loads(json.dumps(memory.save(array, arrays))), arrays)
        assert (
            np.array_equal(back, array)
            and back.dtype == array.dtype
            and np.shape(back) == np.shape(array)
        )
        assert isinstance(back, np.generic) == isinstance(array, np.generic)
    record = ArrayRecord({"w": Array(np.ones((2, 2), np.float32))})
    arrays = {}
    assert memory.load(memory.save(record, arrays), arrays)["w"].numpy().tolist() == [
        [1, 1],
        [1, 1],
    ]


def test_strategies_within_strategies_are_remembered():
    made: list[Any] = [
        DifferentialPrivacyServerSideFixedClipping(
            FedAdam(fraction_train=0.5), 1.0, 1.0, 2
        )
        for _ in range(2)
    ]
    made[0].strategy.m_t = {"w": np.ones(2)}
    made[0].clipping_norm = 3.0
    arrays: memory.Arrays = {}
    memory.recall(
        made[1], json.loads(json.dumps(memory.remember(made[0], arrays))), arrays
    )
    assert made[1].strategy.m_t["w"].tolist() == [1, 1]
    assert made[1].clipping_norm == 3.0
    assert memory.forgets(made[0]) == []


def test_what_cannot_be_remembered_is_named():
    strategy: Any = FedAvg()
    strategy.window = {1, 2}
    assert memory.forgets(strategy) == ["window (set)"]


COMMON = {"cohort", "current", "fraction_evaluate", "min_clients", "places"}
COMMON |= {"seed", "server_lr", "server_momentum", "velocity"}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (OurFedAvg, {"weighted"}),
        (OurFedProx, {"weighted", "proximal_mu"}),
        (MinibatchSGD, {"batches", "clip_norm", "groups", "lr"}),
    ],
)
def test_the_names_in_checkpoints_of_ours_stay_what_they_are(kind, names):
    layout = Layout((Entry("w", (2,), "float32", True),))
    saved = memory.remember(kind(layout, 0, 20), {})
    assert set(saved) == COMMON | names


def test_ours_take_payloads_and_flowers_take_arrays():
    layout = Layout((Entry("w", (2,), "float32", True),))
    assert takes_payloads(OurFedAvg(layout, 0, 20))
    assert not takes_payloads(FedAvg())
