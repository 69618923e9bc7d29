"""A whole experiment in this process and its workers: config in, run folder out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from fedlearn.config import Experiment, to_toml
from fedlearn.engine.patience import looked_at
from fedlearn.engine.runner import Runner, single_thread
from fedlearn.flower import enter
from fedlearn.memory.clients import ClientMemory
from fedlearn.records.names import CONFIG_FILE, LINES_FILE, MANIFEST_FILE, SUMMARY_FILE
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.callbacks import Callback, Watchers
from fedlearn.runs.grid import RunGrid
from fedlearn.runs.layers import Layer, Site, Stack, stacked
from fedlearn.runs.loop import RunLoop
from fedlearn.runs.manifest import facts, manifest
from fedlearn.runs.parts import Parts, build_parts
from fedlearn.runs.remembering import open_memory
from fedlearn.runs.same_data import check_same_data, check_same_weights
from fedlearn.runs.settle import Settled, manifest_of, settle


def simulate(
    experiment: Experiment,
    folder: RunFolder,
    display: Progress,
    resume: bool = False,
    agents: Layer | None = None,
    watch: Layer | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Run an experiment, or go on with one, and return its summary.

    agents: asks real ones in the place of the engine's clients. watch: looks on, for a
    profile. callbacks: a user's own code, called as the run goes on. Everything that can
    be wrong with the input is checked before anything is written. Raises UserError,
    RoundError, RunError and RecordError.
    """
    begun = time.perf_counter()
    watchers = Watchers(callbacks)
    # Two threads would change the low bits of sums, and fight the workers for cores.
    single_thread()
    # Flower refuses to make messages in a process that it does not know.
    enter()
    # Step 1: build what the config names.
    with looked_at(display.note, "data, model and strategy are built"):
        parts = build_parts(experiment, agents=agents is not None)
    if resume:
        check_same_data(parts, manifest_of(folder))
        check_same_weights(parts, manifest_of(folder))
    # Step 2: settle what the config leaves open; it is not read again.
    settled = settle(experiment, parts, folder, resume, agents is not None)
    # Step 3: open what the run remembers of its clients.
    with closing(open_memory(settled, parts, folder)) as memory:
        # Step 4: stack the engines.
        site = Site(settled, parts, memory, _runner(settled, parts, memory, display))
        stack = stacked(site, (agents, watch))
        with closing(stack.engine):
            # Step 5: run the rounds.
            summary = _run_rounds(site, stack, folder, display, resume, watchers)
    # Closing is part of what a user waits for, so the total is taken after it.
    summary["seconds_total"] = time.perf_counter() - begun
    folder.write_json(SUMMARY_FILE, summary)
    watchers.end(summary)
    return summary


def _runner(
    settled: Settled, parts: Parts, memory: ClientMemory, display: Progress
) -> Runner:
    return Runner(
        parts.module,
        parts.layout,
        parts.population,
        settled.seed,
        settled.holdout,
        settled.experiment.engine.device,
        app=parts.app,
        vectors=memory.vectors,
        note=display.note,
    )


def _run_rounds(
    site: Site,
    stack: Stack,
    folder: RunFolder,
    display: Progress,
    resume: bool,
    watchers: Watchers,
) -> dict[str, Any]:
    settled = site.settled
    parts = site.parts
    grid = RunGrid(site, stack, display.client_done, display.note)
    loop = RunLoop(settled, parts, grid, stack, folder, display, watchers)
    if resume:
        # Before anything is written: a checkpoint that does not fit must leave no trace.
        loop.resume()
    # Of a resumed run too: it may have more rounds now.
    folder.write(CONFIG_FILE, to_toml(settled.written))
    if not resume:
        # There from the start, because readers tell by it that a folder holds a run.
        folder.write(LINES_FILE, "")
    folder.write_json(MANIFEST_FILE, manifest(settled, parts, stack))
    begun = facts(settled, parts, stack) | {"lines": loop.lines}
    display.start(begun)
    watchers.begin(begun)
    for sentence in parts.population.notes:
        display.note(sentence)
    reason = stack.engine.not_stacked
    if reason:
        display.note(
            f'clients train one at a time, as with engine.kind = "pool": {reason}'
        )
    return loop.go()
