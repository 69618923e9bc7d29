"""Patterns seen in other people's strategies, each in a class of our own."""

import random

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, Result, Strategy


class History(FedAvg):
    """A start of its own that prepares and calls its parent; a history on itself."""

    def start(self, grid, initial_arrays, num_rounds=3, *args, **kwargs):
        self.num_rounds = num_rounds
        self.history = []
        result = super().start(grid, initial_arrays, num_rounds, *args, **kwargs)
        assert len(self.history) == 2 * num_rounds
        return result

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.history.append((server_round, len(replies), metrics["train_loss"]))
        return arrays, metrics

    def aggregate_evaluate(self, server_round, replies):
        metrics = super().aggregate_evaluate(server_round, replies)
        self.history.append((server_round, metrics["closeness"]))
        return metrics


class Decay(FedAvg):
    """A configure_train that changes the config, which lives on through the rounds."""

    def configure_train(self, server_round, arrays, config, grid):
        if server_round > 1:
            config["lr"] *= 0.5
        config["server-said"] = f"round {server_round}"
        return super().configure_train(server_round, arrays, config, grid)


class OwnMetrics(FedAvg):
    """Metrics of its own, from replies that have more than it was written for."""

    def __init__(self):
        super().__init__(
            train_metrics_aggr_fn=self._widest,
            evaluate_metrics_aggr_fn=self._worst,
        )

    def _widest(self, records, weighted_by_key):
        metrics = [record["metrics"] for record in records]
        layers = np.max([m["by_layer"] for m in metrics], axis=0)
        norms = [m["grad_norm"] for m in metrics]
        return MetricRecord(
            {"widest_step": max(norms), "by_layer": [float(n) for n in layers]}
        )

    def _worst(self, records, weighted_by_key):
        losses = [record["metrics"]["eval_loss"] for record in records]
        return MetricRecord({"worst_client_loss": max(losses)})


class ByShare(FedAvg):
    """Another key for the weights, with fractions."""

    def __init__(self):
        super().__init__(weighted_by_key="share", fraction_evaluate=0.0)


class Reweighted(FedAvg):
    """Replies whose metrics it changes before its parent averages them."""

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        for reply in replies:
            metrics = reply.content["metrics"]
            metrics["num-examples"] = max(1, round(100 / (1 + metrics["grad_norm"])))
        return super().aggregate_train(server_round, replies)


class BestModel(FedAvg):
    """Keeps its best model, by what clients measured, and ends with that one."""

    best_loss = float("inf")
    best_round = 0
    best: ArrayRecord | None = None

    def start(self, *args, **kwargs):
        result = super().start(*args, **kwargs)
        self.history = [self.best_round, self.best_loss]
        result.arrays = self.best
        return result

    def aggregate_train(self, server_round, replies):
        self.current, metrics = super().aggregate_train(server_round, replies)
        return self.current, metrics

    def aggregate_evaluate(self, server_round, replies):
        metrics = super().aggregate_evaluate(server_round, replies)
        # Round 2 is best: rounds 3 and 4 are made to look worse.
        loss = metrics["eval_loss"] + 10 * max(0, server_round - 2)
        if loss < self.best_loss:
            self.best_loss = loss
            self.best_round = server_round
            self.best = self.current
        return metrics


class StopsEarly(FedAvg):
    """Ends its rounds by raising StopIteration, which its own start awaits."""

    def start(self, *args, **kwargs):
        try:
            return super().start(*args, **kwargs)
        except StopIteration as stop:
            self.history = [str(stop)]
            return Result(arrays=self.current)

    def aggregate_train(self, server_round, replies):
        self.current, metrics = super().aggregate_train(server_round, replies)
        return self.current, metrics

    def aggregate_evaluate(self, server_round, replies):
        metrics = super().aggregate_evaluate(server_round, replies)
        if server_round == 2:
            raise StopIteration(f"enough after {server_round}")
        return metrics


class _Enough(Exception):
    """Its rounds are over."""


class StopsBeforeTraining(StopsEarly):
    """Ends its rounds by an exception of its own, before a round's messages."""

    def start(self, *args, **kwargs):
        try:
            return super().start(*args, **kwargs)
        except _Enough:
            return Result(arrays=self.current)

    def configure_train(self, server_round, arrays, config, grid):
        if server_round == 3:
            raise _Enough
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round, replies):
        return FedAvg.aggregate_evaluate(self, server_round, replies)


class OwnCohort(FedAvg):
    """Messages of its own making, to nodes that it chooses itself."""

    def configure_train(self, server_round, arrays, config, grid):
        nodes = sorted(grid.get_node_ids())
        chosen = [n for i, n in enumerate(nodes) if (i + server_round) % 2]
        config["server-round"] = server_round
        content = RecordDict({"arrays": arrays, "config": config})
        return [
            Message(content=content, message_type="train", dst_node_id=node)
            for node in chosen
        ]


class Momentum(FedAvg):
    """Values of its own between rounds, as numpy arrays on itself."""

    def __init__(self):
        super().__init__(fraction_evaluate=0.5)
        self.velocity = {}

    def configure_train(self, server_round, arrays, config, grid):
        self.before = {name: array.numpy() for name, array in arrays.items()}
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        mean, metrics = super().aggregate_train(server_round, replies)
        new = {}
        for name, array in mean.items():
            step = array.numpy() - self.before[name]
            self.velocity[name] = 0.5 * self.velocity.get(name, 0) + step
            new[name] = Array((self.before[name] + self.velocity[name]).astype("f4"))
        return ArrayRecord(new), metrics


class EverySecond(FedAvg):
    """A model in every second round only, on purpose."""

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        return (arrays if server_round % 2 == 0 else None), metrics


class Wrapper(Strategy):
    """Another strategy inside, to which every verb is passed on."""

    def __init__(self):
        self.inner = FedAvg()
        self.history = []

    def summary(self):
        self.inner.summary()

    def configure_train(self, server_round, arrays, config, grid):
        self.history.append(server_round)
        return self.inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        return self.inner.aggregate_train(server_round, replies)

    def configure_evaluate(self, server_round, arrays, config, grid):
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round, replies):
        return self.inner.aggregate_evaluate(server_round, replies)


class TwoPhases(FedAvg):
    """Its parent's start twice: rounds with one rate, and as many with another."""

    def start(self, grid, initial_arrays, num_rounds=3, train_config=None, **kwargs):
        first = super().start(
            grid, initial_arrays, num_rounds, train_config=train_config, **kwargs
        )
        config = ConfigRecord({"lr": 0.1})
        return super().start(
            grid, first.arrays, num_rounds, train_config=config, **kwargs
        )


class Draws(FedAvg):
    """Draws from Python's own generator, and samples clients by Flower's."""

    def __init__(self):
        super().__init__(fraction_train=0.5, fraction_evaluate=0.5)
        self.history = []

    def configure_train(self, server_round, arrays, config, grid):
        config["lr"] = 0.1 + random.random()
        self.history.append(config["lr"])
        return super().configure_train(server_round, arrays, config, grid)
