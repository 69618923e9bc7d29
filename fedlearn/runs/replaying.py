"""Replays a run over agents from its journal, without asking anybody."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from fedlearn.config import Experiment
from fedlearn.engine.fleet import Fleet
from fedlearn.records.names import JOURNAL_FOLDER
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.fleets import with_fleet
from fedlearn.runs.layers import Site, Stack
from fedlearn.runs.simulation import simulate
from fedlearn.server.journal import Journal


def replay(run: Path, experiment: Experiment, display: Progress) -> str:
    """Return the hash of the model that a run's journal leads to.

    It is recomputed from the answers that were counted. Nothing in the run's folder
    changes. Raises RecordError for a journal that is damaged or in use, and what
    `simulate` raises.
    """
    # Opened for this process alone: a run that goes on must not be replayed.
    with closing(Journal(run / JOURNAL_FOLDER)) as journal:

        def answers(stack: Stack, site: Site) -> Stack:
            fleet = Fleet(
                site.runner,
                stack.engine,
                None,
                journal,
                site.memory.downlink,
                experiment.fleet,
            )
            # The run may have been one under `flwr run`, whose answers lie here.
            return replace(with_fleet(stack, site, fleet), has_apps=True)

        with (
            tempfile.TemporaryDirectory(prefix="fedlearn-replay-") as place,
            closing(RunFolder(Path(place) / "run")) as folder,
        ):
            summary = simulate(experiment, folder, display, False, answers)
    return str(summary["model_sha256"])
