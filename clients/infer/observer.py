"""What the answers of the serving version say of it, without labels: drift, doubt, disagreement.

- Drift: requests and answers against the histograms that the package signs.
- Doubt: the share of answers whose highest probability is low.
- Disagreement: the share of answers that another version, the shadow, labels otherwise. It
  shows a model whose labels are permuted: that one is quick, sure of itself, and agrees with
  golden outputs that it made itself.

A few answers are looked at, however many there are: 50 samples a second, and of comparisons one
at a time, in a thread of low priority. No request waits for any of it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from fedlearn.clients.infer.batching import Computed, Query
from fedlearn.clients.infer.drift import Drift, Window
from fedlearn.clients.infer.model import ServedModel
from fedlearn.clients.infer.outputs import model_inputs, model_outputs
from fedlearn.clients.infer.refusal import Refusal
from fedlearn.clients.infer.slot import ModelSlot, ShadowModel
from fedlearn.clients.infer.tensors import Array
from fedlearn.errors import reason_of

# Samples that are looked at in a second at most; one takes 40 to 200 µs.
RATE = 50.0

# Of one request: the loop stands still meanwhile, 1.5 ms for pictures of 224 x 224.
MOST_ROWS = 8

# Samples at the start of a version that are all compared: a bad one shows in seconds.
ALL_COMPARED = 200

# What a comparison yields to everything else.
_NICENESS = 10


@dataclass
class Observations:
    """Counts since the serving version began to serve.

    answers, unsure: of those that were looked at. compared, disagreeing: answers that the
    shadow gave too, and those with another label; a sequence's answer counts by its share.
    incomparable: requests that the shadow could not answer.
    """

    answers: int = 0
    unsure: int = 0
    compared: int = 0
    disagreeing: float = 0.0
    incomparable: int = 0


class Observer:
    """See the module. All but comparisons happens in the event loop's thread."""

    def __init__(
        self,
        slot: ModelSlot,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Observe what a slot serves. clock: in seconds; it never goes back."""
        self._slot = slot
        self._say = say
        self._clock = clock
        self._model: ServedModel | None = None
        self._window: Window | None = None
        self.counts = Observations()
        # Why nothing is observed any more; "": all is well.
        self.trouble = ""
        # Samples that may be looked at now.
        self._budget = RATE
        self._filled_s = clock()
        # Samples that comparisons are behind their share; below 0: ahead.
        self._due = 0.0
        self._thread: ThreadPoolExecutor | None = None
        self._is_comparing = False

    def answered(self, batch: Sequence[Query], outcomes: Sequence[Computed]) -> None:
        """Take a batch that was answered. Nothing that goes wrong here reaches a request."""
        if self.trouble:
            return
        try:
            self._observe(batch, outcomes)
        except Exception as error:
            self.trouble = reason_of(error)
            self._say(f"answers are not observed any more: {self.trouble}")

    @property
    def drift(self) -> Drift:
        """Return how far the last samples are from what the package was tested on."""
        return Drift() if self._window is None else self._window.drift()

    def gauges(self) -> dict[str, float]:
        """Return what the page of metrics says."""
        counts = self.counts
        gauges: dict[str, float] = {
            "observed_answers": counts.answers,
            "unsure_answers": counts.unsure,
            "compared_answers": counts.compared,
            "disagreeing_answers": counts.disagreeing,
            "incomparable_requests": counts.incomparable,
        }
        drift = self.drift
        for name in ("inputs", "classes", "confidence"):
            index = getattr(drift, name)
            # Too few samples to say are no drift of 0.
            if index is not None:
                gauges[f"drift_{name}"] = index
        return gauges

    def status(self) -> dict[str, object]:
        """Return the same for people; drift: null where there are too few samples."""
        counts = self.counts
        drift = self.drift
        shadow = self._slot.shadow
        return {
            "answers": counts.answers,
            "unsure": counts.unsure,
            "compared_with": None if shadow is None else shadow.model.version,
            "compared": counts.compared,
            "disagreeing": counts.disagreeing,
            "incomparable": counts.incomparable,
            "drift": {
                "inputs": drift.inputs,
                "furthest_channel": drift.channel,
                "classes": drift.classes,
                "confidence": drift.confidence,
            },
            "trouble": self.trouble,
        }

    def close(self) -> None:
        """End the thread of comparisons, once the one that runs has ended."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _observe(self, batch: Sequence[Query], outcomes: Sequence[Computed]) -> None:
        model = self._slot.model
        # Late answers of the version before say nothing of this one.
        if batch[0].model is not model:
            return
        if model is not self._model:
            self._begin(model)
        if self._window is not None:
            self._look(self._window, batch, outcomes)
        shadow = self._slot.shadow
        if shadow is not None:
            self._choose(shadow, batch, outcomes)

    def _begin(self, model: ServedModel) -> None:
        """Begin anew with a version."""
        self._model = model
        self.counts = Observations()
        self._due = 0.0
        self._window = None
        if model.reference is not None and model.batches:
            self._window = Window(model.reference)

    # Drift and doubt

    def _look(
        self, window: Window, batch: Sequence[Query], outcomes: Sequence[Computed]
    ) -> None:
        """Look at as many samples as the budget lets."""
        now = self._clock()
        self._budget = min(RATE, self._budget + RATE * (now - self._filled_s))
        self._filled_s = now
        for query, outcome in zip(batch, outcomes, strict=True):
            rows = min(query.rows, int(self._budget), MOST_ROWS)
            if not rows:
                return
            if isinstance(outcome, Refusal):
                continue
            self._budget -= rows
            inputs = next(iter(model_inputs(outcome, query.inputs).values()))
            scores = model_outputs(outcome)[0]
            answers, unsure = window.add(inputs[:rows], scores[:rows])
            self.counts.answers += answers
            self.counts.unsure += unsure

    # Disagreement

    def _choose(
        self, shadow: ShadowModel, batch: Sequence[Query], outcomes: Sequence[Computed]
    ) -> None:
        """Have one request of a batch compared, where comparisons are behind their share."""
        for query, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Refusal):
                continue
            self._due += shadow.share * query.rows
            is_due = self._due >= 0 or self.counts.compared < ALL_COMPARED
            # One at a time: what comes meanwhile is not kept in memory for it.
            if is_due and not self._is_comparing:
                self._due = max(0.0, self._due) - query.rows
                self._is_comparing = True
                self._compare(shadow.model, query, outcome)

    def _compare(self, shadow: ServedModel, query: Query, outcome: list[Array]) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "fedlearn-shadow", _yield_to_others)
        loop = asyncio.get_running_loop()

        def work() -> None:
            disagreeing = None
            # Whatever goes wrong, the next comparison must not wait for this one.
            try:
                disagreeing = disagreement(shadow, query, outcome)
            finally:
                loop.call_soon_threadsafe(self._compared, query, disagreeing)

        self._thread.submit(work)

    def _compared(self, query: Query, disagreeing: float | None) -> None:
        """Count a comparison; None: there was none."""
        self._is_comparing = False
        # Another version may have begun meanwhile.
        if query.model is not self._model:
            return
        if disagreeing is None:
            self.counts.incomparable += 1
            return
        self.counts.compared += query.rows
        self.counts.disagreeing += disagreeing


