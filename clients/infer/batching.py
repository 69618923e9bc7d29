"""Micro-batches without a timer: what came while the last batch ran is computed together.

A lone request is never held up, and the busier the server is, the larger its batches are:
the same rule as group commit of databases (DeWitt et al., SIGMOD 1984). Timers, as other
servers have, cost every request of a quiet server their whole length.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from fedlearn.clients.infer.metrics import Measures
from fedlearn.clients.infer.model import ServedModel
from fedlearn.clients.infer.outputs import part
from fedlearn.clients.infer.refusal import Refusal
from fedlearn.clients.infer.tensors import Array
from fedlearn.clients.infer.waiting import EarliestFirst
from fedlearn.clients.placement.classes import ServiceClasses
from fedlearn.errors import reason_of

# A batch that takes less runs in the loop's own thread. Handing it to another one costs
# about 50 µs of both, as much as the run of a small model.
INLINE_S = 0.001

# Share that a new batch has in what is expected of the next one.
_NEWEST = 0.2

# Waits are promised in whole seconds, and no client is sent away for longer.
_LONGEST_RETRY_S = 60

# All outputs of a request in their order; or why it has none.
Computed = list[Array] | Refusal
Deliver = Callable[[ServedModel, Computed], None]
Observe = Callable[[list["Query"], list[Computed]], None]


# `eq=False`: arrays have no truth value.
@dataclass(eq=False, slots=True)
class Query:
    """A request that waits. inputs: checked by ``model``, which also answers it.

    deadline: by `time.monotonic`, after which nobody waits for the answer. asked: the inputs
    as they came, for another version; None: as they are. kind: its class of service.
    """

    model: ServedModel
    inputs: Mapping[str, Array]
    deliver: Deliver
    deadline: float = math.inf
    asked: Mapping[str, Array] | None = None
    kind: str = ""
    is_dropped: bool = False
    rows: int = field(init=False)
    bytes: int = field(init=False)

    def __post_init__(self) -> None:
        """Count the samples and their bytes, as the queue does."""
        self.rows = len(next(iter(self.inputs.values()))) if self.model.batches else 1
        self.bytes = sum(tensor.nbytes for tensor in self.inputs.values())

    def joins(self, other: Query) -> bool:
        """Tell whether both can be computed in one run."""
        if self.model is not other.model or not self.model.batches:
            return False
        return all(
            tensor.shape[1:] == other.inputs[name].shape[1:]
            for name, tensor in self.inputs.items()
        )


class Batcher:
    """The queue of one server, and the runs of its model, one after another."""

    def __init__(
        self,
        measures: Measures,
        limit: int = 32,
        queue_rows: int = 1024,
        queue_bytes: int = 64 << 20,
        inline_s: float = INLINE_S,
        observe: Observe | None = None,
        classes: ServiceClasses | None = None,
    ) -> None:
        """Begin with an empty queue.

        limit: samples of one run, unless one request has more. queue_rows, queue_bytes:
        samples that may wait, and their bytes; one request alone may have more. inline_s:
        runs that are expected to take longer go to a thread. observe: takes each batch after
        it is delivered. classes: of service; None: all requests are alike.
        """
        self._measures = measures
        # Of samples of one run; whoever expects more load may change it.
        self.limit = limit
        # All that were queued so far.
        self.samples = 0
        self._queue_rows = queue_rows
        self._queue_bytes = queue_bytes
        self._inline_s = inline_s
        self._observe = observe
        self._classes = classes
        self._queue: EarliestFirst[Query] = EarliestFirst()
        self._is_busy = False
        # Seconds that one sample takes in a batch; it follows what is measured.
        self._row_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(1, "fedlearn-infer")

    @property
    def waiting_rows(self) -> int:
        """Return how many samples wait."""
        return self._queue.rows

    @property
    def row_s(self) -> float:
        """Return the seconds that one sample takes in a batch; 0: none was computed yet."""
        return self._row_s

    @property
    def wait_s(self) -> float:
        """Return how long what waits is expected to take."""
        return self._queue.rows * self._row_s

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing waits or runs."""
        return not self._is_busy

    def put(self, query: Query) -> None:
        """Queue a request, whose `deliver` is called once, later.

        Raises Refusal where the queue is full, the deadline cannot be met, or the class has
        had its share.
        """
        now_s = time.monotonic()
        self._check_room(query)
        self._check_deadline(query, now_s)
        self._check_class(query, now_s)
        self._queue.push(query, now_s)
        self.samples += query.rows
        if not self._is_busy:
            self._is_busy = True
            # Not at once: other sockets may have a request in this turn of the loop.
            self._loop.call_soon(self._next)

    async def drained(self) -> None:
        """Return once nothing waits or runs."""
        while not self.is_idle:
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """End the thread, once its run has ended."""
        self._pool.shutdown(wait=False)

    def _check_room(self, query: Query) -> None:
        """Raise Refusal where the queue is full; one request alone may be larger."""
        rows = self._queue.rows
        is_full = rows + query.rows > self._queue_rows
        is_full = is_full or self._queue.bytes + query.bytes > self._queue_bytes
        if rows and is_full:
            raise self._busy(f"{rows} samples wait already")
        if self._classes is None:
            return
        share = self._classes.of(query.kind).queue
        own_rows = self._queue.rows_of[query.kind]
        if own_rows and own_rows + query.rows > share * self._queue_rows:
            raise self._busy(f"{own_rows} samples of its class wait already")

    def _check_deadline(self, query: Query, now_s: float) -> None:
        """Raise Refusal where an answer would come too late."""
        rows = self._queue.rows + query.rows
        if now_s + rows * self._row_s <= query.deadline:
            return
        # Not all that waits is due before it.
        rows = self._queue.rows_before(query.deadline) + query.rows
        wait_s = rows * self._row_s
        if now_s + wait_s > query.deadline:
            raise self._busy(f"the answer would take about {wait_s:.3f} s", "late")

    def _check_class(self, query: Query, now_s: float) -> None:
        """Raise Refusal for a class that has had its rate."""
        if self._classes is None:
            return
        wait_s = self._classes.take(query.kind, query.rows, now_s)
        if wait_s:
            refusal = self._busy("its class has had its samples", "rate")
            refusal.retry_s = min(max(1, math.ceil(wait_s)), _LONGEST_RETRY_S)
            raise refusal

    def _busy(self, why: str, kind: str = "busy") -> Refusal:
        retry_s = math.ceil(self.wait_s)
        return Refusal(
            503,
            kind,
            f"too busy: {why}; try again later",
            min(max(1, retry_s), _LONGEST_RETRY_S),
        )

    def _next(self) -> None:
        """Run the next batch; its end calls this again."""
        batch = self._take()
        if not batch:
            self._is_busy = False
            return
        rows = sum(query.rows for query in batch)
        self._measures.batch.add(rows)
        expected_s = rows * (self._row_s or batch[0].model.run_s)
        if expected_s < self._inline_s:
            self._deliver(batch, *_timed(batch))
        else:
            self._pool.submit(self._work, batch)

    def _take(self) -> list[Query]:
        """Return the requests at the head of the queue that can be computed in one run."""
        batch: list[Query] = []
        rows = 0
        now = time.monotonic()
        while self._queue:
            query = self._queue.first
            if batch and (rows + query.rows > self.limit or not query.joins(batch[0])):
                break
            self._queue.pop()
            if query.is_dropped:
                continue
            if query.deadline < now:
                query.deliver(
                    query.model, self._busy("the deadline has passed", "late")
                )
                continue
            batch.append(query)
            rows += query.rows
        return batch

    def _work(self, batch: list[Query]) -> None:
        """Run a batch in the thread."""
        outcomes, duration_s = _timed(batch)
        self._loop.call_soon_threadsafe(self._deliver, batch, outcomes, duration_s)

    def _deliver(
        self, batch: list[Query], outcomes: list[Computed], duration_s: float
    ) -> None:
        row_s = duration_s / sum(query.rows for query in batch)
        before = self._row_s or row_s
        self._row_s = before + _NEWEST * (row_s - before)
        for query, outcome in zip(batch, outcomes, strict=True):
            if not query.is_dropped:
                query.deliver(query.model, outcome)
        if self._observe is not None:
            self._observe(batch, outcomes)
        if self._queue:
            # After what else is ready: its requests are part of the next batch.
            self._loop.call_soon(self._next)
        else:
            self._is_busy = False


