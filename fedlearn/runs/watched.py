"""An engine that is looked at: how long its clients train, and how many operations that takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fedlearn.clients.train import train
from fedlearn.devices.flops import Flops, count
from fedlearn.engine.protocol import Engine, Layer
from fedlearn.engine.runner import Runner
from fedlearn.engine.task import Outcome, Task
from fedlearn.errors import RunError
from fedlearn.models import read_state
from fedlearn.reporting.profile import RoundTraining
from fedlearn.runs.devices import Workload
from fedlearn.runs.layers import Site, Stack
from fedlearn.system.files import PRIVATE

# Steps that a trace shows, at most: they repeat, and its file grows by some 100 kB with
# each.
STEPS = 10


class Watched:
    """What is seen of an engine, round by round; see `layer`.

    slowest: the task that took longest so far, and ``runner`` the clients that it is of;
    both are None until a run has begun.
    """

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.rounds: dict[int, RoundTraining] = {}
        self.slowest: Task | None = None
        self.runner: Runner | None = None
        self._longest_s = 0.0

    def layer(self, stack: Stack, site: Site) -> Stack:
        """Return a stack whose engine is looked at."""
        self.runner = site.runner
        return replace(stack, engine=_WatchedEngine(stack.engine, site.runner, self))

    def see(
        self, task: Task, seconds: float, workers: int, flops: float | None
    ) -> None:
        """Note a client's training. flops: that it took; None: they are not known."""
        round = task.plan.round
        start_flops = None if flops is None else 0.0
        training = self.rounds.get(round) or RoundTraining(
            round, workers, flops=start_flops
        )
        # The slowest client is where a user looks first.
        if seconds > training.slowest_s:
            training = replace(training, slowest_client=task.client, slowest_s=seconds)
        if seconds > self._longest_s:
            self.slowest = task
            self._longest_s = seconds
        total_flops = None
        if flops is not None:
            total_flops = (training.flops or 0.0) + flops
        training_s = training.training_s + seconds
        self.rounds[round] = replace(training, training_s=training_s, flops=total_flops)


class _WatchedEngine(Layer):
    """An engine that is looked at; what comes of a task is the inner engine's own."""

    def __init__(self, inner: Engine, runner: Runner, watched: Watched) -> None:
        """Take the engine whose clients these are, and what notes what is seen."""
        super().__init__(inner)
        self._watched = watched
        self._workload = Workload(runner)
        self._flops: Flops | None = None
        # What a ClientApp does with a plan is its own affair.
        if runner.app is None:
            population = runner.population
            text = population.modality == "text"
            self._flops = count(runner.module, population.input_shape, text)

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield the engine's outcomes, and note those that trained."""
        by_client = {task.client: task for task in tasks}
        # More workers than clients stand idle, and their time is nobody's.
        workers = min(self.workers, len(tasks))
        for outcome in self.inner.run(tasks, payload):
            task = by_client[outcome.client]
            # Zero seconds: it failed before it trained, and says nothing of the
            # machine.
            if task.trains and outcome.train_s > 0:
                flops = self._training_flops(task)
                self._watched.see(task, outcome.train_s, workers, flops)
            yield outcome

    def _training_flops(self, task: Task) -> float | None:
        if self._flops is None:
            return None
        samples = self._workload.samples(task.client, task.kind, task.plan)
        return self._flops.training * samples


def trace(runner: Runner, task: Task, path: Path) -> None:
    """Train a task's client once more, and write what torch's operators took.

    It trains for at most `STEPS` steps, and the update is thrown away. The file is JSON as
    Chrome's tracing and Perfetto read it. Raises what training raises, and RunError when
    the file cannot be written.
    """
    # Or torch's profiler tells standard error that it starts and stops.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    steps = min(task.plan.steps or STEPS, STEPS)
    plan = replace(task.plan, steps=steps)
    start = read_state(runner.module, runner.layout)
    samples = runner.tensors(task.client)

    def train_once() -> None:
        train(runner.module, runner.layout, plan, start, samples, task.client)

    with runner.alone(task.kind, plan, task.client):
        # The first time sets things up, which is no part of a step.
        train_once()
        with torch.profiler.profile() as profile:
            train_once()
    try:
        profile.export_chrome_trace(str(path))
        # torch writes it as the umask says.
        path.chmod(PRIVATE)
    except (OSError, RuntimeError) as error:
        raise RunError(f"cannot write the trace {path}: {error}") from error
