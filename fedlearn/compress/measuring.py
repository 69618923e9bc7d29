"""What a model costs where it runs: accuracy, CPU time and memory under onnxruntime.

All models of one table are measured in one process, on one thread, in turns: a machine that
is busy for a while then slows all of them alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.clients.batches import Tensors
from fedlearn.compress import alone
from fedlearn.data.samples import IGNORE
from fedlearn.errors import RunError
from fedlearn.text import shortened

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Call = Callable[[], object]

# Turns of each model, and the CPU seconds that a turn takes at least. With so many turns,
# equal models came to 0.977 to 1.014 times one another's time on a busy machine.
TURNS = 25
TURN_S = 0.01

# Samples that are scored at a time: memory alone depends on it.
_BATCH = 500

# Seconds after which a process that only loads and runs a model hangs.
_PATIENCE_S = 120.0


def scores(model: InferenceSession, x: torch.Tensor) -> NDArray[np.float32]:
    """Return a model's scores (B, …, K) for inputs (B, …)."""
    name = model.get_inputs()[0].name
    (output,) = model.run(None, {name: np.ascontiguousarray(x.numpy())})
    return np.asarray(output)


def accuracy(
    score: Callable[[torch.Tensor], NDArray[np.float32]], data: Tensors
) -> float:
    """Return the share of all targets whose highest score is right.

    score: of inputs (B, …). Of text every character that is no padding is a target.
    """
    correct = 0
    targets = 0
    for start in range(0, len(data), _BATCH):
        end = min(start + _BATCH, len(data))
        x, y = data.batch(torch.arange(start, end))
        counted = y.numpy() != IGNORE
        right = (score(x).argmax(-1) == y.numpy()) & counted
        correct += int(right.sum())
        targets += int(counted.sum())
    return correct / targets if targets else float("nan")


def cpu_microseconds(calls: Mapping[str, Call]) -> dict[str, list[float]]:
    """Return the CPU microseconds of a call in each of `TURNS` turns, by name.

    CPU time is what a busy machine does not falsify. A turn is as many calls as take
    `TURN_S` at least.
    """
    counts = {name: _calls_of_a_turn(call) for name, call in calls.items()}
    turns: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            seconds = _cpu_s(call, counts[name])
            turns[name].append(1e6 * seconds / counts[name])
    return turns


def relative(turns: list[float], original: list[float]) -> float:
    """Return how many times the original's CPU time a model takes: the median of its turns.

    Turn by turn: what slowed a turn of one slowed the other's beside it.
    """
    ratios = [turn / base for turn, base in zip(turns, original, strict=True)]
    return median(ratios)


def _calls_of_a_turn(call: Call) -> int:
    count = 1
    # The first calls set things up, and are not counted.
    call()
    while _cpu_s(call, count) < TURN_S:
        count *= 2
    return count


def _cpu_s(call: Call, count: int) -> float:
    begun = time.process_time()
    for _ in range(count):
        call()
    return time.process_time() - begun


def peak_memory(path: Path, sample: torch.Tensor) -> int | None:
    """Return the peak bytes of a new process that loads a model and runs it.

    sample: (1, …), whose shape and dtype the process takes. None: this system does not
    tell. Raises RunError where the process fails.
    """
    dtype = str(sample.numpy().dtype)
    shape = json.dumps(list(sample.shape))
    # -I: nothing of the folder that the command is called in.
    command = [sys.executable, "-I", alone.__file__, str(path), dtype, shape]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise RunError(
            f"a process that only runs {path} failed: {shortened(str(reason))}"
        ) from error
    return int(process.stdout.split()[-1]) or None


def caller(model: InferenceSession, sample: torch.Tensor) -> Call:
    """Return a call of a model with one sample (1, …), as a device makes it."""
    name = model.get_inputs()[0].name
    feed: dict[str, Any] = {name: np.ascontiguousarray(sample.numpy())}

    def call() -> object:
        return model.run(None, feed)

    return call
