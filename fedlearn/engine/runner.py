"""One simulated client at a time: payload in, payload out. Every engine calls this and nothing else.

Legend: P floats, Q integers of the model's layout; N samples.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedlearn.arrays import Layout, State
from fedlearn.clients.batches import tensors
from fedlearn.clients.evaluate import Score, evaluate
from fedlearn.clients.local import Answer, Local
from fedlearn.data.samples import Population, Samples
from fedlearn.errors import FedlearnError, PayloadError, RecordError
from fedlearn.memory.vectors import NONE, ClientVectors
from fedlearn.models import write_state
from fedlearn.plan import Plan
from fedlearn.seeds import derive, isolated
from fedlearn.wire import (
    Bytes,
    Header,
    Metric,
    decode_model,
    digest,
    encode_difference,
)

SCORE_SAMPLES = 500
"""Held-out samples scored at a time: fixed, so that no number of workers changes a bit of the sum."""


CONTRACTS = 0.9
"""A difference must bring the client's copy this much nearer to the model; one that does not is replaced by the model."""


@dataclass(frozen=True)
class Link:
    """How a client is sent a difference: the copy it holds (slot, digest), the slot for the new one, codec and seed."""

    slot: int
    digest: bytes
    into: int
    codec: str
    seed: int
    whole: bool = False  # send the whole model this time


@dataclass(frozen=True)
class Slots:
    """Where a client's residual lies, with its digest, and where its next one goes."""

    slot: int
    digest: bytes
    into: int


@dataclass(frozen=True)
class Held:
    """The model a client holds after a download: its header, its state, and the bytes that it took."""

    header: Header
    state: State
    bytes_down: int
    fallback: bool = False
    damaged: bool = False
    sent: Bytes = b""  # where it is a payload of the client's own


@dataclass(frozen=True)
class Group:
    """Clients that take one step from the same model, so that one sum of their updates can be computed; see `collapse`.

    by_examples: each update weighs the client's examples in the sum; otherwise 1.
    """

    clients: tuple[int, ...]
    by_examples: bool


@dataclass(frozen=True)
class Summed:
    """Of a client whose update was computed in the sum of a group: what its payload would have said, and that payload's bytes.

    floats: the group's sum (P,), with one of its clients; None with the others.
    """

    header: Header
    bytes_up: int
    floats: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Task:
    """What one client is to do: train or evaluate by a plan; ``config`` and ``state`` are for a Flower ClientApp.

    link: None when the cohort's payload is what the client is sent. download: the bytes that it takes, where they are
    not those of what is sent. residual: of a client with error feedback. group: of clients whose sum is asked for, of which
    ``client`` is the first.
    """

    client: int
    kind: str  # Flower's message type: "train", "evaluate", …
    plan: Plan
    config: Mapping[str, Any] = field(default_factory=dict)
    state: Any = None
    link: Link | None = None
    download: int | None = None
    residual: Slots | None = None
    group: Group | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a task: a payload (train) or metrics (evaluate), or the reason why not.

    Of a group: its sum in the place of a payload, see `together.sum_of`, and what came of each of its clients.
    """

    client: int
    payload: Bytes | None = None  # a view holds until the next outcome is asked for
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    state: Any = None
    train_s: float = 0.0
    encode_s: float = 0.0
    base: Header | None = None  # of the model that the client was sent
    bytes_down: int = 0
    receive_s: float = 0.0  # encoding what the client was sent
    residual: bytes | None = None  # digest of what error feedback carries over
    fallback: bool = (
        False  # a difference would have done no good, and the whole model was sent
    )
    damaged: bool = (
        False  # what the disk held of this client was not what had been written
    )
    summed: Summed | None = None  # in the place of a payload
    group: tuple[Outcome, ...] = ()

    @property
    def bytes_up(self) -> int:
        """Return the bytes of the client's answer."""
        return self.summed.bytes_up if self.summed else len(self.payload or b"")


