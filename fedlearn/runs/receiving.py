"""From an outcome to a checked update: decoded, of the right model, within the sum's range.

Legend: P floats of the model's layout.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Change, Layout, Sparse, State
from fedlearn.codec import codec, feedback
from fedlearn.engine.task import Outcome, Summed, Task
from fedlearn.errors import FedlearnError, PayloadError, reason_of
from fedlearn.flower import EXAMPLES, Received, unpack
from fedlearn.memory.downlink import Downlink, Published
from fedlearn.memory.slots import RESIDUALS
from fedlearn.models.buffers import BufferBounds
from fedlearn.runs import reports
from fedlearn.wire import FRESH, GRADIENT, UPDATE, decode


class Receiver:
    """Decodes the updates of a run's clients."""

    def __init__(
        self,
        layout: Layout,
        downlink: Downlink,
        initial: NDArray[np.float32],
        key: str = EXAMPLES,
    ) -> None:
        """Take the run's layout, downlink and first model's floats (P,).

        key: of the metric by which the strategy weighs.
        """
        self.key = key
        self.layout = layout
        self.downlink = downlink
        self.initial = initial
        self._buffers = BufferBounds(layout)

    def receive(
        self,
        task: Task,
        outcome: Outcome,
        model: Published,
        state: State,
    ) -> Received:
        """Return a checked update. Raises PayloadError when it must not be aggregated.

        model: what the cohort was sent. state: what the strategy adds updates to.
        """
        # A part of a sum has no payload of its own to decode.
        if outcome.summed:
            return self._of_sum(outcome.client, outcome.summed)
        try:
            return self._of_payload(task, outcome, model, state)
        except FedlearnError:
            raise
        # What a client sends may be made to find our mistakes. One of them costs its
        # sender a round, and not everybody the run.
        except Exception as error:
            reason = reason_of(error)
            raise PayloadError(f"its answer cannot be read: {reason}") from error

    def _of_payload(
        self,
        task: Task,
        outcome: Outcome,
        model: Published,
        state: State,
    ) -> Received:
        _, codec_name = feedback(task.plan.codec)
        moved = None
        if codec(codec_name).uses_moved:
            # From the copy that this client holds, which may lag behind the model.
            moved = self.downlink.start(outcome.client, model) - self.initial
        header, change = decode(
            self.layout,
            outcome.payload or b"",
            (UPDATE, GRADIENT),
            moved,
            codec_name,
        )
        base = outcome.base
        # A late answer of an earlier round would pull the model back.
        start = (header.round, header.digest)
        if base is None or start != (base.round, base.digest):
            raise PayloadError(
                "the update started from another model than the one sent"
            )
        header = reports.sound(header)
        weight = reports.weight(header, self.key)
        self._buffers.check(state, change)
        received = Received(outcome.client, header, change, weight=weight)
        answer = outcome.answer
        if answer is None:
            return received
        # Read once here: what cannot be read is its client's failure.
        unpack(answer.records)
        return replace(received, beside=answer.records, arrays=answer.arrays)

    def lost_residual(self, task: Task, received: Received) -> bool:
        """Return whether a client began anew although it had a residual: it was damaged."""
        slots = task.slots.get(RESIDUALS)
        # A client asked for the first time has nothing to lose.
        if slots is None or slots.empty:
            return False
        return received.header.residual == FRESH

    def _of_sum(self, client: int, summed: Summed) -> Received:
        """Return an update that is part of a sum, which stands with one client of it."""
        floats: NDArray[np.float32] | Sparse
        if summed.floats is None:
            # The sum stands with one client; the others add nothing, and cost no
            # memory.
            indices = np.empty(0, np.int64)
            values = np.empty(0, np.float32)
            floats = Sparse(indices, values, self.layout.floats)
        else:
            floats = summed.floats
        integers = np.zeros(self.layout.integers, np.int64)
        return Received(client, summed.header, Change(floats, integers), summed=True)
