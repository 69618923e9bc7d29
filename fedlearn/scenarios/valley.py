"""The valley of the scenario ``soil``: a device asks for its fields while its link dies.

The link's bandwidth is set by what a request takes on the device, so that the story is the
same on any machine: a good link carries a request in an eighth of that time, and a bad one
in five times that time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from fedlearn.clients.infer.upstream import Upstream, UpstreamAddress, UpstreamError
from fedlearn.errors import RunError
from fedlearn.scenarios.radio import Radio
from fedlearn.scenarios.scene import Say

# Versions of the two packages, by which answers tell where they come from.
EDGE = "1"
CENTRE = "2"

# Phases, in their order.
SILENT = "no link yet"
GOOD = "a good link"
FALLING = "it falls"
DEAD = "it is dead"
BACK = "it is back"
PHASES = (SILENT, GOOD, FALLING, DEAD, BACK)

TURN_S = 0.002

# A request takes these shares of the device's own time on a good and on a bad link.
_GOOD = 1 / 8
_BAD = 5.0

# Answers in a row from one place after which a phase has shown what it has to.
_IN_A_ROW = 8
# For them, at most: the device may look for the centre every two seconds only.
_PHASE_S = 40.0

_TIMEOUT_S = 30.0

# Between two requests.
_PAUSE_S = 0.02

IsShown = Callable[[str, float], bool]
"""Tells of a phase and its seconds so far whether it is over."""


@dataclass(frozen=True)
class FieldAnswer:
    """One request. at_s: since the first one. rate: the link's, bits a second.

    version: of the model that answered. rows: which readings (N,). classes: its answer (N,).
    """

    at_s: float
    latency_s: float
    rate: float
    phase: str
    version: str
    rows: NDArray[np.int64]
    classes: NDArray[np.int64]


@dataclass
class Valley:
    """A device's port, the link to the centre, and what it is asked.

    x: readings (N, H, F). rows: of one request. shortest_s: of each phase.
    """

    port: int
    radio: Radio
    x: NDArray[np.float32]
    rows: int
    shortest_s: float
    say: Say
    answers: list[FieldAnswer] = field(default_factory=list)
    _begin_s: float = field(default_factory=time.monotonic)

    async def play(self) -> None:
        """Go through all phases; what is answered is in ``answers``.

        Raises RunError for a request that fails.
        """
        address = UpstreamAddress("127.0.0.1", self.port, is_secure=False)
        device = Upstream(address, "device")
        try:
            await self._ask(device, SILENT, lambda age_s: 0.0, self._has_ten)
            good = self._good_rate()
            self.say(f"a good link: {megabits(good)}, then it falls, and dies")
            await self._ask(device, GOOD, lambda age_s: good, self._is_at(CENTRE))
            worst = good * _GOOD / _BAD
            fall = self._fall(good, worst)
            await self._ask(device, FALLING, fall, self._is_at(EDGE))
            await self._ask(device, DEAD, lambda age_s: 0.0, self._is_at(EDGE))
            self.say("the link is back")
            await self._ask(device, BACK, lambda age_s: good, self._is_at(CENTRE))
        finally:
            device.close()

    def of(self, *phases: str) -> list[FieldAnswer]:
        """Return the answers of some phases."""
        return [answer for answer in self.answers if answer.phase in phases]

    @property
    def edge_s(self) -> float:
        """Return what a request takes on the device: the median while there was no link."""
        # The first ones waited for a centre that they did not know yet.
        return median(answer.latency_s for answer in self.of(SILENT)[2:])

    async def _ask(
        self,
        device: Upstream,
        phase: str,
        rate_after: Callable[[float], float],
        is_shown: IsShown,
    ) -> None:
        """Ask until a phase is shown. rate_after: the link's, after its seconds."""
        begin_s = time.monotonic()
        age_s = 0.0
        while not is_shown(phase, age_s) and age_s < _PHASE_S:
            self.radio.rate = rate_after(age_s)
            self.answers.append(await self._request(device, phase))
            await asyncio.sleep(_PAUSE_S)
            age_s = time.monotonic() - begin_s

    async def _request(self, device: Upstream, phase: str) -> FieldAnswer:
        # Other fields each time, so that every one is judged at both places.
        first = len(self.answers) * self.rows
        rows = np.arange(first, first + self.rows) % len(self.x)
        rate = self.radio.rate
        begin_s = time.monotonic()
        try:
            answer = await device.infer({"input": self.x[rows]}, _TIMEOUT_S)
        except UpstreamError as error:
            raise RunError(
                f"no request should fail; one of '{phase}' did: {error}"
            ) from None
        latency_s = time.monotonic() - begin_s
        at_s = begin_s - self._begin_s
        classes = next(iter(answer.outputs.values())).argmax(axis=1)
        return FieldAnswer(at_s, latency_s, rate, phase, answer.version, rows, classes)

    def _good_rate(self) -> float:
        """Return bits a second, with two digits, that carry a request in an eighth."""
        size_bytes = self.x[: self.rows].nbytes
        return float(f"{8 * size_bytes / (_GOOD * self.edge_s):.2g}")

    def _fall(self, good: float, worst: float) -> Callable[[float], float]:
        def rate(age_s: float) -> float:
            # Evenly by magnitudes, and then it stays bad until the device answers.
            share = min(1.0, age_s / self.shortest_s)
            return float(good * (worst / good) ** share)

        return rate

    def _has_ten(self, phase: str, age_s: float) -> bool:
        return len(self.of(phase)) >= 10

    def _is_at(self, version: str) -> IsShown:
        """Return what tells that a phase has lasted, and that one place answers now."""

        def is_shown(phase: str, age_s: float) -> bool:
            last = self.of(phase)[-_IN_A_ROW:]
            is_there = len(last) == _IN_A_ROW and is_all(last, version)
            return is_there and age_s >= self.shortest_s

        return is_shown


def is_all(answers: Sequence[FieldAnswer], version: str) -> bool:
    """Tell whether all answers are of one model."""
    return all(answer.version == version for answer in answers)


def megabits(rate: float) -> str:
    """Return a bandwidth as text."""
    return f"{rate / 1e6:.3g} Mbit/s"
