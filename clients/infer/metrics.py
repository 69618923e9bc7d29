"""What the server counts, as Prometheus reads it (text format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

# Upper bounds in seconds: from a small model's run to a client's patience.
LATENCIES_S = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)

# Upper bounds in samples.
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts of values up to each bound, and of those above all."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Begin with no values."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Return how many values were counted."""
        return sum(self.counts)


class Measures:
    """All counters of a server since it started."""

    def __init__(self) -> None:
        """Begin at zero."""
        # (protocol, answer's code) → requests.
        self.requests: Counter[tuple[str, ...]] = Counter()
        # Kind of `Refusal` → how many.
        self.errors: Counter[str] = Counter()
        self.latency_s = Histogram(LATENCIES_S)
        self.batch = Histogram(BATCHES)
        # Connections that were turned away, by why.
        self.refused: Counter[str] = Counter()
        # Where requests were computed, by place, and what went wrong with the other one.
        self.placed: Counter[str] = Counter()
        self.upstream_failures = 0

    def text(self, gauges: Mapping[str, float], version: str) -> str:
        """Return the page; gauges: what is so now, by name."""
        lines = [
            *_counter("requests", ("protocol", "code"), self.requests),
            *_counter("errors", ("kind",), _keyed(self.errors)),
            *_counter("refused_connections", ("reason",), _keyed(self.refused)),
            *_counter("placed", ("place",), _keyed(self.placed)),
            *_histogram("latency_seconds", self.latency_s),
            *_histogram("batch_samples", self.batch),
        ]
        for name, value in gauges.items():
            lines += [f"# TYPE fedlearn_infer_{name} gauge"]
            lines += [f"fedlearn_infer_{name} {value:g}"]
        lines += ["# TYPE fedlearn_infer_version gauge"]
        lines += [f"fedlearn_infer_version{_labels(('version',), (version,))} 1"]
        return "\n".join(lines) + "\n"


def _keyed(counter: Counter[str]) -> dict[tuple[str, ...], int]:
    return {(key,): count for key, count in counter.items()}


def _counter(
    name: str, labels: tuple[str, ...], counts: Mapping[tuple[str, ...], int]
) -> Iterator[str]:
    yield f"# TYPE fedlearn_infer_{name}_total counter"
    for values, count in sorted(counts.items()):
        yield f"fedlearn_infer_{name}_total{_labels(labels, values)} {count}"


def _histogram(name: str, histogram: Histogram) -> Iterator[str]:
    yield f"# TYPE fedlearn_infer_{name} histogram"
    total = 0
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    # Prometheus counts a value in every bucket that it fits in.
    for bound, count in zip(bounds, histogram.counts, strict=True):
        total += count
        yield f'fedlearn_infer_{name}_bucket{{le="{bound}"}} {total}'
    yield f"fedlearn_infer_{name}_sum {histogram.sum:.6f}"
    yield f"fedlearn_infer_{name}_count {total}"


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    pairs = []
    for name, value in zip(names, values, strict=True):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        pairs.append(f'{name}="{escaped}"')
    return f"{{{','.join(pairs)}}}"
