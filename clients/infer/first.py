"""One request that two places compute: the first outcome is its answer.

A request that is late at one place is computed at another one, too: a deferred hedged
request of Dean and Barroso, "The Tail at Scale", CACM 2013. What differs: it is deferred by
what answers usually take, mean and deviation, in place of a percentile.
"""

from __future__ import annotations

from fedlearn.clients.infer.batching import Computed, Deliver
from fedlearn.clients.infer.model import ServedModel
from fedlearn.clients.infer.refusal import Refusal


class First:
    """Delivers the first of several outcomes. refusal: what to say where none comes."""

    def __init__(self, deliver: Deliver) -> None:
        """Begin without an outcome. deliver: is called once."""
        self._deliver = deliver
        self.is_over = False
        self.refusal: Refusal | None = None

    def deliver(self, model: ServedModel, outcome: Computed) -> None:
        """Take an outcome; all but the first one are dropped."""
        if not self.is_over:
            self.is_over = True
            self._deliver(model, outcome)
