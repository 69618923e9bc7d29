"""Strategies with a ``start`` of their own, by import path: ``tests.starts:name``."""

from dataclasses import dataclass
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg, Result

VERBS = {
    "configure_train",
    "aggregate_train",
    "configure_evaluate",
    "aggregate_evaluate",
}


class Prepared(FedAvg):
    """Sets something in its start, which its verbs need."""

    def start(self, *args, **kwargs):
        self.ready = 1
        return super().start(*args, **kwargs)

    def configure_train(self, server_round, arrays, config, grid):
        assert self.ready == server_round
        assert not VERBS & set(vars(self))
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        self.ready += 1
        return super().aggregate_train(server_round, replies)


class Slotted(Prepared):
    """Has slots."""

    __slots__ = ("ready",)


class Closed(Prepared):
    """Lets nobody set attributes that it does not know, and makes up those that it lacks."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in VERBS:
            raise AttributeError(name)
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "begun":
            return self.ready
        raise AttributeError(name)

    def configure_evaluate(self, server_round, arrays, config, grid):
        assert self.begun == server_round + 1
        return super().configure_evaluate(server_round, arrays, config, grid)


@dataclass(frozen=True)
class _Share:
    share: float = 0.5


class Frozen(_Share, Prepared):
    """Is a frozen dataclass whose own attributes are set around it."""

    def __init__(self, **options: Any) -> None:
        values = vars(FedAvg(**options))
        vars(self).update(values)

    def start(self, *args, **kwargs):
        vars(self)["ready"] = 1
        return FedAvg.start(self, *args, **kwargs)

    def aggregate_train(self, server_round, replies):
        vars(self)["ready"] += 1
        return FedAvg.aggregate_train(self, server_round, replies)


class Shadowed(FedAvg):
    """Has a verb that is an attribute of the object."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls = 0
        self.aggregate_train = self._count  # type: ignore[method-assign]

    def _count(self, server_round, replies):
        self.calls += 1
        assert self.calls == server_round
        return FedAvg.aggregate_train(self, server_round, replies)

    def start(self, *args, **kwargs):
        result = super().start(*args, **kwargs)
        assert self.calls == kwargs["num_rounds"]
        return result


class Loop(FedAvg):
    """Goes its own way round by round; subclasses change the steps."""

    def start(self, grid, initial_arrays, num_rounds=3, evaluate_fn=None):  # type: ignore[override]
        self.score = evaluate_fn
        arrays = initial_arrays
        for number in self.numbers(num_rounds):
            arrays = self.step(number, arrays, grid)
            if self.ends(number, arrays):
                break
        return self.result(arrays)

    def numbers(self, rounds):
        return range(1, rounds + 1)

    def step(self, number, arrays, grid):
        messages = self.configure_train(number, arrays, ConfigRecord(), grid)
        model, _ = self.aggregate_train(number, grid.send_and_receive(messages))
        return cast(ArrayRecord, model)

    def ends(self, number, arrays):
        return False

    def result(self, arrays):
        return Result(arrays=arrays)


class Scores(Loop):
    """Looks at every round's score, the first model's too."""

    def start(self, grid, initial_arrays, num_rounds=3, evaluate_fn=None):  # type: ignore[override]
        self.scores = [evaluate_fn(0, initial_arrays)["accuracy"]]
        super().start(grid, initial_arrays, num_rounds, evaluate_fn)
        print("scores", *self.scores)

    def ends(self, number, arrays):
        self.scores.append(self.score(number, arrays)["accuracy"])
        return False


class StopsEarly(Loop):
    """Ends when the loss is low enough for it, which is after two rounds."""

    def ends(self, number, arrays):
        return self.score(number, arrays)["loss"] < 1e9 and number == 2


class KeepsFirst(Loop):
    """Returns the model of its first round."""

    def ends(self, number, arrays):
        if number == 1:
            self.first = arrays
        return False

    def result(self, arrays):
        return Result(arrays=self.first)


class StopsByItself(FedAvg):
    """Raises an end of its rounds where it aggregates, and awaits it in its start."""

    last = 2

    def start(self, *args, **kwargs):
        try:
            return super().start(*args, **kwargs)
        except StopIteration:
            return None

    def aggregate_train(self, server_round, replies):
        if server_round > self.last:
            raise StopIteration("enough")
        return super().aggregate_train(server_round, replies)


class StopsAtOnce(StopsByItself):
    last = 0


class LetsPass(StopsByItself):
    """Raises what its start does not await."""

    def configure_train(self, server_round, arrays, config, grid):
        raise KeyError("stage")


class DoesNothing(Loop):
    def numbers(self, rounds):
        return []


class FromZero(Loop):
    def numbers(self, rounds):
        return range(rounds)


class TooFew(Loop):
    def numbers(self, rounds):
        return range(1, rounds)


class NeverAggregates(Loop):
    def step(self, number, arrays, grid):
        list(
            grid.send_and_receive(
                self.configure_train(number, arrays, ConfigRecord(), grid)
            )
        )
        return arrays


class NeverConfigures(Loop):
    def step(self, number, arrays, grid):
        return self.aggregate_train(number, [])[0]


class Typo(Loop):
    def step(self, number, arrays, grid):
        raise KeyError("arays")


class Catches(Loop):
    """Takes no exception seriously."""

    def step(self, number, arrays, grid):
        try:
            return super().step(number, arrays, grid)
        except Exception:
            return arrays

    def ends(self, number, arrays):
        try:
            return self.score(number, arrays) is None
        except Exception:
            return False


class NoMessages(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        super().configure_train(server_round, arrays, config, grid)


class NotMessages(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        return list(grid.get_node_ids())


class NoAggregate(FedAvg):
    def aggregate_train(self, server_round, replies):
        super().aggregate_train(server_round, replies)


class OnlyArrays(FedAvg):
    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, replies)[0]


class PlainMetrics(FedAvg):
    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, replies)[0], {"loss": 1.0}


class NoEvaluators(FedAvg):
    def configure_evaluate(self, server_round, arrays, config, grid):
        super().configure_evaluate(server_round, arrays, config, grid)


class LossOnly(FedAvg):
    def aggregate_evaluate(self, server_round, replies):
        metrics = super().aggregate_evaluate(server_round, replies)
        return metrics and metrics["loss"]


class Slows(FedAvg):
    """Halves the learning rate from its second round on, once."""

    def configure_train(self, server_round, arrays, config, grid):
        if server_round == 2:
            config["lr"] = config["lr"] / 2
        return super().configure_train(server_round, arrays, config, grid)
