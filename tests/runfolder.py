"""Small run folders, written by hand as docs/report.md describes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

CONFIG = """[experiment]
name = "NAME"
seed = 3
rounds = 4
evaluate_every = 1

[data]
name = "digits"

[train]
lr = 0.1
"""


def line(round: int, accuracy: float | None, **more: Any) -> dict[str, Any]:
    """Return one metrics line.

    1,000 bytes up, 3,000 down, 16,000 raw (ratio 4); 2 s, of which 1.5 s training.
    """
    return {
        "round": round,
        "loss": None if accuracy is None else 2.0 - accuracy,
        "accuracy": accuracy,
        "train_loss": 1.9 - 0.1 * round,
        "clients": 5,
        "failed": 0,
        "failures": {},
        "attempts": 1,
        "bytes_up": 1000,
        "bytes_down": 3000,
        "bytes_raw": 16000,
        "seconds": 2.0,
        "seconds_training": 1.5,
        "seconds_by_phase": {
            "prepare": 0.1,
            "train": 1.5,
            "encode": 0.2,
            "evaluate": 0.2,
        },
        "clients_evaluation": None,
    } | more


def round_zero(accuracy: float) -> dict[str, Any]:
    """Return the line of the initial model's evaluation: nobody trained, no bytes."""
    nothing: dict[str, Any] = {
        "clients": 0,
        "bytes_up": 0,
        "bytes_down": 0,
        "bytes_raw": 0,
        "seconds": 0.1,
        "seconds_training": 0.0,
    }
    return line(
        0, accuracy, **nothing, train_loss=None, seconds_by_phase={"evaluate": 0.1}
    )


LINES = (round_zero(0.1), line(1, 0.4), line(2, None), line(3, 0.3), line(4, 0.8))


def manifest(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest of six clients with three labels; data: changes of its data table."""
    counts = [[4, 0, 0], [0, 5, 1], [2, 2, 2], [0, 0, 9], [1, 0, 7], [3, 3, 0]]
    return {
        "name": name,
        "seed": 3,
        "versions": {
            "fedlearn": "0.1.0",
            "python": "3.11.2",
            "torch": "2.13.0",
            "numpy": "2.4.6",
            "flwr": "1.41.0",
        },
        "platform": {"system": "Linux", "machine": "x86_64"},
        "engine": {"kind": "pool", "workers": 2},
        "data": {
            "name": "digits",
            "clients": 6,
            "test_samples": 60,
            "partition_sha256": "ab" * 32,
            "sizes": [4, 6, 9],
            "label_counts": {"clients": list(range(6)), "counts": counts},
            **data,
        },
        "model": {"name": "logistic", "parameters": 650},
        "codec": {"up": "q8", "down": "f16"},
        "started": "2025-01-02T03:04:05+00:00",
    }


def summary(name: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the summary that belongs to the lines."""
    accuracies = [found["accuracy"] for found in lines if found["accuracy"] is not None]
    sums = {
        key: sum(found[key] for found in lines)
        for key in ("bytes_up", "bytes_down", "bytes_raw")
    }
    return {
        "name": name,
        "model_sha256": "0123456789abcdef" * 4,
        "rounds": lines[-1]["round"],
        "loss": lines[-1]["loss"],
        "accuracy": accuracies[-1] if accuracies else None,
        "best_accuracy": max(accuracies) if accuracies else None,
        **sums,
        "seconds": 8.1,
        "seconds_training": 6.0,
        "engine": "pool",
        "clients": 6,
        "parameters": 650,
        "expectations": [
            {"what": "accuracy", "wanted": ">= 0.8", "got": 0.8, "met": True}
        ],
    }


def write_run(
    folder: Path,
    name: str = "tiny",
    lines: Sequence[Mapping[str, Any]] = LINES,
    finished: bool = True,
    config: str = CONFIG,
    manifest_data: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run folder and return it."""
    (folder / "plots").mkdir(parents=True)
    quoted = json.dumps(name)
    (folder / "config.toml").write_text(
        config.replace('"NAME"', quoted), encoding="utf-8"
    )
    (folder / "manifest.json").write_text(
        json.dumps(manifest(name, manifest_data or {})), encoding="utf-8"
    )
    text = "".join(json.dumps(found) + "\n" for found in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    if finished:
        (folder / "summary.json").write_text(
            json.dumps(summary(name, lines)), encoding="utf-8"
        )
    return folder


class Write(Protocol):
    """What the fixture `write` gives: `write_run` inside the test's own folder."""

    def __call__(self, folder: str = "tiny", **more: Any) -> Path:
        """Write a run folder of that name and return it."""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Give a function that writes a run folder below the test's own folder."""

    def inside(folder: str = "tiny", **more: Any) -> Path:
        return write_run(tmp_path / folder, **more)

    return inside


@pytest.fixture
def lines() -> list[dict[str, Any]]:
    """Give the lines of the usual small run, fresh copies."""
    return [dict(found) for found in LINES]