class Runner(Local):
    """The clients of this process: their data, one module that they take turns in, the held-out samples."""

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        population: Population,
        seed: int,
        holdout: float = 0.0,
        device: str = "cpu",
        app: Any = None,
        copies: ClientVectors | None = None,
        residuals: ClientVectors | None = None,
    ) -> None:
        """Take the parts. holdout: share of each client's samples kept for its evaluation; app: a Flower ClientApp.

        copies: the models that clients hold, where they are sent differences. residuals: what error feedback carries over.
        """
        super().__init__(module, layout, population, seed, holdout, device)
        self.copies, self.residuals, self.app = copies, residuals, app
        self._model: tuple[Bytes, Header, State] | None = (
            None  # the payload decoded last: a cohort shares one
        )

    def run(self, task: Task, payload: Bytes) -> Outcome:
        """Return what comes of a task on the model in ``payload``; a failure of the client is an outcome, not an error.

        Raises RecordError when the clients' vectors cannot be read or written: that is the end of the run.
        """
        held: Held | None = None
        begun = received = time.perf_counter()
        try:
            held = self.receive(task, payload)
            received = time.perf_counter()
            with self.alone(task.kind, task.plan, task.client):
                outcome = self._answer(task, held)
        except RecordError:  # the disk's failure, not the client's
            raise
        except (
            Exception,
            SystemExit,
        ) as error:  # the model, the data or the app is the user's code
            outcome = Outcome(task.client, error=reason(error))
        return outcome if held is None else sent(outcome, held, received - begun)

    def receive(self, task: Task, payload: Bytes) -> Held:
        """Return the model that a client holds after its download; the payload of a cohort is decoded once.

        With a link, ``payload`` is the server's model, and what is sent is its difference from the client's copy. What
        the client decodes from those bytes is what the encoder arrived at, bit for bit, so it is not decoded twice.
        """
        if self._model is None or self._model[0] is not payload:
            self._model = (payload, *decode_model(self.layout, payload))
        _, header, model = self._model
        link = task.link
        if link is None or self.copies is None:
            return Held(
                header, model, len(payload) if task.download is None else task.download
            )
        base = (
            self.initial
            if link.slot == NONE
            else self.copies.read(task.client, link.slot)
        )
        name = digest(base)
        damaged = link.slot != NONE and name != link.digest
        nearer = (
            None
            if link.whole or damaged
            else self._nearer(base, name, link, header, model)
        )
        sent, told, state = nearer or (payload, header, model)
        self.copies.write(task.client, link.into, state.floats)
        return Held(
            told, state, len(sent), nearer is None and not link.whole, damaged, sent
        )

    def _nearer(
        self,
        base: NDArray[np.float32],
        name: bytes,
        link: Link,
        header: Header,
        model: State,
    ) -> tuple[bytes, Header, State] | None:
        """Return a difference that brings a copy (P,) nearer to the model, and where it leads; None: there is none."""
        held, moved = State(base, model.integers), self.moved(base, link.codec)
        try:
            tried = encode_difference(
                self.layout,
                held,
                name,
                model,
                header.version,
                link.codec,
                link.seed,
                moved,
            )
        except (
            PayloadError
        ):  # values that the codec cannot carry; the whole model carries all
            return None
        return (
            tried
            if contracts(self.layout, base, tried[2].floats, model.floats)
            else None
        )

    def score(self, part: int, state: State) -> Score:
        """Return the score of a model on one part of the held-out samples; see `parts`."""
        self.refresh()
        write_state(self.module, self.layout, state)
        test = self.population.test
        rows = slice(part * SCORE_SAMPLES, (part + 1) * SCORE_SAMPLES)
        with isolated(derive(self.seed, "score", part)):
            return evaluate(
                self.module,
                tensors(
                    Samples(test.x[rows], test.y[rows]),
                    self.population.modality,
                    self.device,
                ),
            )

    @property
    def parts(self) -> int:
        """Return how many parts the held-out samples are scored in."""
        return -(-len(self.population.test) // SCORE_SAMPLES)

    def reply(
        self,
        task: Task,
        held: Held,
        difference: State,
        examples: int,
        loss: float | None,
        metrics: Mapping[str, Metric],
    ) -> tuple[bytes, bytes | None]:
        """Return a ClientApp's update as a payload, and the digest of its new residual, where it keeps one."""
        lost = self._residual(task)
        made = self.answer(
            task.client,
            task.plan,
            held.header,
            held.state,
            difference,
            examples,
            loss,
            metrics,
            lost,
        )
        return made.payload, self._keep(task, made)

    def _residual(self, task: Task) -> NDArray[np.float32] | None:
        """Return what the client's codec lost of its last update; None at its first one, and where the file is damaged."""
        slots = task.residual
        if slots is None or self.residuals is None or slots.slot == NONE:
            return None
        found = self.residuals.read(task.client, slots.slot)
        return found if digest(found) == slots.digest else None

    def _keep(self, task: Task, made: Answer) -> bytes | None:
        """Write a client's new residual to its slot, and return its digest."""
        if made.residual is None or self.residuals is None or task.residual is None:
            return None
        self.residuals.write(task.client, task.residual.into, made.residual)
        return digest(made.residual)

    def _answer(self, task: Task, held: Held) -> Outcome:
        if self.app is not None:
            from fedlearn.engine.apps import answer

            return answer(self, task, held)
        if task.group:
            from fedlearn.engine.together import work

            return work(self, task, task.group, held)
        return (
            self._train(task, held)
            if task.kind == "train"
            else Outcome(task.client, metrics=self.evaluate(task.client, held.state))
        )

    def _train(self, task: Task, held: Held) -> Outcome:
        made = self.train(
            task.client, task.plan, held.header, held.state, self._residual(task)
        )
        return Outcome(
            task.client,
            made.payload,
            train_s=made.train_s,
            encode_s=made.encode_s,
            residual=self._keep(task, made),
        )


def reason(error: BaseException) -> str:
    """Return what is recorded of a client whose work raised an error."""
    if isinstance(error, FedlearnError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; lower train.batch_size or engine.workers"
    return f"{type(error).__name__}: {error}"


def sent(outcome: Outcome, held: Held, receive_s: float) -> Outcome:
    """Return an outcome that tells of its download too."""
    return replace(
        outcome,
        base=held.header,
        bytes_down=held.bytes_down,
        receive_s=receive_s,
        fallback=held.fallback,
        damaged=held.damaged,
    )


def contracts(
    layout: Layout,
    base: NDArray[np.float32],
    arrived: NDArray[np.float32],
    target: NDArray[np.float32],
) -> bool:
    """Tell whether a difference leads enough nearer from base (P,) to target; buffers always arrive, and do not count."""
    at = layout.trained_at
    return float(np.linalg.norm(arrived[at] - target[at])) <= CONTRACTS * float(
        np.linalg.norm(base[at] - target[at])
    )


def single_thread() -> None:
    """Keep torch on one thread in this process: two would change low bits, and fight other workers."""
    torch.set_num_threads(1)
