"""What one client's answer may weigh, measured against what the others answer.

A client says itself how many examples it has, and how far its model went. One liar of ten
could freeze or ruin a model with either. So each answer is compared with what is usual: the
upper quartile of its cohort, or half of the highest of the five cohorts before. An update
that is many times longer is refused; examples beyond the limit do not count.

The limits depend on whole cohorts alone: arrival, workers and restarts change nothing. An
answer below the limit of the rounds before is added at once. Others are held until the
cohort is complete, in the first round all of them.

Legend: P floats of the model's layout, K cohorts that are remembered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Change, Layout, Sparse
from fedlearn.flower import EXAMPLES, Received
from fedlearn.memory.clients import Saved
from fedlearn.runs import reports
from fedlearn.runs.layers import Site

# Cohorts before this one whose measures count, by a share: late in a run a cohort may
# hardly move, but for one client to whom the model is new.
REMEMBERED = 5
PAST_SHARE = 0.5

# Answers from which on a cohort has an upper quartile that one liar cannot move.
LEAST_COHORT = 4

# Times the usual: of the change of buffers, and of examples whose true number is unknown.
MOST_BUFFERS = 10.0
MOST_EXAMPLES = 10.0

# Without a limit on the norm, what is told is told as with this one.
UNBOUNDED_NORM = 5.0

# Bytes of updates that are held until their cohort is complete.
ROOM_BYTES = 256 << 20

# The share of a limit from which on an answer is told, though it is taken; and of how
# many such answers of one client a person is told.
TOLD_SHARE = 0.5
TOLD_TIMES = 3

# Values whose squares are summed at a time, in float32 and then in float64.
_BLOCK = 1 << 15

# The name in a checkpoint.
_NAME = "usual"

# The measures of an answer, in this order: norms of what is trained and of buffers.
_NORM, _BUFFERS, _EXAMPLES = range(3)

Measures = NDArray[np.float64]
"""(3,): see above."""


@dataclass(frozen=True)
class AnswerLimits:
    """What a config says: see `[strategy]` max_norm and max_examples.

    size: a client's examples as the coordinator knows them; None where it does not.
    exact: whether that is all a client may claim. key: the metric by which the strategy
    weighs, of which a limit on examples says nothing where it is another.
    """

    norm: float
    examples: int
    size: Callable[[int], int] | None
    exact: bool
    key: str = EXAMPLES


@dataclass
class _Held:
    """An answer that waits for its cohort; without its update where there is no room."""

    client: int
    measures: Measures
    received: Received | None


class Bounds:
    """The bounds of one run; part of what its checkpoints remember."""

    def __init__(
        self,
        layout: Layout,
        limits: AnswerLimits,
        note: Callable[[str], None] = lambda text: None,
        remark: Callable[[int, str], None] = lambda client, text: None,
    ) -> None:
        """Take the limits.

        note: called with what a person needs to know; remark: with a client and what is
        worth a line of the log.
        """
        self.layout = layout
        self.limits = limits
        self.note = note
        self.remark = remark
        # (K, 3): the upper quartiles of the cohorts before this round.
        self._past: NDArray[np.float64] = np.empty((0, 3))
        # Of this round's cohort, which counts once its round is over.
        self._newest: NDArray[np.float64] = np.empty((0, 3))
        self._cohort = 0
        self._measures: dict[int, Measures] = {}
        self._held: list[_Held] = []
        # Clients whose claims were noted: once is enough.
        self._noted: set[int] = set()
        # Client → its updates that were taken though they were long.
        self._long: Counter[int] = Counter()

    def begin(self) -> None:
        """Begin a round: the cohort before it counts from now on."""
        self._past = np.concatenate([self._past, self._newest])[-REMEMBERED:]
        self.repeat()

    def repeat(self) -> None:
        """Begin another attempt: the cohort of the last one is void."""
        self._newest = np.empty((0, 3))

    def open(self, cohort: int) -> None:
        """Begin a cohort of so many clients."""
        self._cohort = cohort
        self._measures = {}
        self._held = []

    def capped(self, received: Received) -> Received:
        """Return an update that counts with no more examples than the config allows."""
        limit = self.limits.examples
        if not limit and self.limits.exact and self.limits.size:
            limit = self.limits.size(received.client)
        return self._with_at_most(received, limit) if limit else received

    def take(self, received: Received) -> Received | None:
        """Return an update that may be added at once; None: it is held until `close`."""
        # A part of a sum has no length of its own.
        if received.summed:
            return received
        measures = self._measured(received)
        self._measures[received.client] = measures
        if self._is_free(received.client, measures):
            return received
        self._hold(_Held(received.client, measures, _copied(received)))
        return None

    def close(self) -> Iterator[tuple[int, Received | None, str]]:
        """End the cohort: yield each held client, and its update or why it is refused."""
        if not self._measures:
            return
        newest = self._usual(np.array(list(self._measures.values())))
        self._newest = newest[None]
        usual = np.maximum(self._past_usual(), newest)
        # By number: notes and sums must not depend on who came first.
        refused = set()
        for held in sorted(self._held, key=lambda held: held.client):
            received, reason = self._verdict(held, usual)
            if received is None:
                refused.add(held.client)
            yield held.client, received, reason
        self._held = []
        for client, measures in sorted(self._measures.items()):
            if client not in refused:
                self._tell_long(client, measures, usual)

    def sync(self) -> dict[str, NDArray[Any]]:
        """Return what a checkpoint after this round holds: (K, 3)."""
        return {_NAME: np.concatenate([self._past, self._newest])[-REMEMBERED:]}

    def checkpointed(self) -> None:
        """Do nothing: all of it is in the checkpoint."""

    def recall(self, saved: Saved | None, older: Saved | None = None) -> None:
        """Go back to a checkpoint; one of an earlier version has no cohorts."""
        values: Mapping[str, NDArray[Any]] = saved or {}
        self._past = values.get(_NAME, np.empty((0, 3)))
        self.repeat()

    def _measured(self, received: Received) -> Measures:
        floats = received.difference.floats
        return np.array(
            [
                _norm(_part(floats, self.layout, trained=True)),
                _norm(_part(floats, self.layout, trained=False)),
                received.examples,
            ]
        )

    def _usual(self, measures: NDArray[np.float64]) -> Measures:
        """Return the upper quartile of each measure of a cohort's (C, 3)."""
        ordered = np.sort(measures, axis=0)
        last = len(ordered) - 1
        usual: Measures = ordered[3 * last // 4].copy()
        if len(ordered) < LEAST_COHORT:
            # Too few to tell which of them is odd. Examples are capped all the same.
            usual[:_EXAMPLES] = ordered[last, :_EXAMPLES]
        return usual

    def _past_usual(self) -> Measures:
        """Return what is usual by the cohorts before alone (3,); 0 without any."""
        highest: Measures = self._past.max(axis=0, initial=0.0)
        return PAST_SHARE * highest

    def _most(self, client: int, usual: Measures) -> Measures:
        """Return the limits (3,) of a client's measures; infinite where there is none."""
        factors = np.array([self.limits.norm, MOST_BUFFERS, MOST_EXAMPLES])
        most = factors * usual
        # Where nothing moves nothing is usual.
        most[usual == 0] = np.inf
        if not self.limits.norm:
            most[:_EXAMPLES] = np.inf
        if self.limits.examples or self.limits.exact:
            # Capped already, by a number that is no estimate.
            most[_EXAMPLES] = np.inf
        elif self.limits.size:
            most[_EXAMPLES] = max(most[_EXAMPLES], self.limits.size(client))
        return most

    def _is_free(self, client: int, measures: Measures) -> bool:
        """Tell whether no answer of this cohort can make a measure too large."""
        if len(self._past):
            limits = self._most(client, self._past_usual())
            return bool((measures <= limits).all())
        # Nothing is known yet. A cohort without room is not held: it may be any size.
        return self._cohort > self._places()

    def _places(self) -> int:
        return max(1, ROOM_BYTES // max(1, self.layout.raw_bytes))

    def _hold(self, held: _Held) -> None:
        self._held.append(held)
        complete = [other for other in self._held if other.received]
        if len(complete) > self._places():
            # The longest: it is the least likely to be taken.
            longest = max(
                complete, key=lambda held: (held.measures[_NORM], held.client)
            )
            longest.received = None

    def _verdict(self, held: _Held, usual: Measures) -> tuple[Received | None, str]:
        """Return a held update, or None and why it is refused."""
        limits = self._most(held.client, usual)
        for place, name in ((_NORM, "norm"), (_BUFFERS, "change of buffers")):
            if held.measures[place] > limits[place] or held.received is None:
                return None, (
                    f"the {name} of its update is {held.measures[place]:.3g} where "
                    f"{usual[place]:.3g} is usual; at most {limits[place]:.3g} is taken "
                    "(strategy.max_norm)"
                )
        assert held.received is not None
        if np.isfinite(limits[_EXAMPLES]):
            limit = float(limits[_EXAMPLES])
            if self.limits.key == EXAMPLES:
                # Of those there are whole ones.
                limit = max(1, int(limit))
            return self._with_at_most(held.received, limit), ""
        return held.received, ""

    def _tell_long(self, client: int, measures: Measures, usual: Measures) -> None:
        """Tell of an update that is long, and is taken."""
        limit = TOLD_SHARE * (self.limits.norm or UNBOUNDED_NORM) * usual[_NORM]
        if not usual[_NORM] or measures[_NORM] <= limit:
            return
        self.remark(
            client,
            f"the norm of its update is {measures[_NORM]:.3g}, "
            f"where {usual[_NORM]:.3g} is usual; it is taken",
        )
        self._long[client] += 1
        if self._long[client] == TOLD_TIMES:
            self.note(
                f"client {client}: {TOLD_TIMES} of its updates were far longer than "
                "usual, and were taken; a lower strategy.max_norm refuses them"
            )

    def _with_at_most(self, received: Received, limit: float) -> Received:
        """Return an update that counts with so many examples at most; note a larger claim."""
        claimed = received.examples
        if claimed <= limit:
            return received
        key = self.limits.key
        word = "examples" if key == EXAMPLES else key
        text = f"it claims {claimed} {word} and counts as {limit}"
        self.remark(received.client, text)
        if received.client not in self._noted:
            self._noted.add(received.client)
            self.note(f"client {received.client}: {text} (strategy.max_examples)")
        header = reports.with_weight(received.header, key, limit)
        return replace(received, header=header, weight=limit)


def bounds_of(
    site: Site, note: Callable[[str], None], remark: Callable[[int, str], None]
) -> Bounds:
    """Return the bounds that a run's config asks for; see `Bounds`."""
    section = site.settled.experiment.strategy
    key = reports.weight_key(site.parts.strategy)
    if key != EXAMPLES:
        limits = AnswerLimits(section.max_norm, 0, None, False, key)
        return Bounds(site.parts.layout, limits, note, remark)
    # A ClientApp may learn from any data, and an agent from its owner's.
    size = None
    if site.parts.app is None:
        size = site.parts.population.clients.size
    exact = size is not None and not site.settled.agents
    limits = AnswerLimits(section.max_norm, section.max_examples, size, exact)
    return Bounds(site.parts.layout, limits, note, remark)


def _part(
    floats: NDArray[np.float32] | Sparse, layout: Layout, trained: bool
) -> NDArray[np.float32]:
    """Return the trained ones of an update's floats (P,), or the buffers."""
    if isinstance(layout.trained_at, slice):
        none = np.empty(0, np.float32)
        if not trained:
            return none
        return floats.values if isinstance(floats, Sparse) else floats
    if isinstance(floats, Sparse):
        chosen: NDArray[np.float32] = floats.values[
            layout.is_trained[floats.indices] == trained
        ]
        return chosen
    places = layout.trained_at if trained else layout.buffers_at
    part: NDArray[np.float32] = floats[places]
    return part


def _norm(values: NDArray[np.float32]) -> float:
    """Return the L2 norm of some values."""
    total = 0.0
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        # Infinite for values above 10**19, which are far beyond any limit.
        with np.errstate(over="ignore"):
            total += float(np.dot(block, block))
    return float(np.sqrt(total))


def _copied(received: Received) -> Received:
    """Return an update whose floats do not lie in a payload, which is gone soon."""
    change = received.difference
    floats: NDArray[np.float32] | Sparse
    if isinstance(change.floats, Sparse):
        values = change.floats.values.copy()
        floats = replace(change.floats, values=values)
    else:
        floats = change.floats.copy()
    return replace(received, difference=Change(floats, change.integers))
