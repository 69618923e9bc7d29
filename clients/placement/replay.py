"""A trace replayed request by request: what a way of choosing would have cost.

A choice knows only what had been measured when it was made. The device has one queue: what
waits in it makes a later request wait.

Legend: N requests.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlearn.clients.placement.place import (
    CLOUD,
    DEFAULT_KIND,
    EDGE,
    LAST_VALUE,
    Choice,
    Placer,
)
from fedlearn.clients.placement.traces import Floats, Trace


class Chooser(Protocol):
    """What `replay` asks: a `Placer`, or a baseline."""

    def choose(
        self, kind: str, size_bytes: int, now_s: float, edge_wait_s: float = 0.0
    ) -> Choice:
        """Return where a request goes."""

    def edge_done(self, kind: str, service_s: float, now_s: float) -> None:
        """Take a measurement of this device."""

    def cloud_done(
        self,
        kind: str,
        size_bytes: int,
        duration_s: float,
        service_s: float,
        now_s: float,
    ) -> None:
        """Take a measurement of the centre."""

    def cloud_late(self) -> None:
        """Take that an answer is late."""

    def cloud_failed(self, now_s: float) -> None:
        """Take that the centre did not answer."""


@dataclass
class Always:
    """The baseline that uses one place, whatever it measures. timeout_s: for the centre."""

    place: str
    timeout_s: float = 1.0

    def choose(
        self, kind: str, size_bytes: int, now_s: float, edge_wait_s: float = 0.0
    ) -> Choice:
        """Return the place."""
        return Choice(self.place, self.timeout_s, self.timeout_s)

    def edge_done(self, kind: str, service_s: float, now_s: float) -> None:
        """Learn nothing."""

    def cloud_done(
        self,
        kind: str,
        size_bytes: int,
        duration_s: float,
        service_s: float,
        now_s: float,
    ) -> None:
        """Learn nothing."""

    def cloud_late(self) -> None:
        """Learn nothing."""

    def cloud_failed(self, now_s: float) -> None:
        """Learn nothing."""


@dataclass(frozen=True)
class Replayed:
    """What a replay came to.

    latency_s: (N,), from a request to its answer. cloud: (N,), whether the centre was
    chosen. probes: requests that were computed at the other place too. failures: requests
    that the centre did not answer at all, probes among them.
    """

    latency_s: Floats
    cloud: NDArray[np.bool_]
    probes: int
    failures: int

    @property
    def total_s(self) -> float:
        """Return the sum of all latencies."""
        return float(self.latency_s.sum())


class _Replay:
    """One replay: events in the order of their time, and the device's queue."""

    def __init__(self, trace: Trace, chooser: Chooser) -> None:
        self.trace = trace
        self.chooser = chooser
        self.latency_s = np.zeros(len(trace))
        self.cloud = np.zeros(len(trace), bool)
        self.probes = 0
        self.failures = 0
        self._whole_s = trace.whole_cloud_s
        self._free_at_s = 0.0
        self._count = 0
        self._events: list[tuple[float, int, Callable[[float], None]]] = []

    def run(self) -> Replayed:
        """Let all requests come."""
        for number, at_s in enumerate(self.trace.at_s.tolist()):
            self._pass(at_s)
            self._arrive(number, at_s)
        self._pass(math.inf)
        return Replayed(self.latency_s, self.cloud, self.probes, self.failures)

    def _pass(self, until_s: float) -> None:
        while self._events and self._events[0][0] <= until_s:
            at_s, _, event = heapq.heappop(self._events)
            event(at_s)

    def _later(self, at_s: float, event: Callable[[float], None]) -> None:
        # The count keeps events of one time in their order.
        self._count += 1
        heapq.heappush(self._events, (at_s, self._count, event))

    def _arrive(self, number: int, now_s: float) -> None:
        size_bytes = int(self.trace.size_bytes[number])
        wait_s = max(0.0, self._free_at_s - now_s)
        choice = self.chooser.choose(DEFAULT_KIND, size_bytes, now_s, wait_s)
        self.probes += choice.probe != ""
        if choice.place == CLOUD:
            self.cloud[number] = True
            self._ask_centre(number, now_s, choice, is_probe=False)
        else:
            self._compute(number, now_s, is_probe=False)
        if choice.probe == CLOUD:
            self._ask_centre(number, now_s, choice, is_probe=True)
        elif choice.probe == EDGE:
            self._compute(number, now_s, is_probe=True)

    def _compute(self, number: int, now_s: float, is_probe: bool) -> None:
        """Queue a request on the device."""
        service_s = float(self.trace.edge_s[number])
        self._free_at_s = max(now_s, self._free_at_s) + service_s
        if not is_probe:
            self.latency_s[number] = self._free_at_s - self.trace.at_s[number]
        end = partial(self.chooser.edge_done, DEFAULT_KIND, service_s)
        self._later(self._free_at_s, end)

    def _ask_centre(
        self, number: int, now_s: float, choice: Choice, is_probe: bool
    ) -> None:
        duration_s = float(self._whole_s[number])
        if duration_s > choice.timeout_s:
            late = partial(self._late, number, is_probe)
            self._later(now_s + choice.timeout_s, late)
        elif not is_probe:
            self.latency_s[number] = duration_s
        if duration_s > choice.give_up_s:
            self._later(now_s + choice.give_up_s, self._fail)
            return
        end = partial(
            self.chooser.cloud_done,
            DEFAULT_KIND,
            int(self.trace.size_bytes[number]),
            duration_s,
            float(self.trace.cloud_s[number]),
        )
        self._later(now_s + duration_s, end)

    def _late(self, number: int, is_probe: bool, now_s: float) -> None:
        """Wait no more for the centre: the device computes it now, unless it was a probe."""
        self.chooser.cloud_late()
        if not is_probe:
            self._compute(number, now_s, is_probe=False)
            # The first answer counts, and the centre's may still be that.
            there_s = float(self._whole_s[number])
            self.latency_s[number] = min(self.latency_s[number], there_s)

    def _fail(self, now_s: float) -> None:
        self.failures += 1
        self.chooser.cloud_failed(now_s)


def replay(trace: Trace, chooser: Chooser) -> Replayed:
    """Return what a trace costs by a way of choosing."""
    return _Replay(trace, chooser).run()


def choosers() -> dict[str, Chooser]:
    """Return the placer and its baselines, each without a measurement yet."""
    return {
        "placed": Placer(),
        "last value": Placer(LAST_VALUE),
        "always edge": Always(EDGE),
        "always centre": Always(CLOUD),
    }
