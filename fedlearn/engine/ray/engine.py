"""`Ray`: the clients of a cohort on the CPUs of many machines, an actor on each CPU.

Strategy, Grid, sums and record stay in the coordinator's process. An actor builds model
and data itself, so only models travel, once a round to each machine, and tasks and
outcomes. Tasks are dealt as actors get done, the largest clients first, and those of a
lost actor go to others. Every client runs the code of `Serial` on one thread, and sums
are exact, so neither where it runs nor how often changes a bit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedlearn.arrays import State
from fedlearn.brief import Brief
from fedlearn.clients.evaluate import Score
from fedlearn.config import Experiment
from fedlearn.engine.protocol import EveryClient, whole_score
from fedlearn.engine.ray.actor import (
    Actor,
    ActorPlace,
    ActorSetup,
    Parcel,
    Reply,
    divided,
    versions,
)
from fedlearn.engine.ray.cluster import connect
from fedlearn.engine.ray.lots import TaskQueue
from fedlearn.engine.runner import Runner, single_thread
from fedlearn.engine.task import Outcome, Task
from fedlearn.errors import ConfigError, RunError, reason_of
from fedlearn.wire import digest

# Seconds without a single working actor after which a run gives up.
MAX_WAIT_S = 300

# Give up after this many actors in a row died during start-up: chance alone does not
# kill so many.
MAX_FAILED_STARTS = 3

# The clients' tasks are tried again by `TaskQueue`, and not by Ray.
_ACTOR_OPTIONS = {
    "num_cpus": 1,
    "max_restarts": 0,
    "max_task_retries": 0,
    "scheduling_strategy": "SPREAD",
}


@dataclass(frozen=True)
class _LostTask:
    """The result of a task whose actor died."""

    # The task may have killed it.
    blamed: bool


@dataclass(eq=False)
class _DealtActor:
    """An actor, and the lots that it was dealt and has not answered."""

    actor: Any
    # The reference of its `Actor.build`; None: it works.
    building: Any
    # None until it works.
    place: ActorPlace | None = None
    # The number of the model that it has; 0: none yet.
    model: int = 0
    # Reference of an answer → numbers of the tasks, in their order.
    lots: dict[Any, tuple[int, ...]] = field(default_factory=dict)
    # It has a task that may have killed another actor.
    alone: bool = False


# (number of a task, what came of it)
_Result = tuple[int, Any]


class Ray(EveryClient):
    """Clients on a Ray cluster; see the module."""

    def __init__(
        self, runner: Runner, experiment: Experiment, brief: Brief, workers: int = 0
    ) -> None:
        """Connect, and wait for the first actor; others join as they are built.

        workers: number of actors; 0 = one per CPU of the cluster, with those that join it
        later. Raises ConfigError when there is no cluster, or a machine cannot do the
        work, and RunError when no actor starts.
        """
        single_thread()
        self.runner = runner
        self.requested = workers
        self.workers = 0
        cpus = workers or len(os.sched_getaffinity(0))
        # Ray handles SIGTERM by `sys.exit` from here on.
        self._sigterm = signal.getsignal(signal.SIGTERM)
        self.ray, self._owned = connect(experiment.engine.address, cpus)
        self._actors: list[_DealtActor] = []
        self._model = 0
        self._failed_starts = 0
        self._setup: Any = None
        try:
            self._actor_class = self.ray.remote(**_ACTOR_OPTIONS)(Actor)
            self._setup = self.ray.put(_setup(runner, experiment, brief))
            self._fill()
            while not self.places():
                self._next_results()
        except BaseException:
            self.close()
            raise

    def run(self, tasks: Sequence[Task], payload: bytes) -> Iterator[Outcome]:
        """Yield one outcome per task, as they come; the largest clients start first.

        Raises ConfigError and RunError, as the constructor, and RecordError.
        """
        size = self.runner.population.clients.size
        ordered = sorted(tasks, key=lambda task: -size(task.client))
        for task, reply in self._work("run", payload, ordered):
            if isinstance(reply, Reply):
                yield self._unpacked(task, reply)
            else:
                yield Outcome(task.client, error=str(reply))

    def score(self, state: State) -> Score:
        """Return a model's score on the held-out samples.

        Raises RunError when a part fails twice.
        """
        return whole_score(self._work("score", state, range(self.runner.parts)))

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        # The cluster may be gone.
        with contextlib.suppress(Exception):
            for dealt in self._actors:
                self.ray.kill(dealt.actor)
        self._actors = []
        self._setup = None
        if self._owned:
            self.ray.shutdown()
            self._give_back_sigterm()

    def _give_back_sigterm(self) -> None:
        """Let SIGTERM do what it did before Ray was started."""
        # Only the main thread may set it, and in another one Ray has not. None: it was not
        # set by Python, which could not set it again.
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)

    def places(self) -> list[ActorPlace]:
        """Return where the actors are that work now."""
        return [dealt.place for dealt in self._actors if dealt.place]

    def _work(
        self, kind: str, model: Any, tasks: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (task, result). A task whose actor dies twice has the reason as its result.

        kind: the method of `Actor` that works.
        """
        self._fill()
        self._model += 1
        # Ray copies it to each machine once, however many actors take it.
        shared_model = self.ray.put(model)
        queue = TaskQueue(len(tasks))
        try:
            while queue.unanswered:
                # Those with the least work come first.
                for dealt in sorted(self._actors, key=lambda dealt: len(dealt.lots)):
                    numbers = self._deal(dealt, queue)
                    if numbers:
                        lot = [tasks[number] for number in numbers]
                        reference = self._send(dealt, kind, shared_model, lot)
                        dealt.lots[reference] = numbers
                for number, result in self._next_results():
                    if isinstance(result, _LostTask):
                        if queue.lost(number, result.blamed):
                            continue
                        result = (
                            "its Ray actor died twice (out of memory? set a smaller "
                            "train.batch_size or fewer engine.workers)"
                        )
                    queue.unanswered -= 1
                    yield tasks[number], result
        finally:
            # The consumer stopped half-way: late answers must not be read as new ones.
            if queue.unanswered:
                for dealt in [dealt for dealt in self._actors if dealt.lots]:
                    self._replace(dealt)

    def _deal(self, dealt: _DealtActor, queue: TaskQueue) -> tuple[int, ...]:
        """Take an actor's next tasks from the queue; none while it has enough.

        It gets a second lot before the first is done, so that it need not wait for the
        coordinator. Once fewer tasks wait than actors work, they go to those that are
        free.
        """
        if not dealt.place or not queue or dealt.alone or len(dealt.lots) > 1:
            return ()
        working = len(self.places())
        if dealt.lots and len(queue) < working:
            return ()
        if queue.suspect:
            if dealt.lots:
                return ()
            dealt.alone = True
        return queue.lot(working)

    def _send(self, dealt: _DealtActor, kind: str, model: Any, lot: list[Any]) -> Any:
        """Send a lot to an actor, and return the reference of its answer."""
        # Once a round: calls of one actor arrive in their order.
        if dealt.model != self._model:
            dealt.actor.take.remote(model)
            dealt.model = self._model
        if kind == "run":
            lot = [self._packed(task) for task in lot]
        return getattr(dealt.actor, kind).remote(lot)

    def _next_results(self) -> list[_Result]:
        """Wait until an actor is built or answers, and return the results of its tasks."""
        awaited = {}
        for dealt in self._actors:
            for reference in (dealt.building, *dealt.lots):
                if reference is not None:
                    awaited[reference] = dealt
        # Actors that work will answer or die; those that wait for a CPU may wait for ever.
        timeout = None
        if not self.places():
            timeout = MAX_WAIT_S
        ready, _ = self.ray.wait(list(awaited), num_returns=1, timeout=timeout)
        if not ready:
            raise RunError(
                f"the Ray cluster had no room for an actor in {MAX_WAIT_S} s: "
                "one takes a free CPU; --resume goes on later"
            )
        dealt = awaited[ready[0]]
        if dealt.place:
            return self._answered(dealt, ready[0])
        self._built(dealt)
        return []

    def _built(self, dealt: _DealtActor) -> None:
        """Let an actor work; one that died is replaced.

        Raises ConfigError for what the user can mend, and RunError after too many deaths.
        """
        try:
            place = self.ray.get(dealt.building)
        except self.ray.exceptions.RayError as error:
            self._check_loads(error)
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise RunError(
                    f"{MAX_FAILED_STARTS} Ray actors in a row died while they built "
                    f"model and data: {_reason(error)}"
                ) from error
            self._replace(dealt)
            return
        if isinstance(place, str):
            raise ConfigError(place)
        dealt.place = place
        dealt.building = None
        self._failed_starts = 0

    def _check_loads(self, error: Exception) -> None:
        """Raise ConfigError when a worker cannot import what the coordinator has."""
        failed = isinstance(error, self.ray.exceptions.RayTaskError)
        if failed or getattr(error, "actor_init_failed", False):
            # Of Ray's traceback, the line that names what cannot be imported.
            reason = str(error).strip().splitlines()[-1]
            raise ConfigError(
                f"a Ray worker cannot load fedlearn: {reason}; "
                "install there what is installed here"
            ) from error

    def _answered(self, dealt: _DealtActor, reference: Any) -> list[_Result]:
        """Return the results of a lot; those of a dead actor's other lots too."""
        numbers = dealt.lots.pop(reference)
        dealt.alone = False
        try:
            return list(zip(numbers, self.ray.get(reference), strict=True))
        except self.ray.exceptions.RayTaskError as error:
            # Scoring failed, or an outcome cannot be sent.
            return [(number, _reason(error)) for number in numbers]
        except self.ray.exceptions.RayError:
            # Only the first lot was at work; the others waited behind it.
            blamed = self._machine_lives(dealt)
            self._replace(dealt)
            results: list[_Result] = [(n, _LostTask(blamed)) for n in numbers]
            for lot in dealt.lots.values():
                results += [(number, _LostTask(False)) for number in lot]
            return results

    def _machine_lives(self, dealt: _DealtActor) -> bool:
        """Tell whether the machine of an actor is still there: a lost one killed it."""
        if not dealt.place:
            return False
        return any(
            node["Alive"] and node["NodeID"] == dealt.place.node
            for node in self.ray.nodes()
        )

    def _fill(self) -> None:
        """Ask for the actors that are missing, where machines joined the cluster."""
        resources = self.ray.cluster_resources()
        cpus = int(resources.get("CPU", 0))
        needed = self.requested or cpus or 1
        missing = needed - len(self._actors)
        for _ in range(missing):
            self._actors.append(self._start())
        self.workers = len(self._actors)

    def _start(self) -> _DealtActor:
        actor = self._actor_class.remote()
        return _DealtActor(actor, actor.build.remote(self._setup))

    def _replace(self, dealt: _DealtActor) -> None:
        """Give up an actor, and ask for another; it works once there is room for it."""
        # It may be dead.
        with contextlib.suppress(Exception):
            self.ray.kill(dealt.actor)
        self._actors[self._actors.index(dealt)] = self._start()

    def _packed(self, task: Task) -> Parcel:
        """Return a task with the vectors that its client keeps. Raises RecordError."""
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


def _setup(runner: Runner, experiment: Experiment, brief: Brief) -> ActorSetup:
    return ActorSetup(
        brief=brief,
        app=experiment.client.app,
        mods=experiment.client.mods,
        run_config=experiment.client.run_config,
        node_config=experiment.client.node_config,
        vectors=tuple(runner.vectors),
        partition=divided(runner.population),
        initial=digest(runner.initial),
        versions=versions(),
        path=tuple(sys.path),
        folder=os.getcwd(),
    )


def _reason(error: BaseException) -> str:
    """Return the reason in an error of Ray's, without its traceback."""
    return reason_of(getattr(error, "cause", None) or error)
