"""What a call costs: CPU time of several runtimes, measured in turns in one process."""

from __future__ import annotations

import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.clients.batches import tensors
from fedlearn.export.onnx import plain_module
from fedlearn.export.session import Scorer
from fedlearn.runs.trained import Trained

# Turns that each runtime gets, and how long one lasts at least.
TURNS = 9
TURN_S = 0.05


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch on one thread inside: as other runtimes are measured, and for equal sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def microseconds(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the CPU microseconds of one call of each, the median of `TURNS` turns.

    The calls take turns, so that whatever else the machine does falls on all of them.
    """
    repeats = {name: _repeats(call) for name, call in calls.items()}
    turns: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            turns[name].append(_seconds(call, repeats[name]) / repeats[name])
    return {name: 1e6 * statistics.median(values) for name, values in turns.items()}


def of_scorers(trained: Trained, scorers: Mapping[str, Scorer]) -> dict[str, float]:
    """Return the CPU microseconds of one sample by torch, as "torch", and by each scorer.

    One thread, the first test sample in its full shape.
    """
    x = tensors(trained.population.test, trained.population.modality).x[:1]
    inputs = np.ascontiguousarray(x.numpy())
    # In the memory order that the run trains and evaluates in, as well as in plain order: the
    # faster one is torch's figure.
    own_order = copy.deepcopy(trained.module).float()
    modules = {"torch": own_order, "torch plain": plain_module(trained)}

    def by_module(module: torch.nn.Module) -> Callable[[], object]:
        return lambda: module(x)

    def by_scorer(score: Scorer, inputs: NDArray[Any]) -> Callable[[], object]:
        return lambda: score(inputs)

    calls = {name: by_module(module) for name, module in modules.items()}
    calls |= {name: by_scorer(score, inputs) for name, score in scorers.items()}
    with one_thread(), torch.inference_mode():
        figures = microseconds(calls)
    plain = figures.pop("torch plain")
    figures["torch"] = min(figures["torch"], plain)
    return figures


def _repeats(call: Callable[[], object]) -> int:
    """Return how many calls last `TURN_S`; the first calls warm caches up."""
    for _ in range(3):
        call()
    cost_s = max(_seconds(call, 3) / 3, 1e-7)
    return max(3, int(TURN_S / cost_s))


def _seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the seconds of CPU of some calls, those of other threads among them."""
    start = time.process_time()
    for _ in range(repeats):
        call()
    return time.process_time() - start
