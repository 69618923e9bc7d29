"""Real clients in a run: a fleet in the place of the engine's own clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedlearn.config import Experiment
from fedlearn.engine.fleet import Fleet
from fedlearn.runs.devices import takes_all
from fedlearn.runs.layers import Site, Stack


def with_fleet(stack: Stack, site: Site, fleet: Fleet) -> Stack:
    """Return a stack whose tasks go to a fleet; the inner engine still scores models."""
    settled = site.settled
    # The other cohorts are the fleet's own business, and need no choice here.
    if settled.experiment.fleet.cohort != "fastest":
        return replace(stack, engine=fleet)
    # We choose, so the strategy must take all that it is offered.
    size = takes_all(site.parts.strategy, settled.clients)

    def choose(round: int, attempt: int) -> Sequence[int]:
        return fleet.choose(size, settled.seed, round, attempt)

    return replace(stack, engine=fleet, choose=choose)


def allowances(experiment: Experiment) -> list[str]:
    """Return what agents have to allow, sorted.

    Those are the import paths of the experiment's own model, data and partition, and "dir"
    where its data is a folder.
    """
    data = experiment.data
    names = (experiment.model.name, data.name, data.partition.kind or "")
    # Exactly these: of a whole module an agent takes only what is defined there.
    allowed = {name for name in names if ":" in name}
    # The coordinator would choose which of a device's files are read: its owner says.
    if data.name == "dir":
        # An agent reads a folder of its device only where its owner allows it.
        allowed.add("dir")
    return sorted(allowed)
