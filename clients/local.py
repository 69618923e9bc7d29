"""One client at work: the model that it holds and a plan in, its encoded answer out; simulated clients and agents alike.

Legend: P floats, Q integers of the model's layout; N samples.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedlearn.arrays import Layout, State
from fedlearn.clients.batches import Tensors, tensors
from fedlearn.clients.evaluate import evaluate
from fedlearn.clients.train import train
from fedlearn.codec import codec as find_codec
from fedlearn.codec import feedback
from fedlearn.data.samples import Population, Samples
from fedlearn.errors import ClientError
from fedlearn.models import read_state, write_state
from fedlearn.plan import Plan
from fedlearn.seeds import derive, generator, isolated
from fedlearn.wire import (
    CARRIED,
    FRESH,
    GRADIENT,
    NO_FEEDBACK,
    UPDATE,
    Header,
    Metric,
    decode,
    encode,
)


@dataclass(frozen=True)
class Answer:
    """A client's update as it travels, and what its codec lost of it: (P,), None without error feedback."""

    payload: bytes
    residual: NDArray[np.float32] | None
    train_s: float = 0.0
    encode_s: float = 0.0
    halvings: int = 0  # of mini-batches, for want of memory
    steps: int = 0


class Local:
    """The clients of one process: their data, and one module that they take turns in."""

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        population: Population,
        seed: int,
        holdout: float = 0.0,
        device: str = "cpu",
    ) -> None:
        """Take the parts. module: the run's first model. holdout: share of a client's samples kept for its evaluation."""
        self.initial = read_state(module, layout).floats
        self.module, self.layout, self.population = (
            module.to(device),
            layout,
            population,
        )
        self.seed, self.holdout, self.device = seed, holdout, device
        self._unsaved = _unsaved(self.module)
        if device != "cpu":
            torch.use_deterministic_algorithms(True, warn_only=True)

    def samples(self, client: int, held_out: bool = False) -> Samples:
        """Return a client's samples for training, or the ones it keeps for evaluation."""
        samples = self.population.clients[client]
        if not self.holdout:
            if held_out:
                raise ClientError(
                    f"client {client} keeps no samples for evaluation; set evaluate.clients = true"
                )
            return samples
        if self.population.modality == "series":
            train, test = _split_series(samples.y, self.holdout)
        else:
            order = generator(self.seed, "holdout", client).permutation(len(samples))
            cut = min(len(samples) - 1, round(self.holdout * len(samples)))
            train, test = np.sort(order[cut:]), np.sort(order[:cut])
        return samples.take(test if held_out else train)

    def tensors(self, client: int, held_out: bool = False) -> Tensors:
        """Return `samples` as the model takes them."""
        return tensors(
            self.samples(client, held_out), self.population.modality, self.device
        )

    @contextmanager
    def alone(self, kind: str, plan: Plan, client: int) -> Iterator[None]:
        """Have nothing of another client, nor of chance, reach the work inside: see `isolated`."""
        self.refresh()
        with isolated(derive(plan.seed, f"client-{kind}", plan.round, client)):
            yield

    def refresh(self) -> None:
        """Put back what no state holds, so that nothing of one client reaches the next."""
        for owner, name, value in self._unsaved:
            owner._buffers[name] = value.clone()

    def train(
        self,
        client: int,
        plan: Plan,
        start: Header,
        state: State,
        lost: NDArray[np.float32] | None = None,
        halvings: int = 0,
    ) -> Answer:
        """Return what a client answers to a plan; arguments as in `answer` and `train`. Raises ClientError when training diverges."""
        begun = time.perf_counter()
        update = train(
            self.module,
            self.layout,
            plan,
            state,
            self.tensors(client),
            client,
            halvings,
        )
        trained = time.perf_counter()
        made = self.answer(
            client,
            plan,
            start,
            state,
            update.difference,
            update.examples,
            update.train_loss,
            {},
            lost,
        )
        return Answer(
            made.payload,
            made.residual,
            trained - begun,
            time.perf_counter() - trained,
            update.halvings,
            update.steps,
        )

    def evaluate(self, client: int, state: State) -> dict[str, float]:
        """Return loss, accuracy and number of samples of a model on what a client keeps for its evaluation."""
        data = self.tensors(client, held_out=True)
        write_state(self.module, self.layout, state)
        score = evaluate(self.module, data)
        return {
            "loss": score.loss,
            "accuracy": score.accuracy,
            "num-examples": score.samples,
        }

    def answer(
        self,
        client: int,
        plan: Plan,
        start: Header,
        state: State,
        difference: State,
        examples: int,
        loss: float | None,
        metrics: Mapping[str, Metric],
        lost: NDArray[np.float32] | None = None,
    ) -> Answer:
        """Return an update as a client answers it.

        start, state: of the model that it began with. lost: (P,) what the codec lost of its last update; None: nothing is
        known of it.

        Error feedback: what the codec loses of an update is added to the client's next one. Source: Seide et al.,
        "1-Bit Stochastic Gradient Descent" (Interspeech 2014); Karimireddy et al. (ICML 2019). Here the residual is of
        whole updates, and lies still while the client is not asked.
        """
        feeds, codec = feedback(plan.codec)
        residual = NO_FEEDBACK if not feeds else FRESH if lost is None else CARRIED
        header = replace(
            answer_header(client, plan, start, examples, loss),
            residual=residual,
            metrics=metrics,
        )
        moved = self.moved(state.floats, codec)
        if not feeds:
            return Answer(encode(self.layout, header, difference, moved), None)
        floats = difference.floats if lost is None else difference.floats + lost
        payload = encode(self.layout, header, State(floats, difference.integers), moved)
        _, told = decode(self.layout, payload, (header.kind,), moved)
        return Answer(payload, floats - told.dense().floats)

    def moved(
        self, start: NDArray[np.float32], codec: str
    ) -> NDArray[np.float32] | None:
        """Return how far a model has moved from the first one, for a codec that uses it."""
        return start - self.initial if find_codec(codec).uses_moved else None


def answer_header(
    client: int, plan: Plan, start: Header, examples: int, loss: float | None
) -> Header:
    """Return what the payload of a client's update says of itself; start: of the model that it began with."""
    return Header(
        kind=GRADIENT if plan.task == "gradient" else UPDATE,
        round=start.round,
        digest=start.digest,
        codec=feedback(plan.codec)[1],
        seed=derive(plan.seed, "codec", plan.round, client),
        examples=examples,
        train_loss=loss,
    )


def _split_series(
    y: NDArray[np.generic], share: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the samples to train on and to evaluate on: the end of each run of one label is held out.

    Windows of a series overlap, so a random choice would evaluate on steps that were trained on; the window before
    each held-out part is in neither.
    """
    train, test = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for run in np.split(np.arange(len(y)), np.flatnonzero(y[1:] != y[:-1]) + 1):
        cut = len(run) - round(share * len(run))
        train.append(run[: cut - 1] if cut < len(run) else run)
        test.append(run[cut:])
    return np.concatenate(train), np.concatenate(test)


def _unsaved(module: nn.Module) -> list[tuple[nn.Module, str, torch.Tensor]]:
    """Return the buffers that are not in a module's state_dict, as (owner, name, first value)."""
    return [
        (owner, name, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None and name in owner._non_persistent_buffers_set
    ]