def disagreement(
    shadow: ServedModel, query: Query, outcome: list[Array]
) -> float | None:
    """Return how many of a request's samples another version labels otherwise.

    Labels are compared by their names, where both versions have the same ones: then a permuted
    list of names shows, and a list in another order with its model does not. Of a sequence, the
    share of its places. None: the shadow takes no such request, or answers in other shapes.
    """
    tensors = query.inputs if query.asked is None else query.asked
    try:
        outputs = shadow.run(shadow.checked(tensors))
    except Refusal:
        return None
    new = model_outputs(outcome)[0]
    old = model_outputs(outputs)[0]
    if new.ndim < 2 or new.shape[:-1] != old.shape[:-1]:
        return None
    before = old.argmax(-1)
    places = label_places(_own_labels(shadow), _own_labels(query.model))
    # Names of outputs with one score for each name alone.
    if places is not None and old.shape[-1] == len(places):
        before = places[before]
    differs = before != new.argmax(-1)
    return float(differs.reshape(query.rows, -1).mean(-1).sum())


def label_places(before: Sequence[str], now: Sequence[str]) -> Array | None:
    """Return where each of the labels before stands now, (K,); None: by their old place."""
    places = {label: place for place, label in enumerate(now)}
    is_unique = len(places) == len(now)
    if not before or not is_unique or not places.keys() >= set(before):
        return None
    return np.array([places[label] for label in before])


def _own_labels(model: ServedModel) -> Sequence[str]:
    """Return the names of the model's own scores, whatever functions make of those."""
    return model.labels if model.core is None else model.core.labels


def _yield_to_others() -> None:
    """Give this thread a low priority, where the system has one for threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
