"""`auto`: the engine that a short measurement on this machine says is the fastest for this experiment.

A client is trained by itself and with others in a stack, on the run's own model, data and plan, for two seconds at most. The
choice stands in `manifest.json` with what was measured, and a resumed run keeps it. It may differ between machines, and with
it a result's last bits: who needs them pins what the manifest names.
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
from fedlearn.engine.stacked import Stacker
from fedlearn.engine.stacked.train import Client
from fedlearn.engine.stacked.train import train as train_many
from fedlearn.models import read_state
from fedlearn.plan import Plan

CHUNKS = (5, 10, 20)
BUDGET_S = 0.6
"""Of one measurement; a stack that would take longer is not tried."""

GAIN = 0.85
"""What a stack must take of the pool's time at most: its bits are its own, and chance decides less."""


@dataclass(frozen=True)
class Choice:
    """An engine, and why."""

    kind: str
    chunk: int
    workers: int
    why: str
    seen: Mapping[str, float] = field(
        default_factory=dict
    )  # ms of a cohort's local training, as estimated, by engine

    def told(self) -> dict[str, Any]:
        """Return what the manifest has of it."""
        return {
            "why": self.why,
            "estimated_ms": {name: round(ms, 2) for name, ms in self.seen.items()},
        }


def choose(runner: Runner, plan: Plan, cohort: int, workers: int) -> Choice:
    """Return the engine for cohorts of so many clients. workers: processes, 0 = one per core."""
    if runner.device != "cpu":
        return Choice(
            "stacked",
            0,
            workers,
            f"on {runner.device} one call does the work of a cohort",
        )
    single_thread()
    processes = workers or len(os.sched_getaffinity(0))
    stacker = Stacker(runner, 0, plan)
    if stacker.why:
        return Choice("pool", 0, workers, stacker.why)
    try:
        seen = _measure(runner, plan, cohort, processes)
    except (
        Exception
    ) as error:  # what is wrong with a client or the model shows in the rounds
        return Choice(
            "pool", 0, workers, f"the probe failed: {type(error).__name__}: {error}"
        )
    stacks = {
        chunk: ms
        for chunk in CHUNKS
        if (ms := seen.get(f"stacked {chunk}")) is not None
    }
    best = min(stacks, key=lambda chunk: stacks[chunk], default=0)
    if best and stacks[best] <= GAIN * seen["pool"]:
        return Choice(
            "stacked",
            best,
            workers,
            f"stacks of {best} take {stacks[best] / seen['pool']:.2f} of the pool's time",
            seen,
        )
    return Choice("pool", 0, workers, "stacks gain nothing here", seen)


def _measure(
    runner: Runner, plan: Plan, cohort: int, processes: int
) -> dict[str, float]:
    """Return the milliseconds of a cohort's training by engine, on so many processes."""
    start = read_state(runner.module, runner.layout)
    most = min(CHUNKS[-1], cohort, len(runner.population.clients))
    clients = [Client(c, start, runner.tensors(c)) for c in range(most)]
    clients = [c for c in clients if len(c.data)]

    middle = clients[len(clients) // 2]
    each = _best_ms(
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
    seen = {"pool": math.ceil(cohort / processes) * each}
    for chunk in CHUNKS:
        if chunk <= len(clients) and chunk * each <= 1e3 * BUDGET_S:
            taken = _best_ms(
                partial(train_many, runner.module, runner.layout, plan, clients[:chunk])
            )
            seen[f"stacked {chunk}"] = (
                math.ceil(math.ceil(cohort / chunk) / processes) * taken
            )
    return seen


def _best_ms(call: Callable[[], Any]) -> float:
    """Return the shortest of three calls, or of as many as fit into the budget, the first one apart: it makes caches."""
    begun = time.perf_counter()
    call()
    taken = [time.perf_counter() - begun]
    while len(taken) < 4 and sum(taken) + taken[-1] < BUDGET_S / 2:
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return 1e3 * min(taken[1:] or taken)
