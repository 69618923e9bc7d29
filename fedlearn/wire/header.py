"""What a payload says of itself besides its values, and its place in the message."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedlearn.codec import canonical
from fedlearn.errors import FormatError
from fedlearn.wire import payload_pb2

SNAPSHOT = payload_pb2.Payload.SNAPSHOT
UPDATE = payload_pb2.Payload.UPDATE
GRADIENT = payload_pb2.Payload.GRADIENT
DIFFERENCE = payload_pb2.Payload.DIFFERENCE

NO_FEEDBACK = payload_pb2.Payload.NO_FEEDBACK
FRESH = payload_pb2.Payload.FRESH
CARRIED = payload_pb2.Payload.CARRIED

# What a client may report under a name: a number or a list of numbers.
Metric = int | float | list[int] | list[float]

# The most metrics in a payload.
METRICS = 1000

# More samples than any client has: with any cohort, sums of weights stay below 2**63.
MOST_EXAMPLES = 1 << 32

# A metric's largest magnitude: means weighted by examples stay far from a float's end.
MOST_METRIC = 1e100

# Characters of a metric's name: reasons and tables show it.
METRIC_CHARACTERS = 200


@dataclass(frozen=True)
class Header:
    """What a payload says of itself; `payload.proto` explains each field.

    round: of a model: rounds done; of an update: the round of the model that it started
    from. The wire calls it `version`. digest, base_digest: 8 bytes, see `digest`.
    """

    kind: int
    round: int
    digest: bytes
    codec: str
    seed: int = 0
    examples: int = 0
    train_loss: float | None = None
    # Without a base 0, which takes no bytes in a payload.
    base_digest: bytes = bytes(8)
    residual: int = NO_FEEDBACK
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def fill(self, message: payload_pb2.Payload) -> None:
        """Set the fields of a message that this header says."""
        # The generated enums are ints at run time.
        message.kind = self.kind  # type: ignore[assignment]
        message.residual = self.residual  # type: ignore[assignment]
        message.version = self.round
        message.digest = int.from_bytes(self.digest, "little")
        message.base_digest = int.from_bytes(self.base_digest, "little")
        message.codec = self.codec
        message.seed = self.seed
        message.examples = self.examples
        if self.train_loss is not None:
            message.train_loss = self.train_loss
        for name, value in self.metrics.items():
            message.metrics.append(_to_metric(name, value))

    @classmethod
    def of(cls, message: payload_pb2.Payload) -> Header:
        """Return what a message says; raises FormatError for metrics that are none."""
        # A loss of 0 is sent; one that was never computed is not.
        loss = message.train_loss if message.HasField("train_loss") else None
        return cls(
            kind=message.kind,
            round=message.version,
            digest=message.digest.to_bytes(8, "little"),
            codec=message.codec,
            seed=message.seed,
            examples=message.examples,
            train_loss=loss,
            metrics={metric.name: _of_metric(metric) for metric in message.metrics},
            base_digest=message.base_digest.to_bytes(8, "little"),
            residual=message.residual,
        )


def check_header(message: payload_pb2.Payload) -> None:
    """Raise FormatError for what no sender of this format writes."""
    states = (NO_FEEDBACK, FRESH, CARRIED)
    # Metrics come from code of the user's; the bound is the receiver's protection.
    if len(message.metrics) > METRICS or message.residual not in states:
        raise FormatError(
            f"{len(message.metrics)} metrics (at most {METRICS}), "
            f"state {message.residual} of the residual (0 to 2)"
        )
    if not math.isfinite(message.train_loss):
        raise FormatError("the training loss is NaN or infinite")
    if message.examples > MOST_EXAMPLES:
        raise FormatError(
            f"the payload claims {message.examples} examples, "
            f"where a client has at most {MOST_EXAMPLES}"
        )
    for metric in message.metrics:
        _check_metric(metric)
    # One way to write each codec, so that the same payload has the same bytes.
    text = canonical(message.codec)
    if text != message.codec:
        raise FormatError(
            f"the codec '{message.codec}' is not written as payloads write it: {text}"
        )


def _check_metric(metric: payload_pb2.Payload.Metric) -> None:
    """Raise FormatError for a metric with which a strategy could not calculate."""
    if len(metric.name) > METRIC_CHARACTERS:
        raise FormatError(
            f"a metric's name has {len(metric.name)} characters, "
            f"where {METRIC_CHARACTERS} are allowed"
        )
    # What is not finite is told by `_of_metric`; NaN is above nothing.
    largest = max((abs(number) for number in metric.values), default=0.0)
    if MOST_METRIC < largest < math.inf:
        raise FormatError(
            f"the metric '{metric.name}' is {largest:.3g}, "
            f"where {MOST_METRIC:g} is the largest"
        )


def _to_metric(name: str, value: Metric) -> payload_pb2.Payload.Metric:
    values = value if isinstance(value, list) else [value]
    return payload_pb2.Payload.Metric(
        name=name,
        values=values,
        # Values travel as doubles, so the receiver is told which were whole numbers.
        whole=all(isinstance(number, int) for number in values),
        list=isinstance(value, list),
    )


def _of_metric(metric: payload_pb2.Payload.Metric) -> Metric:
    values: list[int] | list[float] = list(metric.values)
    if not metric.list and len(values) != 1:
        flaw = "finite" if values else "a number"
        raise FormatError(f"the metric '{metric.name}' is not {flaw}")
    if not all(map(math.isfinite, values)):
        raise FormatError(f"the metric '{metric.name}' is not finite")
    if metric.whole:
        values = [int(number) for number in values]
    return values if metric.list else values[0]
