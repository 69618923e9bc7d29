"""Opens what a run remembers of its clients, in the run folder's ``checkpoint``."""

from __future__ import annotations

from fedlearn.memory.cast import Cast
from fedlearn.memory.clients import ClientMemory
from fedlearn.memory.downlink import Downlink, Snapshots
from fedlearn.memory.shadow import Shadow
from fedlearn.memory.slots import COPIES, RESIDUALS
from fedlearn.memory.states import States
from fedlearn.memory.vectors import ClientVectors
from fedlearn.memory.versions import Versions
from fedlearn.records.writing import RunFolder
from fedlearn.runs.parts import Parts
from fedlearn.runs.settle import Settled


def open_memory(settled: Settled, parts: Parts, folder: RunFolder) -> ClientMemory:
    """Return the memory of a run's clients, to be closed at its end. Raises RecordError."""
    place = folder.path / "checkpoint"
    layout = parts.layout
    names = []
    if settled.downlink == "shadow":
        names.append(COPIES)
    if settled.residuals:
        names.append(RESIDUALS)
    vectors = {
        name: ClientVectors(place / f"{name}.f32", settled.clients, layout.floats)
        for name in names
    }
    codec = settled.experiment.codec.down
    downlink: Downlink = Snapshots(layout, codec, settled.seed)
    if settled.downlink == "shadow":
        downlink = Shadow(layout, codec, settled.seed, vectors[COPIES])
    elif settled.downlink == "cast":
        versions = Versions(place / "seen.sqlite")
        # Agents are sent the payloads themselves, so they are kept.
        log = place / "cast" if settled.agents else None
        initial = parts.initial.floats
        downlink = Cast(layout, codec, settled.seed, initial, versions, log)
    states = None
    if parts.app is not None:
        states = States(place / "states.sqlite")
    return ClientMemory(downlink, vectors, states)
