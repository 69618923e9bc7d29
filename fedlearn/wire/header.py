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

# Whole numbers from here on may differ from their doubles; those of an int64 end there.
_EXACT = 1 << 53
_INT64 = 1 << 63

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
    # MetricRecord → its metrics, where a client's reply has others than "metrics" alone.
    records: Mapping[str, Mapping[str, Metric]] = field(default_factory=dict)
    # Names of metrics that came and are no finite numbers: they cost no update.
    unusable: tuple[str, ...] = ()

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
        for record, metrics in {"": self.metrics, **self.records}.items():
            for name, value in metrics.items():
                message.metrics.append(_to_metric(record, name, value))

    @classmethod
    def of(cls, message: payload_pb2.Payload) -> Header:
        """Return what a message says; metrics that are no finite numbers are left out."""
        records: dict[str, dict[str, Metric]] = {"": {}}
        unusable = []
        for metric in message.metrics:
            value = _of_metric(metric)
            if value is None:
                unusable.append(metric.name)
            else:
                records.setdefault(metric.record, {})[metric.name] = value
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
            metrics=records.pop(""),
            records=records,
            unusable=tuple(unusable),
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
    characters = max(len(metric.name), len(metric.record))
    if characters > METRIC_CHARACTERS:
        raise FormatError(
            f"a metric's name has {characters} characters, "
            f"where {METRIC_CHARACTERS} are allowed"
        )
    # What is not finite is left out by `_of_metric`; NaN is above nothing.
    largest = max((abs(number) for number in metric.values), default=0.0)
    if MOST_METRIC < largest < math.inf:
        raise FormatError(
            f"the metric '{metric.name}' is {largest:.3g}, "
            f"where {MOST_METRIC:g} is the largest"
        )


def _to_metric(record: str, name: str, value: Metric) -> payload_pb2.Payload.Metric:
    values = value if isinstance(value, list) else [value]
    # Values travel as doubles, so the receiver is told which were whole numbers.
    whole = all(isinstance(number, int) for number in values)
    metric = payload_pb2.Payload.Metric(
        record=record, name=name, whole=whole, list=isinstance(value, list)
    )
    if whole and any(abs(number) >= _EXACT for number in values):
        # Beyond an int64 they end at its bounds: of a record of Flower's they cannot be.
        inside = [min(max(int(number), -_INT64), _INT64 - 1) for number in values]
        metric.large.extend(inside)
    else:
        metric.values.extend(values)
    return metric


def _of_metric(metric: payload_pb2.Payload.Metric) -> Metric | None:
    """Return a metric's value; None where it is no finite number, nor a list of them."""
    if metric.large:
        numbers = list(metric.large)
        return numbers if metric.list else _single(numbers)
    values: list[int] | list[float] = list(metric.values)
    if not all(map(math.isfinite, values)):
        return None
    if metric.whole:
        values = [int(number) for number in values]
    return values if metric.list else _single(values)


def _single(values: list[int] | list[float]) -> int | float | None:
    return values[0] if len(values) == 1 else None
