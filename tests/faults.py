"""Clients and strategies that go wrong on purpose, by import path: ``tests.faults:name``."""

import fcntl
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedlearn.strategies.fedavg import FedAvg as OurFedAvg


def reply(message: Message, arrays: dict[str, np.ndarray], **metrics) -> Message:
    content = RecordDict(
        {
            "arrays": ArrayRecord({k: Array(v) for k, v in arrays.items()}),
            "metrics": MetricRecord(metrics),
        }
    )
    return Message(content, reply_to=message)


def moved(message: Message, by: float) -> dict[str, np.ndarray]:
    record = next(iter(message.content.array_records.values()))
    return {k: v.numpy() + np.float32(by) for k, v in record.items()}


def client_app(answer) -> ClientApp:
    app = ClientApp()
    app.train()(answer)
    return app


def _by_client(message: Message, context: Context) -> Message:
    client = int(context.node_config["partition-id"])
    state: Any = context.state
    times = state["seen"]["times"] + 1 if "seen" in state else 1
    state["seen"] = MetricRecord({"times": times})
    return reply(
        message, moved(message, client + 1), **{"num-examples": 10, "times": times}
    )


def _third_fails(message: Message, context: Context) -> Message:
    if int(context.node_config["partition-id"]) % 3 == 0:
        raise RuntimeError("sensor unplugged")
    return _by_client(message, context)


def _reads_run_config(message: Message, context: Context) -> Message:
    decay = float(context.run_config.get("decay", 0.5))
    return reply(
        message, moved(message, decay), **{"num-examples": context.run_config["batch"]}
    )


reads_run_config = client_app(_reads_run_config)


def _one_is_nan(message: Message, context: Context) -> Message:
    client = int(context.node_config["partition-id"])
    return reply(
        message,
        moved(message, np.nan if client == 1 else client),
        **{"num-examples": 10},
    )


def _no_examples(message: Message, context: Context) -> Message:
    return reply(message, moved(message, 1), **{"num-examples": 0})


def _odd_metrics(message: Message, context: Context) -> Message:
    extra = {"extra": 1.0} if int(context.node_config["partition-id"]) == 1 else {}
    return reply(message, moved(message, 1), **{"num-examples": 10}, **extra)


def _all_fail(message: Message, context: Context) -> Message:
    raise RuntimeError("no power")


def _loads_in_processes(message: Message, context: Context) -> Message:
    """Answer with what a loader's own processes bring, in an order that torch draws."""
    samples = TensorDataset(torch.arange(11.0))
    loader = DataLoader(samples, batch_size=3, shuffle=True, num_workers=2)
    total = sum(place * float(batch.sum()) for place, (batch,) in enumerate(loader))
    return reply(message, moved(message, total / 1000), **{"num-examples": 11})


def _sleeps_beside_a_loader(message: Message, context: Context) -> Message:
    """Sleep for ever in the middle of a loader's samples; the file PIDS says who does."""
    loader = DataLoader(TensorDataset(torch.arange(99.0)), num_workers=1)
    for _ in loader:
        children = [str(process.pid) for process in multiprocessing.active_children()]
        with open(os.environ["PIDS"], "a") as file:
            file.write(" ".join([str(os.getpid()), *children]) + "\n")
        time.sleep(600)
    raise RuntimeError("a loader of nothing")


def _third_sleeps(message: Message, context: Context) -> Message:
    if int(context.node_config["partition-id"]) % 3 == 0:
        time.sleep(600)
    return _by_client(message, context)


third_sleeps = client_app(_third_sleeps)
loads_in_processes = client_app(_loads_in_processes)
sleeps_beside_a_loader = client_app(_sleeps_beside_a_loader)


class FailsOnTwo(FedAvg):
    """Raises in round 2 unless two of its three clients are missing; one is not enough."""

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        if server_round == 2 and len(replies) > 1:
            raise KeyError("two of them")
        return super().aggregate_train(server_round, replies)


by_client, third_fails, one_is_nan = (
    client_app(_by_client),
    client_app(_third_fails),
    client_app(_one_is_nan),
)
no_examples, odd_metrics, all_fail = (
    client_app(_no_examples),
    client_app(_odd_metrics),
    client_app(_all_fail),
)


class Forgetful(FedAvg):
    """A strategy with a state that no checkpoint can hold."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.window = {1, 2}


class Breaks(FedAvg):
    """A strategy with a bug."""

    def aggregate_train(self, server_round, replies):
        raise KeyError("typo")


class Poisons(FedAvg):
    """A strategy that makes a model of NaN."""

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        assert arrays is not None
        return ArrayRecord(
            {k: Array(v.numpy() * np.float32(np.nan)) for k, v in arrays.items()}
        ), metrics


class WrongSign(OurFedAvg):
    """Our FedAvg with its momentum the wrong way round."""

    def _step(self, before, mean):
        self.velocity = -self.velocity
        return super()._step(before, mean)


class Kills(nn.Module):
    """A model that kills its worker on a batch of ``size`` samples.

    It does so ``times`` times over, counted in a file.
    """

    def __init__(
        self, input_shape, classes, size: int, counter: str, times: int
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(int(np.prod(input_shape)), classes)
        self.size, self.counter, self.times = size, Path(counter), times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) == self.size:
            with open(self.counter, "ab") as file:
                fcntl.flock(
                    file, fcntl.LOCK_EX
                )  # two workers must not take the same turn
                if (
                    os.fstat(file.fileno()).st_size < self.times
                ):  # not tell(): the other may have written since it was opened
                    file.write(b"x")
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
        return self.linear(x.flatten(1))


class Slow(nn.Module):
    """A linear model that takes its time: for tests that interrupt a run."""

    def __init__(self, input_shape, classes, seconds: float) -> None:
        super().__init__()
        self.linear, self.seconds = (
            nn.Linear(int(np.prod(input_shape)), classes),
            seconds,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            time.sleep(self.seconds)
        return self.linear(x.flatten(1))


class Waits(nn.Module):
    """A linear model that waits in each first step until a file exists, a minute at most."""

    def __init__(self, input_shape, classes, path: str) -> None:
        super().__init__()
        self.linear = nn.Linear(int(np.prod(input_shape)), classes)
        self.path = Path(path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        until = time.monotonic() + 60
        while self.training and not self.path.exists() and time.monotonic() < until:
            time.sleep(0.01)
        return self.linear(x.flatten(1))


class LosesItself(nn.Module):
    """A model that trains, and answers NaN when it is evaluated after that."""

    def __init__(self, input_shape, classes) -> None:
        super().__init__()
        self.linear = nn.Linear(int(np.prod(input_shape)), classes)
        self.trained: torch.Tensor
        self.register_buffer("trained", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.trained.fill_(1.0)
        scores = self.linear(x.flatten(1))
        return (
            scores if self.training or float(self.trained) < 0.5 else scores * torch.nan
        )
