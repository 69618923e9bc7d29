"""Simulated devices in a run: an engine whose answers take virtual time, and a Grid that offers clients by their devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from flwr.app import Message
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
from fedlearn.engine.runner import Outcome, Runner, Task
from fedlearn.engine.serial import Around, Engine
from fedlearn.errors import ConfigError
from fedlearn.plan import Plan
from fedlearn.runs.grid import SimulationGrid
from fedlearn.strategies.cohorts import cohort_of


class Work:
    """How many samples each client goes through, in samples of full length."""

    def __init__(self, runner: Runner) -> None:
        """Take the clients."""
        self.runner = runner
        self._sizes: dict[tuple[int, bool], tuple[int, float]] = {}

    def samples(self, client: int, kind: str, plan: Plan) -> float:
        """Return the samples of a task: of a text, its characters over those of a full line.

        A straggler goes through those of its part; one whose work does not count has done all of it in vain.
        """
        count, share = self._size(client, kind != "train")
        if kind != "train":
            return count * share
        batches = plan.accumulate * min(plan.batch_size or count, count)
        if plan.task == "gradient":
            return batches * share
        taken = (
            turns(plan, client)
            if plan.straggler_work == "partial"
            else plan.steps or plan.epochs
        )
        return taken * (batches if plan.steps else count) * share

    def _size(self, client: int, held_out: bool) -> tuple[int, float]:
        """Return a client's samples, and the mean share of each that is not padding."""
        found = self._sizes.get((client, held_out))
        if found is None:
            samples = self.runner.samples(client, held_out)
            text = self.runner.population.modality == "text" and len(samples)
            found = (
                len(samples),
                float(ends(torch.from_numpy(samples.y.astype(np.int64))).sum())
                / samples.y.size
                if text
                else 1.0,
            )
            self._sizes[client, held_out] = found
        return found


class Timed(Around):
    """An engine on simulated devices: what comes of a task is the inner engine's, unless it comes after the deadline."""

    def __init__(self, inner: Engine, clock: Clock, work: Work, flops: Flops) -> None:
        """Take the engine that does the work; flops: of one sample."""
        self.inner, self.clock, self.work, self.flops, self.workers = (
            inner,
            clock,
            work,
            flops,
            inner.workers,
        )

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task; late ones as errors, as a fleet would have them."""
        asked = {task.client: task for task in tasks}
        self.clock.begin()
        try:
            for outcome in self.inner.run(tasks, payload):
                yield self._timed(asked[outcome.client], outcome)
        finally:
            self.clock.end()

    def _timed(self, task: Task, outcome: Outcome) -> Outcome:
        each = self.flops.training if task.kind == "train" else self.flops.forward
        try:
            flops = each * self.work.samples(task.client, task.kind, task.plan)
        except Exception:  # data that cannot be read has failed the client already
            flops = 0.0
        time, late = self.clock.add(
            task.client, outcome.bytes_down, flops, outcome.bytes_up
        )
        if not late:
            return outcome
        limit = self.clock.deadline_s
        reason = f"late: {time.total:.3g} simulated seconds, and the round ends after {limit:g}"
        missed = replace(
            outcome,
            payload=None,
            metrics={},
            residual=None,
            error=outcome.error or reason,
        )
        if time.away + time.down > limit:  # it never had the model
            missed = replace(
                missed,
                base=None,
                state=None,
                bytes_down=outcome.bytes_down if time.away < limit else 0,
            )
        return missed


class ChosenGrid(SimulationGrid):
    """A SimulationGrid that offers a strategy only some clients to train: as many as it asks, chosen by ``choose``."""

    choose: Callable[[int, int], Sequence[int]]
    """(round, attempt) → the clients; it must be the same each time that it is called in an attempt."""

    _attempt = 0
    _choosing = False

    def begin(self, round: int) -> None:
        """Start a round."""
        super().begin(round)
        self._attempt, self._choosing = 0, True

    def begin_attempt(self) -> None:
        """Start another attempt of the round."""
        super().begin_attempt()
        self._attempt, self._choosing = self._attempt + 1, True

    def get_node_ids(self) -> Iterable[int]:
        """Return the chosen clients while a cohort is made, all clients after."""
        every = super().get_node_ids()
        return self.choose(self.round, self._attempt) if self._choosing else every

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Ask the cohort; whoever evaluates after is of all clients."""
        self._choosing = False
        return super().send_and_receive(messages, timeout=timeout)


