"""One example on both sides: by `fedlearn run`, and by Flower's own loop over a plain Grid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.apps import project
from fedlearn.errors import RunError
from fedlearn.experiments.benchmarks.flower_apps.examples import (
    LOCAL_MODEL,
    ROUNDS_KEY,
    Example,
)

STANDINS = Path(__file__).with_name("standins")

# How long one side of one example may take.
PATIENCE_S = 1800.0

_KINDS = ("train", "evaluate", "server")


@dataclass(frozen=True)
class Job:
    """One run of an example. work: a folder that takes what it leaves."""

    folder: Path
    example: Example
    rounds: int
    seed: int
    work: Path
    model: Path

    @property
    def config(self) -> dict[str, Any]:
        """Return the changes of the example's run config."""
        changes = {ROUNDS_KEY: self.rounds, **self.example.config}
        return {
            k: str(self.model) if v == LOCAL_MODEL else v for k, v in changes.items()
        }


@dataclass(frozen=True)
class Side:
    """What came of a run.

    metrics: "kind name" → its last value. arrays: of the strategy's result, by name; empty:
    there was none. digest: over all messages and replies.
    """

    metrics: Mapping[str, float]
    arrays: Mapping[str, Any]
    digest: str
    messages: int
    failed: int


def ours(job: Job) -> Side:
    """Run an example by `fedlearn run`; raises RunError."""
    job.work.mkdir(parents=True)
    out = job.work / "run"
    command = [sys.executable, "-m", "fedlearn", "run", str(job.folder), "--quiet"]
    command += ["--run-config", _config_file(job), "--nodes", str(job.example.nodes)]
    command += ["--seed", str(job.seed), "--out", str(out)]
    if job.example.node_config:
        command += ["--node-config", _node_file(job)]
    _called(command, job)
    summary = json.loads((out / "summary.json").read_text())
    name = summary["result"]
    return _side(summary, _arrays(out / name) if name else {})


def flowers(job: Job) -> Side:
    """Run an example by Flower's own loop; raises RunError."""
    job.work.mkdir(parents=True)
    described = project.read(job.folder, job.config, job.example.nodes)
    node_config = {str(p): dict(c) for p, c in job.example.node_config.items()}
    settings = {
        "app": str(job.folder),
        "serverapp": described.serverapp,
        "clientapp": described.clientapp,
        "nodes": described.nodes,
        "seed": job.seed,
        "run_config": dict(described.run_config),
        "node_config": node_config,
    }
    file = job.work / "settings.json"
    file.write_text(json.dumps(settings))
    module = "fedlearn.experiments.benchmarks.flower_apps.loop"
    out = job.work / "loop"
    _called([sys.executable, "-m", module, str(file), str(out)], job)
    summary = json.loads((out / "summary.json").read_text())
    return _side(summary, _arrays(out / "result.npz"))


def difference(side: Side, other: Side) -> float | None:
    """Return the largest difference of two results' values; None: there are none.

    Infinite where names or shapes differ.
    """
    if not side.arrays and not other.arrays:
        return None
    if side.arrays.keys() != other.arrays.keys():
        return float("inf")
    pairs = [(side.arrays[name], other.arrays[name]) for name in side.arrays]
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    differences = [np.abs(a.astype(float) - b.astype(float)) for a, b in pairs]
    return max((float(d.max()) for d in differences if d.size), default=0.0)


def missing(example: Example) -> list[str]:
    """Return the packages that an example needs and that are not installed."""
    from importlib.util import find_spec

    return [name for name in example.needs if find_spec(name) is None]


def _side(summary: Mapping[str, Any], arrays: Mapping[str, Any]) -> Side:
    metrics: dict[str, float] = {}
    for kind in _KINDS:
        for name, value in (summary[kind] or {}).items():
            if isinstance(value, int | float):
                metrics[f"{kind} {name}"] = float(value)
    digest = summary["messages_sha256"]
    return Side(metrics, arrays, digest, summary["messages"], summary["failed"])


def _arrays(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    from safetensors.numpy import load_file

    return dict(load_file(path))


def _config_file(job: Job) -> str:
    # A file: values need no quotes of a shell.
    path = job.work / "config.toml"
    path.write_text(_toml(job.config))
    return str(path)


def _node_file(job: Job) -> str:
    path = job.work / "nodes.toml"
    tables = job.example.node_config.items()
    path.write_text("".join(f"[{node}]\n{_toml(config)}" for node, config in tables))
    return str(path)


def _toml(config: Mapping[str, Any]) -> str:
    # JSON's texts, numbers and truth values are TOML's as well.
    return "".join(f"{json.dumps(k)} = {json.dumps(v)}\n" for k, v in config.items())


def _called(command: Sequence[str], job: Job) -> None:
    """Run a command in the job's folder; raises RunError with its last line."""
    log = job.work / "log"
    with log.open("wb") as file:
        try:
            code = subprocess.run(
                command,
                cwd=job.work,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE_S,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise RunError(f"no end after {PATIENCE_S:.0f} s; see {log}") from error
    if code:
        lines = log.read_text(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        raise RunError(f"code {code}: {words[-1] if words else 'no word'} (see {log})")


def _environment() -> dict[str, str]:
    """Return the variables of both sides: stand-ins first, one thread, one order of sets."""
    paths = [str(STANDINS), os.environ.get("PYTHONPATH", "")]
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {
        **os.environ,
        **dict.fromkeys(threads, "1"),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
