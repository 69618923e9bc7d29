"""One reply on which a strategy fails is left out; a strategy that always fails says so."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, QFedAvg

from fedlearn.errors import StrategyError
from fedlearn.flower import enter
from fedlearn.strategies.sparing import spare


def replies(*values: float) -> list[Message]:
    enter()
    return [
        Message(RecordDict({"m": MetricRecord({"v": value})}), 0, "train")
        for value in values
    ]


def numbers(reply: Message) -> list[Any]:
    return list(reply.content.metric_records["m"].values())


def inverse_sum(some: list[Message]) -> float:
    """Return the sum of 1 / v: it fails on a zero."""
    try:
        return sum(1.0 / values[0] for values in map(numbers, some))
    except ZeroDivisionError:
        raise StrategyError("the strategy raised ZeroDivisionError") from None


def test_the_one_reply_at_fault_is_left_out():
    some = replies(1, 2, 0, 4)
    result, odd, reason = spare(inverse_sum, FedAvg(), some, 1, lambda total: True)
    assert (result, odd, reason) == (
        1.75,
        [some[2]],
        "the strategy raised ZeroDivisionError",
    )
    result, odd, reason = spare(inverse_sum, FedAvg(), some[:2], 1, lambda total: True)
    assert (result, odd, reason) == (1.5, [], "")


def test_several_at_fault_by_themselves_are_left_out():
    some = replies(0, 1, 0, 2, 4)
    result, odd, _ = spare(inverse_sum, FedAvg(), some, 1, lambda total: True)
    assert (result, odd) == (1.75, [some[0], some[2]])


@pytest.mark.parametrize(
    ("values", "at_least"), [((0, 0, 1), 1), ((0, 1), 2), ((0,), 0)]
)
def test_more_than_one_at_fault_is_the_strategys_error(values, at_least):
    with pytest.raises(StrategyError, match="raised ZeroDivisionError"):
        spare(inverse_sum, FedAvg(), replies(*values), at_least, lambda total: True)


def test_what_the_failed_call_has_set_is_undone():
    strategy: Any = FedAvg()
    strategy.calls = 0

    def call(some: list[Message]) -> float:
        strategy.calls += 1
        return inverse_sum(some)

    spare(call, strategy, replies(1, 0), 1, lambda total: True)
    assert strategy.calls == 1


def losses(*values: float) -> list[Message]:
    """Return replies of a model of one weight, with a training loss."""
    enter()
    some = []
    for place, value in enumerate(values):
        arrays = ArrayRecord({"w": Array(np.full(2, 1.0 + place, np.float32))})
        metrics = MetricRecord({"train_loss": value, "num-examples": 5})
        some.append(
            Message(RecordDict({"arrays": arrays, "metrics": metrics}), 0, "train")
        )
    return some


def test_a_strategy_that_empties_what_it_gets_is_called_again_with_all_of_it():
    strategy = QFedAvg(client_learning_rate=0.1, q=0.5)
    strategy.current_arrays = ArrayRecord({"w": Array(np.zeros(2, np.float32))})

    def call(some: list[Message]) -> Any:
        arrays, _ = strategy.aggregate_train(1, some)
        assert arrays is not None
        if not np.isfinite(arrays["w"].numpy()).all():
            raise StrategyError("a model with NaN")
        return arrays["w"].numpy()

    # A loss below zero, to the power of q, is no number.
    some = losses(0.5, -3.0, 0.25, -1.0, 0.75)
    with np.errstate(invalid="ignore"):
        result, odd, _ = spare(call, strategy, some, 1, lambda new: True)
    assert odd == [some[1], some[3]]
    honest = QFedAvg(client_learning_rate=0.1, q=0.5)
    honest.current_arrays = ArrayRecord({"w": Array(np.zeros(2, np.float32))})
    arrays, _ = honest.aggregate_train(1, [some[0], some[2], some[4]])
    assert arrays is not None
    assert np.array_equal(result, arrays["w"].numpy())
