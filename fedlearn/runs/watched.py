"""An engine that is looked at: how long its clients train, and how many operations that takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch

from fedlearn.clients.train import train
from fedlearn.devices.flops import Flops, count
from fedlearn.engine.runner import Outcome, Runner, Task
from fedlearn.engine.serial import Around, Engine
from fedlearn.errors import RunError
from fedlearn.models import read_state
from fedlearn.reporting.profile import RoundTraining
from fedlearn.runs.devices import Work

STEPS = 10
"""Steps that a trace shows, at most: they repeat, and its file grows by some 100 kB with each."""


class Watched(Around):
    """What is seen of an engine, round by round; what comes of a task is the engine's own."""

    runner: Runner
    workers: int

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.rounds: dict[int, RoundTraining] = {}
        self.slowest: Task | None = None  # the task that took longest
        self._longest_s = 0.0
        self._flops: Flops | None = None
        self._work: Work

    def around(self, inner: Engine, runner: Runner) -> Self:
        """Stand before an engine whose clients these are."""
        self.inner, self.runner, self.workers, self._work = (
            inner,
            runner,
            inner.workers,
            Work(runner),
        )
        if runner.app is None:  # what a ClientApp does with a plan is its own affair
            population = runner.population
            self._flops = count(
                runner.module, population.input_shape, population.task == "text"
            )
        return self

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield the engine's outcomes, and take note of those that trained."""
        asked = {task.client: task for task in tasks}
        for outcome in self.inner.run(tasks, payload):
            task = asked[outcome.client]
            if task.kind == "train" and outcome.train_s > 0:
                self._see(task, outcome.train_s, min(self.workers, len(tasks)))
            yield outcome

    def _see(self, task: Task, seconds: float, workers: int) -> None:
        round = task.plan.round
        seen = self.rounds.get(round) or RoundTraining(
            round, workers, flops=0.0 if self._flops else None
        )
        if seconds > seen.slowest_s:
            seen = replace(seen, slowest_client=task.client, slowest_s=seconds)
        if seconds > self._longest_s:
            self.slowest, self._longest_s = task, seconds
        flops = (
            None
            if self._flops is None
            else (seen.flops or 0.0) + self._flops.training * self._samples(task)
        )
        self.rounds[round] = replace(
            seen, training_s=seen.training_s + seconds, flops=flops
        )

    def _samples(self, task: Task) -> float:
        return self._work.samples(task.client, task.kind, task.plan)


def trace(runner: Runner, task: Task, path: Path) -> None:
    """Train a task's client once more, for at most `STEPS` steps, and write what torch's operators took.

    The file is JSON as Chrome's tracing and Perfetto read it. The update is thrown away. Raises what training raises, and
    RunError when the file cannot be written.
    """
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "6"
    )  # or torch's profiler tells standard error that it starts and stops
    plan = replace(task.plan, steps=min(task.plan.steps or STEPS, STEPS))
    start, data = read_state(runner.module, runner.layout), runner.tensors(task.client)
    with runner.alone(task.kind, plan, task.client):
        train(
            runner.module, runner.layout, plan, start, data, task.client
        )  # the first one sets things up
        with torch.profiler.profile() as seen:
            train(runner.module, runner.layout, plan, start, data, task.client)
    try:
        seen.export_chrome_trace(str(path))
    except (OSError, RuntimeError) as error:
        raise RunError(f"cannot write the trace {path}: {error}") from error
