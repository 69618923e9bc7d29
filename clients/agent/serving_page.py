"""The page of figures of what serves (Prometheus' text), as the agent reads it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedlearn.exchange.releases import WatchFigures

# A line of the text: name, labels, value.
_SAMPLE = re.compile(r"^fedlearn_infer_(\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

# Codes of answers that are the server's fault, besides those of HTTP from 500 on.
_FAULTS = {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}

# Standard deviations within which 99.9 % of a normal distribution lie, on one side.
_CERTAIN = 3.09


@dataclass(frozen=True)
class ServingPage:
    """What the page of figures says since the process began.

    requests, failed: answers, and those that are the server's fault. buckets: upper bound of
    a latency in seconds → answers below. gauges: all else, by name; those of answers are of
    the version alone.
    """

    version: str
    requests: int
    failed: int
    buckets: Mapping[float, int]
    gauges: Mapping[str, float] = field(default_factory=dict)

    def since(self, before: ServingPage) -> WatchFigures:
        """Return the figures since an earlier page of the same process."""
        requests = self.requests - before.requests
        if requests <= 0:
            return WatchFigures()
        errors = (self.failed - before.failed) / requests
        counts = {
            bound: count - before.buckets.get(bound, 0)
            for bound, count in self.buckets.items()
        }
        return WatchFigures(
            requests=requests,
            errors=errors,
            p99_ms=1000 * _percentile(counts, 0.99),
            unsure=self._share("unsure_answers", "observed_answers"),
            drift=max(self._drifts(), default=0.0),
            disagreement=self._share("disagreeing_answers", "compared_answers"),
        )

    def _share(self, part: str, total: str) -> float:
        return certain_share(self.gauges.get(part, 0.0), self.gauges.get(total, 0.0))

    def _drifts(self) -> list[float]:
        return [
            value for name, value in self.gauges.items() if name.startswith("drift_")
        ]


def page_of(text: str) -> ServingPage:
    """Return what a page says. Raises ValueError, KeyError."""
    version = ""
    requests = 0
    failed = 0
    buckets = {}
    gauges = {}
    for name, label_text, value in _SAMPLE.findall(text):
        labels = dict(_LABEL.findall(label_text))
        if name == "version":
            version = labels["version"]
        elif name == "requests_total":
            count = int(float(value))
            requests += count
            failed += count if _is_fault(labels["code"]) else 0
        elif name == "latency_seconds_bucket":
            buckets[float(labels["le"])] = int(float(value))
        elif not labels:
            gauges[name] = float(value)
    return ServingPage(version, requests, failed, buckets, gauges)


def certain_share(part: float, total: float) -> float:
    """Return what a share is at least, with a certainty of 99.9 %; 0 for none of none.

    The lower bound of Wilson ("Probable Inference, the Law of Succession, and Statistical
    Inference", JASA 1927). So a few answers of bad luck end no trial, and many bad ones do.
    """
    if total <= 0:
        return 0.0
    share = min(1.0, part / total)
    weight = _CERTAIN**2 / total
    spread = _CERTAIN * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return max(0.0, (share + weight / 2 - spread) / (1 + weight))


def _percentile(counts: Mapping[float, int], share: float) -> float:
    """Return the upper bound below which a share of all lies; counts: cumulative."""
    total = max(counts.values(), default=0)
    finite = [bound for bound in counts if bound != float("inf")]
    for bound in sorted(finite):
        if counts[bound] >= share * total:
            return bound
    # Slower than all that is told apart.
    return 10 * max(finite, default=0.0)


def _is_fault(code: str) -> bool:
    return code in _FAULTS or (code.isdecimal() and int(code) >= 500)
