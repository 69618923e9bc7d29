"""`auto`: the engine that a short measurement finds fastest, for this experiment and machine.

A client is trained by itself and in stacks, on the run's own model, data and plan, for
two seconds at most. The choice stands in `manifest.json` with what was measured, and a
resumed run keeps it. Machines may choose differently, and results then differ in their
last bits: to pin them, set the engine that the manifest names.

Legend: C clients of a cohort.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fedlearn.clients.train import train as train_one
from fedlearn.engine.runner import Runner, single_thread
from fedlearn.engine.stacked.engine import Stacker
from fedlearn.engine.stacked.train import Client
from fedlearn.engine.stacked.train import train as train_many
from fedlearn.errors import reason_of
from fedlearn.models import read_state
from fedlearn.plan import Plan

# Clients in a stack: the sizes that are measured.
CHUNKS = (5, 10, 20)

# Seconds of one measurement. A stack that would take longer is not measured.
BUDGET_S = 0.6

# Timed calls of one measurement, at most; the first one is not counted.
_CALLS = 4

# Stacks are chosen if they take at most this share of the pool's time. They change the
# last bits of a result, and a smaller gain is noise.
MAX_TIME_RATIO = 0.85


@dataclass(frozen=True)
class EngineChoice:
    """An engine, and the reason for it."""

    kind: str
    # Clients in a stack; 0: the engine's own choice.
    chunk: int
    # Processes; 0: one per core.
    workers: int
    reason: str
    # Milliseconds of a cohort's local training by engine, as far as they were measured.
    estimated_ms: Mapping[str, float] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return the entry of the manifest."""
        rounded = {}
        for name, ms in self.estimated_ms.items():
            rounded[name] = round(ms, 2)
        return {"why": self.reason, "estimated_ms": rounded}


def choose(runner: Runner, plan: Plan, cohort: int, workers: int) -> EngineChoice:
    """Return the engine for cohorts of C clients. workers: processes, 0 = one per core."""
    if runner.device != "cpu":
        reason = f"on {runner.device} one call does the work of a cohort"
        return EngineChoice("stacked", 0, workers, reason)
    single_thread()
    processes = workers or len(os.sched_getaffinity(0))
    stacker = Stacker(runner, 0, plan)
    if stacker.not_stacked:
        return EngineChoice("pool", 0, workers, stacker.not_stacked)
    try:
        estimates = _estimates(runner, plan, cohort, processes)
    except Exception as error:
        # A fault of a client or of the model shows in the rounds.
        reason = f"the probe failed: {reason_of(error)}"
        return EngineChoice("pool", 0, workers, reason)
    return _fastest(estimates, workers)


def _fastest(estimates: Mapping[str, float], workers: int) -> EngineChoice:
    """Return the best stack where it gains enough, and otherwise the pool."""
    stacks = {}
    for chunk in CHUNKS:
        if f"stacked {chunk}" in estimates:
            stacks[chunk] = estimates[f"stacked {chunk}"]
    best = min(stacks, key=lambda chunk: stacks[chunk], default=0)
    if best and stacks[best] <= MAX_TIME_RATIO * estimates["pool"]:
        ratio = stacks[best] / estimates["pool"]
        reason = f"stacks of {best} take {ratio:.2f} of the pool's time"
        return EngineChoice("stacked", best, workers, reason, estimates)
    return EngineChoice("pool", 0, workers, "stacks gain nothing here", estimates)


def _estimates(
    runner: Runner, plan: Plan, cohort: int, processes: int
) -> dict[str, float]:
    """Return the milliseconds of a cohort's training by engine, on so many processes."""
    start = read_state(runner.module, runner.layout)
    count = min(CHUNKS[-1], cohort, len(runner.population.clients))
    clients = [Client(c, start, runner.tensors(c)) for c in range(count)]
    # A client without samples fails, and cannot be measured.
    clients = [client for client in clients if len(client.data)]

    # One client stands for all, and its time decides which stacks fit into the budget.
    middle = clients[len(clients) // 2]
    client_ms = _best_ms(
        partial(
            train_one,
            runner.module,
            runner.layout,
            plan,
            start,
            middle.data,
            middle.number,
        )
    )
    estimates = {"pool": math.ceil(cohort / processes) * client_ms}
    for chunk in CHUNKS:
        if chunk > len(clients) or chunk * client_ms > 1e3 * BUDGET_S:
            continue
        stack = clients[:chunk]
        stack_ms = _best_ms(
            partial(train_many, runner.module, runner.layout, plan, stack)
        )
        # The busiest process decides when a cohort is done.
        stacks = math.ceil(cohort / chunk)
        estimates[f"stacked {chunk}"] = math.ceil(stacks / processes) * stack_ms
    return estimates


def _best_ms(call: Callable[[], Any]) -> float:
    """Return the shortest time of a few calls, in milliseconds.

    There are three calls, or as many as half of the budget allows, after a first one.
    """
    first = _seconds(call)
    seconds = [first]
    while len(seconds) < _CALLS and sum(seconds) + seconds[-1] < BUDGET_S / 2:
        seconds.append(_seconds(call))
    # The first call fills caches, and counts only where no other followed.
    counted = seconds[1:] or [first]
    # The shortest: other processes can only make a call longer.
    return 1e3 * min(counted)


def _seconds(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
