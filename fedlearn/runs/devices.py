"""Simulated devices in a run: an engine whose answers take virtual time.

Where the config says so, devices also decide which clients a strategy is offered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedlearn.clients.batches import ends
from fedlearn.clients.train import turns
from fedlearn.config import Experiment
from fedlearn.devices import cohort
from fedlearn.devices.clock import Clock
from fedlearn.devices.delay import delay
from fedlearn.devices.flops import Flops, count
from fedlearn.devices.profiles import Devices, devices, profile_of
from fedlearn.engine.protocol import Engine, Layer
from fedlearn.engine.runner import Runner
from fedlearn.engine.task import Outcome, Task
from fedlearn.errors import ConfigError
from fedlearn.plan import Plan, is_training
from fedlearn.strategies.cohorts import cohort_of


class Workload:
    """How many samples each client goes through, in samples of full length."""

    def __init__(self, runner: Runner) -> None:
        """Take the clients."""
        self.runner = runner
        # (client, held out) → samples, and the mean share of each that is not padding.
        self._sizes: dict[tuple[int, bool], tuple[int, float]] = {}

    def samples(self, client: int, kind: str, plan: Plan) -> float:
        """Return the samples of a task; a text counts by its characters over a full line.

        A straggler goes through those of its part; one whose work does not count has done
        all of it in vain.
        """
        is_evaluation = not is_training(kind)
        count, share = self._size(client, is_evaluation)
        # An evaluation goes over each sample once.
        if is_evaluation:
            return count * share
        # A batch larger than a client's data holds all of it, and no more.
        step = plan.accumulate * min(plan.batch_size or count, count)
        if plan.answer == "gradient":
            return step * share
        repeats = plan.steps or plan.epochs
        if plan.straggler_work == "partial":
            repeats = turns(plan, client)
        return repeats * (step if plan.steps else count) * share

    def _size(self, client: int, held_out: bool) -> tuple[int, float]:
        # Reading a client's data may take longer than training on it; its size stays.
        size = self._sizes.get((client, held_out))
        if size is None:
            samples = self.runner.samples(client, held_out)
            share = 1.0
            # Padding is skipped by the models, so it takes no time on a device either.
            if self.runner.population.modality == "text" and len(samples):
                lengths = ends(torch.from_numpy(samples.y.astype(np.int64)))
                share = float(lengths.sum()) / samples.y.size
            size = (len(samples), share)
            self._sizes[client, held_out] = size
        return size


class Timed(Layer):
    """An engine on simulated devices: an outcome is the inner engine's, unless it is late."""

    def __init__(
        self, inner: Engine, clock: Clock, workload: Workload, flops: Flops
    ) -> None:
        """Take the engine that does the work. flops: of one sample."""
        super().__init__(inner)
        self.clock = clock
        self.workload = workload
        self.flops = flops

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task; late ones as errors, as a fleet would have them."""
        by_client = {task.client: task for task in tasks}
        self.clock.begin()
        try:
            for outcome in self.inner.run(tasks, payload):
                yield self._timed(by_client[outcome.client], outcome)
        finally:
            # Also when the round fails: the next attempt starts at the time reached.
            self.clock.end()

    def _timed(self, task: Task, outcome: Outcome) -> Outcome:
        sample_flops = self.flops.forward
        if task.trains:
            sample_flops = self.flops.training
        try:
            samples = self.workload.samples(task.client, task.kind, task.plan)
        # Data that cannot be read has failed the client already.
        except Exception:
            samples = 0.0
        time, late = self.clock.add(
            task.client, outcome.bytes_down, sample_flops * samples, outcome.bytes_up
        )
        if not late:
            return outcome
        limit_s = self.clock.deadline_s
        reason = (
            f"late: {time.total:.3g} simulated seconds, "
            f"and the round ends after {limit_s:g}"
        )
        # As the server sees it: without the update, whatever the client computed.
        missed = replace(
            outcome,
            payload=None,
            answer=None,
            metrics={},
            kept={},
            error=outcome.error or reason,
        )
        if time.away + time.down <= limit_s:
            return missed
        # It never had the model; what was sent before it left was sent in vain.
        bytes_down = outcome.bytes_down if time.away < limit_s else 0
        return replace(missed, base=None, state=None, bytes_down=bytes_down)


def takes_all(strategy: Strategy, clients: int) -> int:
    """Have a strategy take all clients that it is offered.

    Returns how many it would have asked of all.
    """
    size = cohort_of(strategy, clients)
    # Flower's wrappers for differential privacy hold the strategy that asks.
    asking: Any = getattr(strategy, "strategy", strategy)
    if hasattr(asking, "fraction_train"):
        # We offer it exactly its cohort, of which it must not draw a part again.
        asking.fraction_train = 1.0
        available = getattr(asking, "min_available_nodes", size)
        asking.min_available_nodes = min(available, size)
    return size


class Setting:
    """The simulated devices of one experiment, and what follows from them."""

    def __init__(
        self,
        experiment: Experiment,
        runner: Runner,
        devices: Devices,
        strategy: Strategy,
    ) -> None:
        """Take the parts.

        Where devices decide who is asked, the strategy takes all that it is offered.
        """
        population = runner.population
        self.experiment = experiment
        self.runner = runner
        self.devices = devices
        self.chooses = experiment.devices.cohort != "all"
        self.size = len(population.clients)
        if self.chooses:
            self.size = takes_all(strategy, len(population.clients))
        text = population.modality == "text"
        self.flops = count(runner.module, population.input_shape, text)
        deadline_s = experiment.devices.deadline_s
        self.clock = Clock(devices, deadline_s, runner.layout.raw_bytes)
        self.workload = Workload(runner)

    def engine(self, inner: Engine) -> Engine:
        """Return an engine on these devices."""
        return Timed(inner, self.clock, self.workload, self.flops)

    def choose(self, round: int, attempt: int) -> Sequence[int]:
        """Return the clients that a strategy is offered.

        They can be asked now; where those are too few, the next to come are added.
        """
        section = self.experiment.devices
        seed = self.experiment.experiment.seed
        away_s = self.devices.away_s(self.clock.now_s)
        if section.cohort == "available":
            return cohort.available(away_s, self.size, seed, round, attempt)
        expected_s = self.clock.expected_s(self.flops.training * self._samples)
        fastest = cohort.fastest(
            # Who is away cannot be fast, whatever its device.
            np.where(away_s > 0, np.inf, expected_s),
            self.size,
            section.deadline_s,
            section.fairness,
            seed,
            round,
            attempt,
        )
        # So a round has its size even while most devices are away.
        missing = self.size - len(fastest)
        return sorted([*fastest, *_soonest(away_s, expected_s)[:missing]])

    @cached_property
    def _samples(self) -> NDArray[np.float64]:
        """Return what each client would go through in a round of ``[train]``, (N,)."""
        train = self.experiment.train
        plan = Plan(
            round=1,
            seed=0,
            epochs=train.epochs,
            steps=train.steps,
            batch_size=train.batch_size,
        )
        clients = range(len(self.runner.population.clients))
        return np.array(
            [self.workload.samples(client, "train", plan) for client in clients]
        )

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of the devices.

        Those are the profiles, the operations of a sample, and where inference should run.
        """
        section = self.experiment.devices
        x = self.runner.population.test.x
        cloud = profile_of(section, section.cloud)
        # A data set without test samples has no shape of a sample to tell.
        input_bytes = int(x[0].nbytes) if len(x) else 0
        counts = self.devices.counts()
        profiles: dict[str, Any] = {}
        inference: dict[str, Any] = {}
        named = zip(self.devices.names, self.devices.profiles, strict=True)
        for name, profile in named:
            times = delay(profile, cloud, input_bytes, self.flops.forward)
            profiles[name] = {"clients": counts[name], **vars(profile)}
            inference[name] = {**vars(times), "where": times.where}
        return {
            "profiles": profiles,
            "flops": vars(self.flops),
            "input_bytes": input_bytes,
            "cloud": section.cloud,
            "inference": inference,
        }


def _soonest(away_s: NDArray[np.float64], expected_s: NDArray[np.float64]) -> list[int]:
    """Return the clients that are away, the one that would be done first at the front."""
    # Stable: equal clients stay in the order of their numbers on every platform.
    order = np.argsort(away_s + expected_s, kind="stable")
    return [int(client) for client in order if away_s[client] > 0]


def checked(experiment: Experiment, clients: int) -> Devices | None:
    """Return the devices of an experiment's clients; None: it simulates none.

    Raises ConfigError for what does not exist.
    """
    section = experiment.devices
    if section.simulated:
        # Its name is looked up for its error, before anything is built.
        profile_of(section, section.cloud)
        return devices(section, clients, experiment.experiment.seed)
    # A setting without devices would have no effect, and silently none.
    setting = ""
    if section.cohort != "all":
        setting = f'cohort = "{section.cohort}"'
    elif section.deadline_s:
        setting = f"deadline_s = {section.deadline_s:g}"
    if setting:
        raise ConfigError(f'{setting} needs devices; add mix = "edge", or profiles')
    return None
