"""Which requests are computed here, and which by a larger model at the centre.

Two ways: by time, where the faster place answers; or by `Router`, where this device answers
all and asks the centre for what it is unsure of. In both the centre may be away: then this
device answers, as if there were none.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fedlearn.clients.infer.batching import Batcher, Computed, Deliver, Query
from fedlearn.clients.infer.first import First
from fedlearn.clients.infer.joining import fitting, merged, scores_place
from fedlearn.clients.infer.metrics import Measures
from fedlearn.clients.infer.model import ServedModel
from fedlearn.clients.infer.refusal import Refusal
from fedlearn.clients.infer.tensors import Array
from fedlearn.clients.infer.upstream import Upstream, UpstreamAnswer, UpstreamError
from fedlearn.clients.placement import balance
from fedlearn.clients.placement.place import CLOUD, EDGE, Choice, Placer
from fedlearn.clients.placement.routing import Router
from fedlearn.errors import one_line

# How long the centre may take to say that it is there.
_READY_S = 1.0

# Classes that have estimates of their own; further names share one.
_MOST_KINDS = 64

# What answers from both sides are counted as.
BOTH = "both"

# What the centre gave: the answer, and its outputs in the order of the model here.
Asked = tuple[UpstreamAnswer, list[Array]]


# `eq=False`: each is itself.
@dataclass(eq=False)
class Way:
    """One model at the centre, and what is known of the way to it."""

    upstream: Upstream
    placer: Placer = field(default_factory=Placer)


class Placing:
    """Answers requests here or there; what `Served.ask` hands them to."""

    def __init__(
        self,
        ways: Sequence[Way],
        batcher: Batcher,
        measures: Measures,
        say: Callable[[str], None],
        router: Router | None = None,
    ) -> None:
        """Begin without measurements. router: None: by time. say: takes lines for the log."""
        self._ways = list(ways)
        self._batcher = batcher
        self._measures = measures
        self._say = say
        self._router = router
        self._kinds: set[str] = set()
        # No result depends on it: devices must not draw alike.
        self._generator = random.Random()
        # Held, as the loop itself keeps no task alive.
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def up_count(self) -> int:
        """Return how many of the models at the centre answer, as far as is known."""
        return sum(not way.placer.is_down for way in self._ways)

    def ask(self, query: Query) -> None:
        """Have a request answered, by one call of its `deliver`. Raises Refusal."""
        now_s = time.monotonic()
        for way in self._ways:
            if way.placer.is_down and way.placer.tries_again(now_s):
                self._begin(self._measure_way(way))
        if self._router is not None:
            query.deliver = partial(self._checked, query, query.deliver)
            self._batcher.put(query)
            return
        way_up = self._drawn(query)
        if way_up is None:
            self._compute(query)
        else:
            self._place(way_up, query, now_s)

    def status(self) -> list[dict[str, Any]]:
        """Return what is known of each model at the centre."""
        return [
            {
                "address": way.upstream.address.text,
                "is_up": not way.placer.is_down,
                "turn_ms": 1e3 * way.placer.link.turn.mean,
                "us_per_kilobyte": 1e9 * way.placer.link.byte.mean,
                "on_their_way": way.upstream.on_their_way,
            }
            for way in self._ways
        ]

    def prepare(self, rate: float) -> None:
        """Open the connections that a load needs, before it comes.

        rate: samples a second. By Little's law (Operations Research, 1961) so many are on
        their way as come while one is.
        """
        for way in self._ways:
            if way.placer.is_down:
                continue
            count = math.ceil(rate * way.placer.usual_s / len(self._ways))
            if count > way.upstream.open_connections:
                self._begin(way.upstream.connect(count))

    def close(self) -> None:
        """Close the connections."""
        for way in self._ways:
            way.upstream.close()

    # By time

    def _place(self, way: Way, query: Query, now_s: float) -> None:
        """Answer at the faster place; raises Refusal where neither takes the request."""
        kind = self._kind(query)
        wait_s = self._batcher.wait_s
        choice = way.placer.choose(kind, query.bytes, now_s, wait_s)
        if choice.place == CLOUD:
            self._begin(self._answer_there(way, query, choice))
            if choice.probe == EDGE:
                self._measure_here(query)
            return
        try:
            self._compute(query)
        except Refusal:
            # It is too much for this device; the centre may have room.
            self._begin(self._answer_there(way, query, choice))
            return
        if choice.probe == CLOUD:
            self._begin(self._measure_there(way, query, choice.give_up_s))

    def _compute(self, query: Query) -> None:
        """Answer on this device, and measure it; raises Refusal."""
        deliver = query.deliver
        query.deliver = self._measured(query, deliver)
        try:
            self._batcher.put(query)
        except Refusal:
            query.deliver = deliver
            raise
        self._measures.placed[EDGE] += 1

    def _measured(self, query: Query, deliver: Deliver | None) -> Deliver:
        """Return what takes a local outcome: it is measured, then delivered."""
        kind = self._kind(query)
        begin_s = time.monotonic()
        wait_s = self._batcher.wait_s

        def end(model: ServedModel, outcome: Computed) -> None:
            now_s = time.monotonic()
            if not isinstance(outcome, Refusal):
                service_s = max(0.0, now_s - begin_s - wait_s)
                for way in self._ways:
                    way.placer.edge_done(kind, service_s, now_s)
            if deliver is not None:
                deliver(model, outcome)

        return end

    def _measure_here(self, query: Query) -> None:
        """Compute a request here too, for its time alone."""
        end = self._measured(query, None)
        probe = Query(query.model, query.inputs, end, kind=query.kind)
        try:
            self._batcher.put(probe)
        except Refusal:
            # A full queue says enough; the next probe comes by itself.
            return

    async def _answer_there(self, way: Way, query: Query, choice: Choice) -> None:
        """Answer by the centre; where that is late, by whichever of the two is first."""
        first = First(query.deliver)
        query.deliver = first.deliver
        task = self._asking(way, query, query.inputs, choice.give_up_s)
        is_late = not await self._in_time(way, query, task, choice.timeout_s)
        if is_late and not query.is_dropped:
            self._compute_too(query, first)
        # Where this device refused it, too, the centre has until the deadline.
        left_s = max(0.0, query.deadline - time.monotonic())
        is_bound = first.refusal is not None and math.isfinite(left_s)
        await asyncio.wait({task}, timeout=left_s if is_bound else None)
        if query.is_dropped or first.is_over:
            return
        if task.done() and task.exception() is None:
            answer, outputs = task.result()
            self._measures.placed[CLOUD] += 1
            model = dataclasses.replace(query.model, version=answer.version)
            first.deliver(model, outputs)
            # What still waits here is not computed any more.
            query.is_dropped = True
            return
        if not is_late:
            self._compute_too(query, first)
        if first.refusal is not None:
            first.deliver(query.model, first.refusal)

    def _compute_too(self, query: Query, first: First) -> None:
        """Compute here what the centre has not answered."""
        try:
            self._compute(query)
        except Refusal as refusal:
            first.refusal = refusal

    # By how sure this device is

    def _checked(
        self, query: Query, deliver: Deliver, model: ServedModel, outcome: Computed
    ) -> None:
        """Deliver what was computed here, or ask the centre for its unsure samples."""
        way = self._drawn(query)
        if isinstance(outcome, Refusal) or way is None or self._router is None:
            self._measures.placed[EDGE] += 1
            deliver(model, outcome)
            return
        place = scores_place(model, self._router.routing.output)
        rows = self._router.unsure(outcome[place])
        if len(rows) == 0:
            self._measures.placed[EDGE] += 1
            deliver(model, outcome)
            return
        self._begin(self._second(way, query, outcome, rows, deliver))

    async def _second(
        self,
        way: Way,
        query: Query,
        outputs: list[Array],
        rows: Any,
        deliver: Deliver,
    ) -> None:
        """Deliver outputs in which some rows are the larger model's."""
        inputs = {name: tensor[rows] for name, tensor in query.inputs.items()}
        kind = self._kind(query)
        model = query.model
        task = self._asking(way, query, inputs, way.placer.ends_s(kind))
        is_done = await self._in_time(way, query, task, way.placer.patience_s(kind))
        if not is_done or task.exception() is not None:
            if self._router is not None:
                self._router.unsent(len(rows))
            self._measures.placed[EDGE] += 1
        else:
            answer, others = task.result()
            outputs = merged(outputs, others, rows)
            version = answer.version
            if len(rows) < query.rows:
                version = f"{model.version}+{version}"
            model = dataclasses.replace(model, version=version)
            self._measures.placed[BOTH] += 1
        if not query.is_dropped:
            deliver(model, outputs)

    # The centre

    def _drawn(self, query: Query) -> Way | None:
        """Return a model at the centre that is up: of two the one with the shorter wait."""
        ways = [way for way in self._ways if not way.placer.is_down]
        if not ways:
            return None
        kind = self._kind(query)
        now_s = time.monotonic()
        waits_s = [self._expected_wait_s(way, query, now_s) for way in ways]
        way = ways[balance.of_two(waits_s, self._generator)]
        # With one way its own probes are enough.
        if len(ways) > 1 and way.placer.is_stale(kind, now_s):
            way.placer.renewed(kind, now_s)
        return way

    def _expected_wait_s(self, way: Way, query: Query, now_s: float) -> float:
        """Return how long one more request would take at a model of the centre.

        What was not measured for a while looks short, and is measured so: a machine that
        was slow once would never be asked again.
        """
        kind = self._kind(query)
        if way.placer.is_stale(kind, now_s):
            return 0.0
        service_s = way.placer.cloud_s(kind, query.bytes)
        # It failed since, and was not measured again.
        if math.isinf(service_s):
            return 0.0
        return balance.expected_wait_s(way.upstream.on_their_way, service_s)

    def _asking(
        self, way: Way, query: Query, inputs: Mapping[str, Array], give_up_s: float
    ) -> asyncio.Task[Asked]:
        """Begin `_asked`, which ends by itself: a late answer proves that the centre lives."""
        coroutine = self._asked(way, query, inputs, give_up_s)
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def _in_time(
        self, way: Way, query: Query, task: asyncio.Task[Asked], timeout_s: float
    ) -> bool:
        """Wait for the centre, and tell whether it has answered or failed by then."""
        late_s = min(timeout_s, query.deadline - time.monotonic())
        await asyncio.wait({task}, timeout=max(0.0, late_s))
        # A client in a hurry says nothing of the centre.
        if not task.done() and late_s >= timeout_s:
            way.placer.cloud_late()
        return task.done()

    async def _asked(
        self, way: Way, query: Query, inputs: Mapping[str, Array], timeout_s: float
    ) -> Asked:
        """Return the centre's answer and its outputs in their order. Raises UpstreamError."""
        begin_s = time.monotonic()
        rows = len(next(iter(inputs.values())))
        try:
            answer = await way.upstream.infer(inputs, timeout_s)
            outputs = fitting(query.model, answer, rows)
        except UpstreamError as error:
            self._failed(way, error)
            raise
        # A mistake of ours must not leave a request unanswered.
        except Exception as error:
            wrapped = UpstreamError(one_line(error))
            self._failed(way, wrapped)
            raise wrapped from error
        now_s = time.monotonic()
        size_bytes = sum(tensor.nbytes for tensor in inputs.values())
        duration_s = now_s - begin_s
        kind = self._kind(query)
        way.placer.cloud_done(kind, size_bytes, duration_s, answer.service_s, now_s)
        return answer, outputs

    async def _measure_there(self, way: Way, query: Query, give_up_s: float) -> None:
        """Ask the centre too, for its time alone."""
        try:
            # The way itself, whose share of the time is not known otherwise.
            way.placer.probed(await way.upstream.ready_s(_READY_S))
            await self._asked(way, query, query.inputs, give_up_s)
        except UpstreamError as error:
            if not way.placer.is_down:
                self._failed(way, error)

    async def _measure_way(self, way: Way) -> None:
        """Ask a centre that was away whether it is there."""
        try:
            way.placer.probed(await way.upstream.ready_s(_READY_S))
        except UpstreamError as error:
            self._failed(way, error)
            return
        if not way.placer.is_down:
            self._say(f"{way.upstream.address.text} answers again")

    def _failed(self, way: Way, error: UpstreamError) -> None:
        was_down = way.placer.down_until_s > 0
        self._measures.upstream_failures += 1
        way.placer.cloud_failed(time.monotonic())
        if not was_down:
            self._say(f"{one_line(error)}; requests are computed here meanwhile")

    def _kind(self, query: Query) -> str:
        """Return the class that a request is measured under; strangers may invent names."""
        if query.kind in self._kinds:
            return query.kind
        if len(self._kinds) >= _MOST_KINDS:
            return ""
        self._kinds.add(query.kind)
        return query.kind

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Hold a task no more; what it raised was counted by `_failed`."""
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()
