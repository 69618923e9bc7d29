"""One simulated client at a time: payload in, payload out. Every engine calls this.

Legend: P floats, Q integers of the model's layout; N samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedlearn.arrays import Layout, State
from fedlearn.clients.batches import tensors
from fedlearn.clients.evaluate import Score, evaluate
from fedlearn.clients.local import Contribution, EncodedUpdate, Local, StartModel
from fedlearn.data.samples import Population, Samples
from fedlearn.engine import together
from fedlearn.engine.task import Held, Outcome, Task, failure_reason, with_download
from fedlearn.errors import PayloadError, RecordError, pass_on_signal
from fedlearn.memory.slots import COPIES, RESIDUALS, Delivery, contracts
from fedlearn.memory.vectors import ClientVectors
from fedlearn.models import write_state
from fedlearn.seeds import derive, isolated
from fedlearn.wire import (
    Bytes,
    Header,
    decode_model,
    digest,
    encode_difference,
)

# What answers a task in the place of our own training; see `apps`.
App = Callable[["Runner", Task, Held | None], Outcome]

# Held-out samples scored at a time. The number is fixed, so that no number of workers
# changes a bit of the sum.
SCORE_SAMPLES = 500


class Runner(Local):
    """The clients of this process: their data, one module for all, the held-out samples."""

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        population: Population,
        seed: int,
        holdout: float = 0.0,
        device: str = "cpu",
        *,
        app: App | None = None,
        vectors: Mapping[str, ClientVectors] | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Take the parts.

        holdout: share of each client's samples kept for its evaluation. app: answers in
        the place of our own training, see `apps`. vectors: what clients keep between
        their rounds, by name; copies of the model where they are sent differences.
        note: shows a line, such as one about a client that takes long.
        """
        super().__init__(module, layout, population, seed, holdout, device)
        self.app = app
        self.vectors = dict(vectors or {})
        self.note = note
        # The payload decoded last, with what it holds: the clients of a cohort share one.
        self._decoded: tuple[Bytes, Header, State] | None = None

    def run(self, task: Task, payload: Bytes) -> Outcome:
        """Return what comes of a task on the model in ``payload``.

        A client's failure is an outcome, not an error. Raises RecordError when the
        clients' vectors cannot be read or written: that is the end of the run.
        """
        held: Held | None = None
        begun = received = time.perf_counter()
        try:
            if task.has_model:
                held = self.receive(task, payload)
            received = time.perf_counter()
            with self.alone(task.kind, task.plan, task.client):
                outcome = self._answer(task, held)
        except RecordError:  # the disk's failure, not the client's
            raise
        except (Exception, SystemExit) as error:
            pass_on_signal(error)
            # Model, data and app are the user's code, and may raise anything.
            outcome = Outcome(task.client, error=failure_reason(error))
        if held is not None:
            outcome = with_download(outcome, held, received - begun)
        if not task.beside_bytes:
            return outcome
        bytes_down = outcome.bytes_down + task.beside_bytes
        return replace(outcome, bytes_down=bytes_down)

    def receive(self, task: Task, payload: Bytes) -> Held:
        """Return the model that a client holds after its download.

        With a delivery, ``payload`` is the server's model, and the client is sent the
        difference from its copy. The client would decode exactly what the encoder
        arrived at, bit for bit, so it is not decoded again.
        """
        header, model = self._decode(payload)
        copies = self.vectors.get(COPIES)
        if task.delivery is None or copies is None:
            bytes_down = len(payload) if task.download is None else task.download
            return Held(header, model, bytes_down)
        copy, copy_digest = self._copy(task, copies)
        slots = task.slots[COPIES]
        damaged = not slots.empty and copy_digest != slots.digest
        difference = None
        if not task.delivery.whole and not damaged:
            difference = self._difference(
                copy, copy_digest, task.delivery, header, model
            )
        if difference is None:
            copies.write(task.client, slots.into, model.floats)
            fallback = not task.delivery.whole
            return Held(header, model, len(payload), fallback, damaged, payload)
        data, header, state = difference
        copies.write(task.client, slots.into, state.floats)
        return Held(header, state, len(data), payload=data)

    def score(self, part: int, state: State) -> Score:
        """Return the score of a model on one part of the held-out samples; see `parts`."""
        self.refresh()
        write_state(self.module, self.layout, state)
        test = self.population.test
        rows = slice(part * SCORE_SAMPLES, (part + 1) * SCORE_SAMPLES)
        samples = Samples(test.x[rows], test.y[rows])
        with isolated(derive(self.seed, "score", part)):
            batch = tensors(samples, self.population.modality, self.device)
            return evaluate(self.module, batch)

    @property
    def parts(self) -> int:
        """Return how many parts the held-out samples are scored in."""
        return -(-len(self.population.test) // SCORE_SAMPLES)

    def reply(
        self, task: Task, held: Held, contribution: Contribution
    ) -> tuple[bytes, dict[str, bytes]]:
        """Return an update as a payload, and the digests of what the client keeps of it."""
        answer = self.answer(
            task.client,
            task.plan,
            StartModel(held.header, held.state),
            contribution,
            self._residual(task),
        )
        return answer.payload, self._keep(task, answer)

    def _decode(self, payload: Bytes) -> tuple[Header, State]:
        """Return a payload's header and model; that of a cohort is decoded once."""
        # By identity: a worker sees one payload object per round.
        if self._decoded is None or self._decoded[0] is not payload:
            self._decoded = (payload, *decode_model(self.layout, payload))
        return self._decoded[1], self._decoded[2]

    def _copy(
        self, task: Task, copies: ClientVectors
    ) -> tuple[NDArray[np.float32], bytes]:
        """Return the copy (P,) that a client holds, and its digest."""
        slots = task.slots[COPIES]
        copy = self.initial
        if not slots.empty:
            copy = copies.read(task.client, slots.slot)
        return copy, digest(copy)

    def _difference(
        self,
        copy: NDArray[np.float32],
        copy_digest: bytes,
        delivery: Delivery,
        header: Header,
        model: State,
    ) -> tuple[bytes, Header, State] | None:
        """Return a difference from a copy (P,) and its end; None: it helps too little."""
        try:
            encoded = encode_difference(
                self.layout,
                State(copy, model.integers),
                copy_digest,
                model,
                header.round,
                delivery.codec,
                delivery.seed,
                self.moved(copy, delivery.codec),
            )
        except PayloadError:
            # The codec cannot carry these values; the whole model carries all.
            return None
        arrived = encoded[2].floats
        if contracts(self.layout, copy, arrived, model.floats):
            return encoded
        return None

    def _residual(self, task: Task) -> NDArray[np.float32] | None:
        """Return the client's residual (P,); None: it has none, or the file is damaged."""
        slots = task.slots.get(RESIDUALS)
        residuals = self.vectors.get(RESIDUALS)
        if slots is None or residuals is None or slots.empty:
            return None
        residual = residuals.read(task.client, slots.slot)
        # A damaged residual would bend the update; without one it is only coarser.
        if digest(residual) != slots.digest:
            return None
        return residual

    def _keep(self, task: Task, answer: EncodedUpdate) -> dict[str, bytes]:
        """Write what a client keeps of its answer, and return the digests by name."""
        slots = task.slots.get(RESIDUALS)
        residuals = self.vectors.get(RESIDUALS)
        if answer.residual is None or slots is None or residuals is None:
            return {}
        # Into a free slot: a void round must find the old one untouched.
        residuals.write(task.client, slots.into, answer.residual)
        return {RESIDUALS: digest(answer.residual)}

    def _answer(self, task: Task, held: Held | None) -> Outcome:
        if self.app is not None:
            return self.app(self, task, held)
        # Only an app is asked without a model.
        assert held is not None
        if task.group:
            return together.work(self, task, task.group, held)
        if task.trains:
            return self._train(task, held)
        return Outcome(task.client, metrics=self.evaluate(task.client, held.state))

    def _train(self, task: Task, held: Held) -> Outcome:
        start = StartModel(held.header, held.state)
        answer = self.train(task.client, task.plan, start, self._residual(task))
        return Outcome(
            task.client,
            answer.payload,
            train_s=answer.train_s,
            encode_s=answer.encode_s,
            kept=self._keep(task, answer),
        )


def single_thread() -> None:
    """Keep torch on one thread here: two would change low bits, and fight other workers."""
    torch.set_num_threads(1)
