"""Opens what a run remembers of its clients, in the run folder's ``checkpoint``."""

from __future__ import annotations

from fedlearn.memory.cast import Cast
from fedlearn.memory.clients import ClientMemory
from fedlearn.memory.downlink import Downlink, Snapshots
from fedlearn.memory.shadow import Shadow
from fedlearn.memory.slots import COPIES, RESIDUALS
from fedlearn.memory.states import States
from fedlearn.memory.vectors import ClientVectors
from fedlearn.memory.versions import Versions, check_length
from fedlearn.records.names import (
    CAST_FOLDER,
    COPIES_FILE,
    RESIDUALS_FILE,
    STATES_FILE,
    VERSIONS_FILE,
)
from fedlearn.records.writing import RunFolder
from fedlearn.runs.parts import Parts
from fedlearn.runs.settle import Settled


def open_memory(settled: Settled, parts: Parts, folder: RunFolder) -> ClientMemory:
    """Return the memory of a run's clients, to be closed at its end.

    Raises RecordError, and ConfigError for a folder whose path is too long.
    """
    layout = parts.layout
    files = {}
    if settled.downlink == "shadow":
        files[COPIES] = COPIES_FILE
    if settled.residuals:
        files[RESIDUALS] = RESIDUALS_FILE
    # Before anything is made: a run that cannot begin leaves nothing.
    if files or settled.downlink == "cast" or parts.app is not None:
        check_length((folder.path / RESIDUALS_FILE).with_suffix(".sqlite"))
    # Opened before the workers are forked, who write into the same files.
    vectors = {
        name: ClientVectors(folder.path / file, settled.clients, layout.floats)
        for name, file in files.items()
    }
    codec = settled.experiment.codec.down
    downlink: Downlink = Snapshots(layout, codec, settled.seed)
    if settled.downlink == "shadow":
        downlink = Shadow(
            layout, codec, settled.seed, vectors[COPIES], parts.starts_elsewhere
        )
    elif settled.downlink == "cast":
        versions = Versions(folder.path / VERSIONS_FILE)
        # Agents are sent the payloads themselves, so they are kept.
        log = folder.path / CAST_FOLDER if settled.agents else None
        initial = parts.initial.floats
        downlink = Cast(
            layout,
            codec,
            settled.seed,
            initial,
            versions,
            log,
            parts.starts_elsewhere,
        )
    # Only a ClientApp has state of its own; our training has none between rounds.
    states = None
    if parts.app is not None:
        states = States(folder.path / STATES_FILE)
    return ClientMemory(downlink, vectors, states)
