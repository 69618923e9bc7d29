"""One client's round: a model and a plan in, its encoded update out.

Simulated clients and agents alike run this.

Legend: P floats, Q integers of the model's layout; N samples.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

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
class StartModel:
    """The model that a client starts from, with the header of its last payload."""

    header: Header
    state: State


@dataclass(frozen=True)
class Contribution:
    """What a client adds to a round, before it is encoded.

    train_loss: mean over the steps taken; None where a ClientApp tells none. metrics,
    records: see `Header`.
    """

    difference: State
    examples: int
    train_loss: float | None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, Metric]] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodedUpdate:
    """A client's update as it travels."""

    payload: bytes
    # (P,) what the codec lost of it; None without error feedback.
    residual: NDArray[np.float32] | None
    train_s: float = 0.0
    encode_s: float = 0.0
    # Of mini-batches, for want of memory.
    halvings: int = 0
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
        """Take the parts.

        module: the run's first model. holdout: share of a client's samples kept for its
        evaluation.
        """
        # Read before the module moves: `initial` stays on the CPU.
        self.initial = read_state(module, layout).floats
        self.module = module.to(device)
        self.layout = layout
        self.population = population
        self.seed = seed
        self.holdout = holdout
        self.device = device
        self._unsaved = _unsaved(self.module)
        if device != "cpu":
            # A GPU's fastest kernels add in changing order; those without another only
            # warn.
            torch.use_deterministic_algorithms(True, warn_only=True)

    def samples(self, client: int, held_out: bool = False) -> Samples:
        """Return a client's samples for training, or those held out for its evaluation.

        Raises ClientError where none are held out.
        """
        samples = self.population.clients[client]
        if self.holdout:
            train_rows, test_rows = self._split(client, samples)
            return samples.take(test_rows if held_out else train_rows)
        if held_out:
            raise ClientError(
                f"client {client} keeps no samples for evaluation; "
                "set evaluate.clients = true"
            )
        return samples

    def _split(
        self, client: int, samples: Samples
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the positions of the samples to train on, and of those held out."""
        if self.population.modality == "series":
            return _split_series(samples.y, self.holdout)
        # From the run's seed alone, so a client holds out the same samples in every
        # round.
        order = generator(self.seed, "holdout", client).permutation(len(samples))
        # At least one sample is left to train on.
        cut = min(len(samples) - 1, round(self.holdout * len(samples)))
        # Sorted: the order of the samples is their owner's, and the draw decides
        # nothing more.
        return np.sort(order[cut:]), np.sort(order[:cut])

    def tensors(self, client: int, held_out: bool = False) -> Tensors:
        """Return `samples` as the model takes them."""
        samples = self.samples(client, held_out)
        return tensors(samples, self.population.modality, self.device)

    @contextmanager
    def alone(self, kind: str, plan: Plan, client: int) -> Iterator[None]:
        """Shield the work inside from other clients and from global randomness; see `isolated`."""
        self.refresh()
        # By kind: an evaluation must not draw what the training of the same round
        # draws.
        with isolated(derive(plan.seed, f"client-{kind}", plan.round, client)):
            yield

    def refresh(self) -> None:
        """Reset the buffers that no state holds: they would carry over to the next client."""
        # Cloned, as the module's code may write into a buffer in place.
        for owner, name, value in self._unsaved:
            owner._buffers[name] = value.clone()

    def train(
        self,
        client: int,
        plan: Plan,
        start: StartModel,
        residual: NDArray[np.float32] | None = None,
        halvings: int = 0,
    ) -> EncodedUpdate:
        """Train as a plan asks, and return the encoded update.

        residual: as in `answer`; halvings: as in `fedlearn.clients.train.train`, whose
        errors this raises.
        """
        begun = time.perf_counter()
        data = self.tensors(client)
        update = train(
            self.module, self.layout, plan, start.state, data, client, halvings
        )
        trained = time.perf_counter()
        contribution = Contribution(
            update.difference, update.examples, update.train_loss
        )
        encoded = self.answer(client, plan, start, contribution, residual)
        return replace(
            encoded,
            train_s=trained - begun,
            encode_s=time.perf_counter() - trained,
            halvings=update.halvings,
            steps=update.steps,
        )

    def evaluate(self, client: int, state: State) -> dict[str, float]:
        """Return loss, accuracy and number of samples of a model on held-out samples.

        Raises ClientError where none are held out.
        """
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
        start: StartModel,
        contribution: Contribution,
        residual: NDArray[np.float32] | None = None,
    ) -> EncodedUpdate:
        """Return a client's update as it travels.

        residual: (P,) what the codec lost of the client's last update; None where that
        is not known.

        Error feedback adds the residual to the update before encoding, and keeps what
        is lost this time. Source: Seide et al., "1-Bit Stochastic Gradient Descent"
        (Interspeech 2014); Karimireddy et al., "Error Feedback Fixes SignSGD and other
        Gradient Compression Schemes" (ICML 2019). They add it in each step of an
        optimiser. Here the residual is of whole updates, and stays as it is in rounds
        that the client does not take part in.
        """
        difference = contribution.difference
        has_feedback, codec = feedback(plan.codec)
        moved = self.moved(start.state.floats, codec)
        header = answer_header(
            client, plan, start.header, contribution.examples, contribution.train_loss
        )
        header = replace(
            header, metrics=contribution.metrics, records=contribution.records
        )
        if not has_feedback:
            # NO_FEEDBACK tells the server that this client holds no residual.
            header = replace(header, residual=NO_FEEDBACK)
            return EncodedUpdate(encode(self.layout, header, difference, moved), None)
        floats = difference.floats
        if residual is None:
            header = replace(header, residual=FRESH)
        else:
            header = replace(header, residual=CARRIED)
            floats = floats + residual
        corrected = State(floats, difference.integers)
        payload = encode(self.layout, header, corrected, moved)
        # What the server will decode, by the same code: the residual is exact to the
        # bit.
        _, decoded = decode(self.layout, payload, (header.kind,), moved)
        return EncodedUpdate(payload, floats - decoded.dense().floats)

    def moved(
        self, start: NDArray[np.float32], codec: str
    ) -> NDArray[np.float32] | None:
        """Return how far a model (P,) has moved from the run's first one.

        None for a codec that does not use it.
        """
        if not find_codec(codec).uses_moved:
            return None
        return start - self.initial


def answer_header(
    client: int, plan: Plan, start: Header, examples: int, loss: float | None
) -> Header:
    """Return the header of a client's update; start: of the model that it started from."""
    return Header(
        kind=GRADIENT if plan.answer == "gradient" else UPDATE,
        round=start.round,
        digest=start.digest,
        codec=feedback(plan.codec)[1],
        # A function of round and client, so that both ends draw the same numbers.
        seed=derive(plan.seed, "codec", plan.round, client),
        examples=examples,
        train_loss=loss,
    )


def _split_series(
    labels: NDArray[np.generic], share: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the windows to train on, and of those held out.

    The end of each run of one label is held out.

    Windows of a series overlap, so a random choice would evaluate on steps that were
    trained on. The window before each held-out part is in neither, for the same reason.
    """
    no_rows = np.empty(0, np.int64)
    train_parts = [no_rows]
    test_parts = [no_rows]
    changes = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    for run in np.split(np.arange(len(labels)), changes):
        cut = len(run) - round(share * len(run))
        is_cut = cut < len(run)
        # The window before the cut overlaps with both sides.
        train_parts.append(run[: cut - 1] if is_cut else run)
        test_parts.append(run[cut:])
    return np.concatenate(train_parts), np.concatenate(test_parts)


def _unsaved(module: nn.Module) -> list[tuple[nn.Module, str, torch.Tensor]]:
    """Return the buffers outside of a module's state_dict: owner, name, first value."""
    buffers = []
    for owner in module.modules():
        for name, buffer in owner._buffers.items():
            if buffer is not None and name in owner._non_persistent_buffers_set:
                buffers.append((owner, name, buffer.clone()))
    return buffers