def takes_all(strategy: Strategy, clients: int) -> int:
    """Have a strategy take all clients that it is offered, and return how many it would have asked of all."""
    size = cohort_of(strategy, clients)
    inner: Any = getattr(
        strategy, "strategy", strategy
    )  # Flower's DP wrappers hold the one that asks
    if hasattr(inner, "fraction_train"):
        inner.fraction_train = 1.0
        inner.min_available_nodes = min(
            getattr(inner, "min_available_nodes", size), size
        )
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
        """Take the parts; where devices decide who is asked, the strategy takes all that it is offered."""
        population = runner.population
        self.experiment, self.runner, self.devices = experiment, runner, devices
        self.chooses = experiment.devices.cohort != "all"
        self.size = (
            takes_all(strategy, len(population.clients))
            if self.chooses
            else len(population.clients)
        )
        self.flops = count(
            runner.module, population.input_shape, population.modality == "text"
        )
        self.clock = Clock(
            devices, experiment.devices.deadline_s, runner.layout.raw_bytes
        )
        self.work = Work(runner)

    def engine(self, inner: Engine) -> Engine:
        """Return an engine on these devices."""
        return Timed(inner, self.clock, self.work, self.flops)

    def choose(self, round: int, attempt: int) -> Sequence[int]:
        """Return the clients that a strategy is offered: of those that may be asked now, and where they are too few, the next to come."""
        section, seed = self.experiment.devices, self.experiment.experiment.seed
        away = self.devices.away_s(self.clock.now_s)
        if section.cohort == "available":
            return cohort.available(away, self.size, seed, round, attempt)
        expected = self.clock.expected_s(self.flops.training * self._samples)
        there = np.where(away > 0, np.inf, expected)
        found = cohort.fastest(
            there, self.size, section.deadline_s, section.fairness, seed, round, attempt
        )
        soonest = [
            int(client)
            for client in np.argsort(away + expected, kind="stable")
            if away[client] > 0
        ]
        return sorted([*found, *soonest[: self.size - len(found)]])

    @cached_property
    def _samples(self) -> NDArray[np.float64]:
        """Return what each client would go through in a round of ``[train]``, (N,)."""
        train = self.experiment.train
        plan = Plan(
            1, 0, epochs=train.epochs, steps=train.steps, batch_size=train.batch_size
        )
        return np.array(
            [
                self.work.samples(client, "train", plan)
                for client in range(len(self.runner.population.clients))
            ]
        )

    def told(self) -> dict[str, Any]:
        """Return what the manifest says: the profiles, the operations of a sample, and where inference should run."""
        section, x = self.experiment.devices, self.runner.population.test.x
        cloud, size = (
            profile_of(section, section.cloud),
            int(x[0].nbytes) if len(x) else 0,
        )
        counts, profiles, inference = self.devices.counts(), {}, {}
        for name, profile in zip(
            self.devices.names, self.devices.profiles, strict=True
        ):
            found = delay(profile, cloud, size, self.flops.forward)
            profiles[name] = {"clients": counts[name], **vars(profile)}
            inference[name] = {**vars(found), "where": found.where}
        return {
            "profiles": profiles,
            "flops": vars(self.flops),
            "input_bytes": size,
            "cloud": section.cloud,
            "inference": inference,
        }


def checked(experiment: Experiment, clients: int) -> Devices | None:
    """Return the devices of an experiment's clients; None: it simulates none. Raises ConfigError for what does not exist."""
    section = experiment.devices
    if not section.given:
        asks = [f'cohort = "{section.cohort}"'] * (section.cohort != "all") + [
            f"deadline_s = {section.deadline_s:g}"
        ] * bool(section.deadline_s)
        if asks:
            raise ConfigError(f'{asks[0]} needs devices; add mix = "edge", or profiles')
        return None
    profile_of(section, section.cloud)
    return devices(section, clients, experiment.experiment.seed)
