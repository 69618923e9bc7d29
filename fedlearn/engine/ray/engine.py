"""`Ray`: the clients of a cohort on the CPUs of many machines, an actor on each CPU.

Strategy, Grid, sums and record stay in the coordinator's process. An actor builds model and data itself, so what travels is the
model, once a round to each machine, and tasks and outcomes. Tasks are dealt out as actors get done, the largest clients first,
and what a lost actor held goes to others: since every client runs the code of `Serial` on one thread and sums are exact, neither
where it runs nor how often changes a bit.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedlearn.arrays import State
from fedlearn.brief import Brief
from fedlearn.clients.evaluate import Score
from fedlearn.config import Experiment
from fedlearn.engine.pool import TRIES
from fedlearn.engine.protocol import EveryClient, whole_score
from fedlearn.engine.ray.actor import (
    Actor,
    Job,
    Parcel,
    Place,
    Reply,
    divided,
    versions,
)
from fedlearn.engine.ray.cluster import connect
from fedlearn.engine.runner import Runner, single_thread
from fedlearn.engine.task import Outcome, Task
from fedlearn.errors import ConfigError, RunError, one_line
from fedlearn.wire import digest

MOST = 16
"""Tasks dealt to an actor at once: a message costs about as much as training a tiny client."""

ROOM_S = 300
"""Seconds without a single actor after which a run gives up."""

STILLBORN = 3
"""Actors that may die in a row while they build: chance ends before that."""


@dataclass(frozen=True)
class _Lost:
    """What comes of a task whose actor is gone."""

    blamed: bool  # it may have been the task that ended it


@dataclass(eq=False)
class _Hand:
    """An actor, and what it was dealt and has not answered."""

    actor: Any
    building: Any  # the reference of its `build`; None: it works
    place: Place | None = None
    model: int = 0  # number of the model that it was sent last
    held: dict[Any, tuple[int, ...]] = field(
        default_factory=dict
    )  # reference → numbers of the tasks, in their order
    alone: bool = False  # it holds a task that may have killed its process


class Ray(EveryClient):
    """See the module. Raises ConfigError when there is no cluster, or a machine cannot do the work."""

    def __init__(
        self, runner: Runner, experiment: Experiment, brief: Brief, workers: int = 0
    ) -> None:
        """Connect, and wait for the first actor; others join as they are built.

        workers: number of actors; 0 = one per CPU of the cluster, those that join it later included.
        """
        single_thread()
        self.runner, self.asked = runner, workers
        self.ray, self._ours = connect(
            experiment.engine.address, workers or len(os.sched_getaffinity(0))
        )
        self._hands: list[_Hand] = []
        self._model = 0
        self._stillborn = 0
        self._job: Any = None
        self.workers = 0
        try:
            options = {
                "num_cpus": 1,
                "max_restarts": 0,
                "max_task_retries": 0,
                "scheduling_strategy": "SPREAD",
            }
            self._kind = self.ray.remote(**options)(Actor)
            self._job = self.ray.put(_job(runner, experiment, brief))
            self._fill()
            while not any(hand.place for hand in self._hands):
                self._next()
        except BaseException:
            self.close()
            raise

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task, as they come; the largest clients start first."""
        size = self.runner.population.clients.size
        ordered = sorted(tasks, key=lambda task: -size(task.client))
        for task, reply in self._work("run", payload, ordered):
            yield (
                self._unpacked(task, reply)
                if isinstance(reply, Reply)
                else Outcome(task.client, error=str(reply))
            )

    def score(self, state: State) -> Score:
        """Return the score of a model on the server's held-out samples; raises RunError when a part fails twice."""
        return whole_score(self._work("score", state, range(self.runner.parts)))

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        with contextlib.suppress(Exception):  # the cluster may be gone
            for hand in self._hands:
                self.ray.kill(hand.actor)
        self._hands, self._job = [], None
        if self._ours:
            self.ray.shutdown()

    def places(self) -> list[Place]:
        """Return where the actors are that work now."""
        return [hand.place for hand in self._hands if hand.place]

    def _work(
        self, kind: str, model: Any, tasks: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (task, result); a task whose actor dies twice has the reason, a string, as its result."""
        self._fill()
        self._model += 1
        sent = self.ray.put(model)
        queue, tries, left = deque(range(len(tasks))), Counter[int](), len(tasks)
        try:
            while left:
                for hand in sorted(self._hands, key=lambda hand: len(hand.held)):
                    if numbers := self._deal(hand, queue, tries):
                        self._send(hand, kind, sent, numbers, tasks)
                for number, result in self._next():
                    if isinstance(result, _Lost):
                        tries[number] += result.blamed
                        if tries[number] < TRIES:
                            queue.appendleft(number)
                            continue
                        result = "its Ray actor died twice (out of memory? lower train.batch_size or engine.workers)"
                    left -= 1
                    yield tasks[number], result
        finally:
            if left:  # the consumer stopped half-way: late answers must not be read as new ones
                for hand in [hand for hand in self._hands if hand.held]:
                    self._replace(hand)

    def _deal(
        self, hand: _Hand, queue: deque[int], tries: Counter[int]
    ) -> tuple[int, ...]:
        """Take an actor's next tasks from the queue; none while it has enough.

        It gets a second lot before the first is done, so that it need not wait for us, but not of the last ones: those go to
        whoever is free. A task that was lost is dealt alone, so that its next death is its own.
        """
        working = len(self.places())
        if (
            not hand.place
            or not queue
            or hand.alone
            or len(hand.held) > 1
            or (hand.held and len(queue) < working)
        ):
            return ()
        if tries[queue[0]]:
            hand.alone = not hand.held
            return (queue.popleft(),) if hand.alone else ()
        lot = max(1, min(MOST, len(queue) // (4 * working)))
        whole = next(
            (place for place, number in enumerate(queue) if tries[number]), len(queue)
        )
        return tuple(queue.popleft() for _ in range(min(lot, whole)))

    def _send(
        self,
        hand: _Hand,
        kind: str,
        model: Any,
        numbers: tuple[int, ...],
        tasks: Sequence[Any],
    ) -> None:
        if hand.model != self._model:
            hand.actor.take.remote(model)
            hand.model = self._model
        parcels = [
            self._packed(tasks[number]) if kind == "run" else tasks[number]
            for number in numbers
        ]
        hand.held[getattr(hand.actor, kind).remote(parcels)] = numbers

    def _next(self) -> list[tuple[int, Any]]:
        """Wait until an actor is built or answers; returns (number of a task, result or `_Lost`)."""
        waited = [
            ref
            for hand in self._hands
            for ref in (hand.building, *hand.held)
            if ref is not None
        ]
        done, _ = self.ray.wait(
            waited, num_returns=1, timeout=None if self.places() else ROOM_S
        )
        if not done:
            raise RunError(
                f"the Ray cluster had no room for an actor in {ROOM_S} s: one takes a free CPU; --resume goes on later"
            )
        hand = next(
            hand
            for hand in self._hands
            if hand.building == done[0] or done[0] in hand.held
        )
        return self._answered(hand, done[0]) if hand.place else self._built(hand)

    def _built(self, hand: _Hand) -> list[tuple[int, Any]]:
        try:
            found = self.ray.get(hand.building)
        except self.ray.exceptions.RayError as error:
            if isinstance(error, self.ray.exceptions.RayTaskError) or getattr(
                error, "actor_init_failed", False
            ):
                reason = (
                    str(error).strip().splitlines()[-1]
                )  # of what the worker could not import
                raise ConfigError(
                    f"a Ray worker cannot load fedlearn: {reason}; install there what is installed here"
                ) from error
            self._stillborn += 1
            if self._stillborn >= STILLBORN:
                raise RunError(
                    f"{STILLBORN} Ray actors in a row died while they built model and data: {_why(error)}"
                ) from error
            self._replace(hand)
            return []
        if isinstance(found, str):
            raise ConfigError(found)
        hand.place, hand.building, self._stillborn = found, None, 0
        return []

    def _answered(self, hand: _Hand, ref: Any) -> list[tuple[int, Any]]:
        numbers, hand.alone = hand.held.pop(ref), False
        try:
            return list(zip(numbers, self.ray.get(ref), strict=True))
        except (
            self.ray.exceptions.RayTaskError
        ) as error:  # of scoring, or an outcome that cannot be sent
            return [(number, _why(error)) for number in numbers]
        except self.ray.exceptions.RayError:
            others = [number for lot in hand.held.values() for number in lot]
            blamed = self._alive(hand)
            self._replace(hand)
            return [(number, _Lost(blamed)) for number in numbers] + [
                (number, _Lost(False)) for number in others
            ]

    def _alive(self, hand: _Hand) -> bool:
        """Tell whether the machine of an actor is still there."""
        return any(
            node["Alive"] and hand.place and node["NodeID"] == hand.place.node
            for node in self.ray.nodes()
        )

    def _fill(self) -> None:
        """Ask for the actors that are missing, where machines joined the cluster."""
        wanted = self.asked or int(self.ray.cluster_resources().get("CPU", 0)) or 1
        self._hands += [self._start() for _ in range(wanted - len(self._hands))]
        self.workers = len(self._hands)

    def _start(self) -> _Hand:
        actor = self._kind.remote()
        return _Hand(actor, actor.build.remote(self._job))

    def _replace(self, hand: _Hand) -> None:
        """Give up an actor and ask for another, which works as soon as there is room for it."""
        with contextlib.suppress(Exception):  # it may be dead
            self.ray.kill(hand.actor)
        self._hands[self._hands.index(hand)] = self._start()

    def _packed(self, task: Task) -> Parcel:
        """Return a task with the vectors that its client keeps."""
        vectors = {}
        for name, stored in self.runner.vectors.items():
            slots = task.slots.get(name)
            if slots is not None and not slots.empty:
                vectors[name] = stored.read(task.client, slots.slot)
        return Parcel(task, vectors)

    def _unpacked(self, task: Task, reply: Reply) -> Outcome:
        """Return an outcome, once what its client keeps is on disk. Raises RecordError."""
        for name, vector in reply.vectors.items():
            self.runner.vectors[name].write(task.client, task.slots[name].into, vector)
        return reply.outcome


def _job(runner: Runner, experiment: Experiment, brief: Brief) -> Job:
    return Job(
        brief=brief,
        app=experiment.client.app,
        mods=experiment.client.mods,
        vectors=tuple(runner.vectors),
        partition=divided(runner.population),
        initial=digest(runner.initial),
        versions=versions(),
        path=tuple(sys.path),
        folder=os.getcwd(),
    )


def _why(error: BaseException) -> str:
    """Return the reason in an error of Ray's, which brings a traceback."""
    cause = getattr(error, "cause", None)
    return (
        f"{type(cause).__name__}: {one_line(cause)}"
        if cause is not None
        else one_line(error)[:400]
    )
