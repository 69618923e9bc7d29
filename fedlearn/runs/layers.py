"""Engines as a list of layers: each takes what is below it, and returns itself around it.

From the inside out: the engine of ``[engine] kind``; real agents in its place; collapse;
simulated devices; a profile that looks on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedlearn.devices.clock import Clock
from fedlearn.engine import ENGINES, collapse
from fedlearn.engine.protocol import Engine
from fedlearn.engine.runner import Runner
from fedlearn.memory.clients import ClientMemory
from fedlearn.names import call, find
from fedlearn.runs.devices import Setting
from fedlearn.runs.parts import Parts
from fedlearn.runs.settle import Settled

Choose = Callable[[int, int], Sequence[int]]
"""(round, attempt) → the clients that a strategy is offered; the same at each call."""


@dataclass(frozen=True)
class Site:
    """What layers are made from."""

    settled: Settled
    parts: Parts
    memory: ClientMemory
    runner: Runner


@dataclass(frozen=True)
class Stack:
    """An engine with its layers.

    choose: who is offered to the strategy, where that is not every client. clock: of
    simulated devices. facts: what the layers add to the manifest. has_apps: real clients
    run ClientApps, which know messages of any type.
    """

    engine: Engine
    choose: Choose | None = None
    clock: Clock | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    has_apps: bool = False


Layer = Callable[[Stack, Site], Stack]


def stacked(site: Site, outer: Sequence[Layer | None]) -> Stack:
    """Return the engine of the config with its layers; outer: agents, and who looks on.

    Whatever has been started is closed where a later layer fails. Raises ConfigError,
    and what starting the engine raises.
    """
    # Agents go below devices and collapse, which have checks against them; a profile
    # looks on from outside, so that it sees what the run sees.
    agents, watch = outer
    stack = Stack(_engine(site))
    try:
        for layer in (agents, _collapse, _devices, watch):
            if layer is not None:
                stack = layer(stack, site)
    except BaseException:
        # Worker processes would outlive a run that never began.
        stack.engine.close()
        raise
    return stack


def _engine(site: Site) -> Engine:
    settled = site.settled
    section = settled.experiment.engine
    offered = {
        "runner": site.runner,
        "workers": section.workers,
        "chunk": section.chunk,
        "client_timeout_s": section.client_timeout_s,
        "plan": settled.plan(1, {}),
        "experiment": settled.experiment,
        "brief": settled.brief,
    }
    make = find("engine", section.kind, ENGINES)
    engine: Engine = call("engine", make, {}, offered)
    return engine


def _collapse(stack: Stack, site: Site) -> Stack:
    experiment = site.settled.experiment
    if not experiment.engine.collapse:
        return stack
    # The model is tried with two made-up clients: some cannot be computed together.
    collapsed = collapse.collapsed(
        stack.engine, experiment, site.parts.strategy, site.runner
    )
    return replace(stack, engine=collapsed)


def _devices(stack: Stack, site: Site) -> Stack:
    if site.parts.devices is None:
        return stack
    # Simulated time needs the engine's outcomes, so devices stand outside it.
    setting = Setting(
        site.settled.experiment, site.runner, site.parts.devices, site.parts.strategy
    )
    return replace(
        stack,
        engine=setting.engine(stack.engine),
        choose=setting.choose if setting.chooses else None,
        clock=setting.clock,
        facts={**stack.facts, "devices": setting.facts()},
    )