def _timed(batch: list[Query]) -> tuple[list[Computed], float]:
    begin = time.perf_counter()
    try:
        outcomes = computed(batch)
    # Such as a MemoryError while inputs are joined: no request may wait for ever.
    except Exception as error:
        failure = Refusal(500, "model", f"the model failed: {reason_of(error)}")
        outcomes = [failure] * len(batch)
    return outcomes, time.perf_counter() - begin


def computed(batch: list[Query]) -> list[Computed]:
    """Return what a model makes of requests that join, computed in one run.

    Where that run fails, each is computed by itself: one request must not spoil others.
    """
    if len(batch) == 1:
        return one_by_one(batch)
    model = batch[0].model
    joined = {
        name: np.concatenate([query.inputs[name] for query in batch])
        for name in batch[0].inputs
    }
    try:
        outputs = model.run(joined)
    except Refusal:
        return one_by_one(batch)
    rows = sum(query.rows for query in batch)
    # A model may join its samples, whatever its shapes promise.
    if any(len(output) != rows for output in outputs):
        return one_by_one(batch)
    outcomes: list[Computed] = []
    first = 0
    for query in batch:
        last = first + query.rows
        outcomes.append(part(outputs, first, last))
        first = last
    return outcomes


def one_by_one(batch: list[Query]) -> list[Computed]:
    """Return what a model makes of requests, each in a run of its own: `computed`'s twin."""
    outcomes: list[Computed] = []
    for query in batch:
        try:
            outcomes.append(query.model.run(query.inputs))
        except Refusal as refusal:
            outcomes.append(refusal)
    return outcomes
