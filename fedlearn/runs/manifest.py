"""What was run on what: the manifest of a run, and the facts that a display begins with."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

import fedlearn
from fedlearn import data
from fedlearn.arrays import model_sha256
from fedlearn.devices.machine import cores, processor
from fedlearn.runs.layers import Stack
from fedlearn.runs.parts import Parts
from fedlearn.runs.settle import Settled
from fedlearn.system.own_path import own_folders

# Clients whose sizes are looked at: enough for the median, and a million take seconds.
_SIZED = 10_000


def facts(settled: Settled, parts: Parts, stack: Stack) -> dict[str, Any]:
    """Return what a display shows of a run at its start, as text."""
    experiment = settled.experiment
    kind = experiment.data.partition.kind
    partition = f" ({kind})" if kind else ""
    workers = stack.engine.workers
    engine = f"{experiment.engine.kind}, {workers} worker{'s' * (workers > 1)}"
    if experiment.engine.collapse:
        engine += ", one batch for all"
    return {
        "name": experiment.experiment.name,
        "rounds": experiment.experiment.rounds,
        "data": f"{parts.population.name}, {parts.clients:,} clients{partition}",
        "model": f"{experiment.model.name}, {parts.layout.trained:,} parameters",
        "strategy": experiment.strategy.name,
        "codec": codec_text(settled),
        "engine": engine,
    }


def codec_text(settled: Settled) -> str:
    """Return both codecs, and why those, where "auto" chose."""
    codec = settled.experiment.codec
    reason = f" (auto: {settled.codec_reason})" if settled.codec_reason else ""
    return f"{codec.up} up, {codec.down} down{reason}"


def manifest(settled: Settled, parts: Parts, stack: Stack) -> dict[str, Any]:
    """Return the manifest, as JSON has it: versions, platform, data, model, engine."""
    experiment = settled.experiment
    layout = parts.layout
    codec = {
        "up": experiment.codec.up,
        "down": experiment.codec.down,
        "why": settled.codec_reason,
    }
    model = {
        "name": experiment.model.name,
        "parameters": layout.trained,
        "floats": layout.floats,
        "schema": layout.schema.hex(),
    }
    if parts.starts_elsewhere:
        model["weights"] = experiment.model.weights
        # A resumed run compares it.
        model["weights_sha256"] = model_sha256(layout, parts.start)
    return {
        "name": experiment.experiment.name,
        "seed": experiment.experiment.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": _versions(),
        "platform": _platform(),
        "engine": _engine(settled, stack),
        "data": _data(parts),
        "model": model,
        "codec": codec,
        "command": sys.argv,
        # A run that is resumed elsewhere finds its user's code there.
        "modules_from": [os.path.abspath(folder) for folder in own_folders()],
        **_choices(settled, stack),
    }


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {
        "fedlearn": fedlearn.__version__,
        "python": platform.python_version(),
    }
    for package in ("torch", "numpy", "flwr"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def _platform() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "processor": processor(),
        "cores": cores(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _engine(settled: Settled, stack: Stack) -> dict[str, Any]:
    section = settled.experiment.engine
    return {
        "kind": section.kind,
        "chunk": section.chunk,
        "workers": stack.engine.workers,
        "device": section.device,
        # Always: see `single_thread`. Said, because a reader compares times.
        "threads": 1,
        "collapse": section.collapse,
    }


def _data(parts: Parts) -> dict[str, Any]:
    population = parts.population
    clients = population.clients
    sized = range(min(len(clients), _SIZED))
    sizes = np.sort([clients.size(client) for client in sized])
    shown_clients, counts = data.label_counts(population)
    return {
        "name": population.name,
        "modality": population.modality,
        "classes": population.classes,
        "input_shape": list(population.input_shape),
        "clients": len(clients),
        "test_samples": len(population.test),
        "baseline": dict(parts.baseline),
        "sizes": [int(sizes[0]), int(np.median(sizes)), int(sizes[-1])],
        # A resumed run compares them.
        **parts.fingerprints,
        "notes": list(population.notes),
        "label_counts": {"clients": shown_clients.tolist(), "counts": counts.tolist()},
    }


def _choices(settled: Settled, stack: Stack) -> dict[str, Any]:
    """Return what was decided on the way: the layers' facts, and what "auto" measured."""
    choices = dict(stack.facts)
    if stack.engine.not_stacked:
        choices["not_stacked"] = stack.engine.not_stacked
    if settled.engine_choice:
        choices["auto"] = dict(settled.engine_choice)
    return choices
