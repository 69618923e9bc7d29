"""Where a request is computed: T = min(T_trans + T_cloud, T_edge), from what was measured.

The rule is that of Kang et al., "Neurosurgeon: Collaborative Intelligence Between the Cloud
and Mobile Edge", ASPLOS 2017, for whole models. What differs: every term is measured while
requests come, a place is left for a clear gain only, the unused one is measured again from
time to time, and a link that fails is left at once. A request in this device's queue also
pays for those that will wait behind it: Naor, "The Regulation of Queue Size by Levying
Tolls", Econometrica 1969.

Nothing here has a clock or a network: times come in, choices go out, so a replay is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fedlearn.clients.placement.estimating import NEWEST, Link, Smoothed

EDGE = "edge"
CLOUD = "cloud"

# Measurements after which a place is known, and the share of the interval until then.
_SETTLED = 8
_UNSETTLED = 0.1
_MOST_LOOKS = 10

# Times its usual patience after which an answer that is late will not come.
_GIVE_UP = 4.0

# The class of requests that name none.
DEFAULT_KIND = "default"

# An answer from the centre is waited for up to its mean and so many deviations; four is
# TCP's number. The second bound is for links whose spread is nearly nothing.
_SPREADS = 4.0
_LEAST_PATIENCE = 2.0


@dataclass(frozen=True)
class PlaceSettings:
    """How a place is chosen.

    newest: share of the newest measurement. margin: share that another place must be
    faster by. probe_s: seconds after which an unused place is measured again, and up to
    ``far`` times as much where it is that many times slower. retry_s, longest_retry_s: after
    a failure, and between them ``retry_share`` of the time that the link has been down.
    returns: measurements in a row that a failed link needs. patience_s: how long an answer
    is waited for at least, before this device computes it, too. give_up_s: how long it may
    be late at least, as a machine may be busy for a moment. unknown_s: how long the first
    answer from the centre is waited for. rate_s: time over which arrivals in this device's
    queue are counted. toll: share of what they will wait for a request that is counted as
    its own time.
    """

    newest: float = NEWEST
    margin: float = 0.02
    probe_s: float = 0.25
    far: float = 8.0
    retry_s: float = 0.25
    longest_retry_s: float = 2.0
    retry_share: float = 0.05
    rate_s: float = 1.0
    toll: float = 0.6
    returns: int = 3
    patience_s: float = 0.01
    give_up_s: float = 0.12
    unknown_s: float = 1.0


# What a simple program would do: the last value of each place decides.
LAST_VALUE = PlaceSettings(newest=1.0, margin=0.0, returns=1, toll=0.0)


@dataclass(frozen=True)
class Choice:
    """Where a request goes. timeout_s: after which the edge computes it, too.

    The first answer counts. give_up_s: after which the centre's will not come.
    probe: a place that computes it too, only to be measured; "": none. edge_s, cloud_s:
    what was expected of each; infinite: nothing is known, or the link is down.
    """

    place: str
    timeout_s: float = math.inf
    give_up_s: float = math.inf
    probe: str = ""
    edge_s: float = math.inf
    cloud_s: float = math.inf


@dataclass
class _Kind:
    """What is known of a class of requests; times of measurements are of `choose`'s clock.

    cloud: all that is computed there, with its waiting. whole: from the request to the
    answer, which the patience is made of.
    """

    edge: Smoothed
    cloud: Smoothed
    whole: Smoothed
    place: str = EDGE
    edge_at_s: float = -math.inf
    cloud_at_s: float = -math.inf
    # Times that the unused place was measured since it was left.
    looks: int = 0
    since_s: float = -math.inf

    def leave(self, place: str, now_s: float, long_s: float) -> None:
        """Use another place; the one that is left is measured soon if it was used for long.

        Where a queue decides, places change with every few requests, and none was slow.
        """
        if now_s - self.since_s >= long_s:
            self.looks = 0
        self.place = place
        self.since_s = now_s


@dataclass
class Placer:
    """Chooses between this device and one centre, for each class of requests."""

    settings: PlaceSettings = field(default_factory=PlaceSettings)
    link: Link = field(init=False)
    # Until then the link is not tried; 0: it is up.
    down_until_s: float = 0.0
    _down_since_s: float = 0.0
    _successes: int = 0
    # An answer is late: nothing more goes there until it comes, or does not.
    _is_suspect: bool = False
    # A measurement of a link that is down is on its way.
    _is_probing: bool = False
    _kinds: dict[str, _Kind] = field(default_factory=dict)
    # Requests a second that came into this device's queue, and when that was counted.
    _rate: float = 0.0
    _rate_at_s: float = 0.0

    def __post_init__(self) -> None:
        """Begin without measurements: at the edge."""
        self.link = Link(self.settings.newest)

    @property
    def is_down(self) -> bool:
        """Tell whether the link has failed and has not proven itself since."""
        return self._is_suspect or self.down_until_s > 0

    def choose(
        self, kind: str, size_bytes: int, now_s: float, edge_wait_s: float = 0.0
    ) -> Choice:
        """Return where a request of a class goes.

        size_bytes: what it would carry to the centre. edge_wait_s: what waits here before
        it, which this device knows.
        """
        estimate = self._of(kind)
        edge_s = math.inf
        toll_s = 0.0
        if estimate.edge.count:
            edge_s = edge_wait_s + estimate.edge.mean
            toll_s = self._toll_s(estimate.edge.mean, edge_s, now_s)
        if self.is_down:
            self._rate += 1 / self.settings.rate_s
            return self._while_down(estimate, edge_s, now_s)
        cloud_s = self.cloud_s(kind, size_bytes)
        place = self._better(estimate.place, edge_s + toll_s, cloud_s)
        if place != estimate.place:
            estimate.leave(place, now_s, self.settings.probe_s)
        probe = self._due(estimate, edge_s, cloud_s, now_s)
        if estimate.place == EDGE:
            self._rate += 1 / self.settings.rate_s
        waits_s = self._waits_s(estimate)
        ends_s = self._ends_s(waits_s)
        return Choice(estimate.place, waits_s, ends_s, probe, edge_s, cloud_s)

    def patience_s(self, kind: str) -> float:
        """Return how long the centre is waited for where only its answer is good enough."""
        return self.ends_s(kind) / _GIVE_UP

    def ends_s(self, kind: str) -> float:
        """Return `Choice.give_up_s` for a class."""
        return self._ends_s(self._waits_s(self._of(kind)))

    def cloud_s(self, kind: str, size_bytes: int) -> float:
        """Return how long the centre is expected to take; infinite: nothing is known."""
        estimate = self._of(kind)
        if not estimate.cloud.count:
            return math.inf
        return self.link.transfer_s(size_bytes) + estimate.cloud.mean

    @property
    def usual_s(self) -> float:
        """Return how long answers from the centre take, of the slowest class; 0: unknown."""
        return max(
            (estimate.whole.mean for estimate in self._kinds.values()), default=0.0
        )

    def is_stale(self, kind: str, now_s: float) -> bool:
        """Tell whether the centre was not measured for a while, or never, for a class."""
        return now_s - self._of(kind).cloud_at_s >= self.settings.probe_s

    def renewed(self, kind: str, now_s: float) -> None:
        """Take that a request is on its way which will measure the centre."""
        self._of(kind).cloud_at_s = now_s

    def tries_again(self, now_s: float) -> bool:
        """Tell whether a link that is down is to be measured now; its outcome must be told."""
        # After a success the next probes need not wait, or the return would be slow.
        is_due = now_s >= self.down_until_s or self._successes > 0
        if self._is_suspect or self._is_probing or not is_due:
            return False
        self._is_probing = True
        return True

    def edge_done(self, kind: str, service_s: float, now_s: float) -> None:
        """Take how long this device computed a request, without its waiting."""
        estimate = self._of(kind)
        estimate.edge.add(service_s)
        estimate.edge_at_s = now_s

    def cloud_done(
        self,
        kind: str,
        size_bytes: int,
        duration_s: float,
        service_s: float,
        now_s: float,
    ) -> None:
        """Take an answer from the centre; service_s: of it, what the centre says it computed.

        A centre that does not say it (0) has all its time counted as the way's.
        """
        estimate = self._of(kind)
        within_s = min(service_s, duration_s)
        estimate.cloud.add(within_s)
        estimate.whole.add(duration_s)
        estimate.cloud_at_s = now_s
        self.link.carried(size_bytes, duration_s - within_s)
        self._succeeded()

    def probed(self, duration_s: float) -> None:
        """Take how long the centre took to say that it lives, which carries nearly nothing."""
        self.link.probed(duration_s)
        self._succeeded()

    def cloud_late(self) -> None:
        """Ask the centre no more while an answer is late, up to `Choice.give_up_s`."""
        if not self.is_down:
            self._is_suspect = True

    def cloud_failed(self, now_s: float) -> None:
        """Leave the centre at once: it did not answer, not in time, or refused."""
        self._is_suspect = False
        # Several requests that were on their way together fail once.
        if self.is_down and not self._is_probing:
            return
        if self.down_until_s == 0:
            self._down_since_s = now_s
        self._successes = 0
        self._is_probing = False
        retry_s = self.settings.retry_share * (now_s - self._down_since_s)
        retry_s = max(retry_s, self.settings.retry_s)
        self.down_until_s = now_s + min(retry_s, self.settings.longest_retry_s)
        self.link.reset()
        for estimate in self._kinds.values():
            estimate.place = EDGE
            estimate.cloud = Smoothed(self.settings.newest)

    def _of(self, kind: str) -> _Kind:
        if kind not in self._kinds:
            newest = self.settings.newest
            self._kinds[kind] = _Kind(
                Smoothed(newest), Smoothed(newest), Smoothed(newest)
            )
        return self._kinds[kind]

    def _toll_s(self, service_s: float, busy_s: float, now_s: float) -> float:
        """Return the seconds that requests behind one more would wait for it.

        busy_s: until the queue is empty; each that comes before waits ``service_s`` longer.
        """
        passed_s = now_s - self._rate_at_s
        self._rate *= math.exp(-passed_s / self.settings.rate_s)
        self._rate_at_s = now_s
        return self.settings.toll * service_s * self._rate * busy_s

    def _succeeded(self) -> None:
        """Count a measurement of the link, which may prove that it is back."""
        self._is_probing = False
        # A late answer proves that the link is alive.
        self._is_suspect = False
        if not self.is_down:
            return
        self._successes += 1
        if self._successes >= self.settings.returns:
            self.down_until_s = 0.0

    def _while_down(self, estimate: _Kind, edge_s: float, now_s: float) -> Choice:
        """Return the edge, with a probe of the centre where one is due."""
        probe = CLOUD if self.tries_again(now_s) else ""
        waits_s = self._waits_s(estimate)
        return Choice(EDGE, waits_s, self._ends_s(waits_s), probe, edge_s)

    def _better(self, current: str, edge_s: float, cloud_s: float) -> str:
        """Return the place of the shorter time, and the current one where it is close."""
        factor = 1.0 - self.settings.margin
        if current == EDGE and cloud_s < factor * edge_s:
            # An edge that was never measured is measured first.
            return CLOUD if math.isfinite(edge_s) else EDGE
        if current == CLOUD and edge_s < factor * cloud_s:
            return EDGE
        return current

    def _due(self, estimate: _Kind, edge_s: float, cloud_s: float, now_s: float) -> str:
        """Return the unused place if it is to be measured again, or "".

        The slower it is, the longer its way to be the faster one, and the rarer the probe.
        It may have been slow for a moment only: at first it is measured soon, then rarer.
        """
        if estimate.place == EDGE:
            unused = CLOUD
            at_s = estimate.cloud_at_s
            count = estimate.cloud.count
            ratio = cloud_s / edge_s if math.isfinite(cloud_s) else 1.0
        else:
            unused = EDGE
            at_s = estimate.edge_at_s
            count = estimate.edge.count
            ratio = edge_s / cloud_s
        interval_s = self.settings.probe_s * min(max(1.0, ratio), self.settings.far)
        soon_s = (
            _UNSETTLED * self.settings.probe_s * 2.0 ** min(estimate.looks, _MOST_LOOKS)
        )
        interval_s = min(interval_s, soon_s)
        # A few values, of which the first ones are often slow, say little of a place.
        if count < _SETTLED:
            interval_s = _UNSETTLED * self.settings.probe_s
        if now_s - at_s < interval_s:
            return ""
        estimate.looks += 1
        # Until it has ended no other one begins.
        if unused == CLOUD:
            estimate.cloud_at_s = now_s
        else:
            estimate.edge_at_s = now_s
        return unused

    def _waits_s(self, estimate: _Kind) -> float:
        """Return how long an answer from the centre is waited for."""
        if not estimate.whole.count:
            return self.settings.unknown_s
        return max(
            estimate.whole.beyond(_SPREADS),
            _LEAST_PATIENCE * estimate.whole.mean,
            self.settings.patience_s,
        )

    def _ends_s(self, waits_s: float) -> float:
        """Return after which time an answer will not come."""
        return max(_GIVE_UP * waits_s, self.settings.give_up_s)
