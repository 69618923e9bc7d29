"""The rows of a comparison: every model's figures, measured in one process in turns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median

from fedlearn.clients.batches import tensors
from fedlearn.compress.making import DONE_FILE, Bench, device_files, running_file
from fedlearn.compress.measuring import (
    accuracy,
    caller,
    cpu_microseconds,
    peak_memory,
    relative,
    scores,
)
from fedlearn.compress.rows import Candidate
from fedlearn.compress.variants import ORIGINAL
from fedlearn.export.session import session


def measured(bench: Bench, folders: Mapping[str, Path]) -> list[Candidate]:
    """Return the figures of models by their folders, the original among them, not judged yet.

    Raises RunError where a model does not run.
    """
    population = bench.original.population
    data = tensors(population.test, population.modality)
    sample = bench.sample()
    sessions = {name: session(running_file(folders[name])) for name in folders}
    calls = {name: caller(model, sample) for name, model in sessions.items()}
    turns = cpu_microseconds(calls)
    rows = []
    for name, folder in folders.items():
        files = device_files(folder)
        row = Candidate(
            name=name,
            folder=folder.name,
            files=tuple(file.name for file in files),
            accuracy=accuracy(partial(scores, sessions[name]), data),
            bytes=sum(file.stat().st_size for file in files),
            parameters=_parameters(folder),
            cpu_us=median(turns[name]),
            cpu_ratio=relative(turns[name], turns[ORIGINAL.name]),
            peak_bytes=peak_memory(running_file(folder), sample),
        )
        rows.append(row)
    return rows


def _parameters(folder: Path) -> int:
    facts = json.loads((folder / DONE_FILE).read_text())
    return int(facts["parameters"])
