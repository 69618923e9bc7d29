"""What coordinator and device say of releases: which is wanted, what is installed, how it does.

Plain values, without a network: `fedlearn.server.rollout` and `fedlearn.clients.installation`
both speak in them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReleaseId:
    """Names one release of a model.

    counter: rises with each release of a name. digest: the SHA-256 of its manifest in hex,
    which stands for every byte of it.
    """

    name: str
    counter: int
    digest: str

    def __str__(self) -> str:
        """Return it as people read it."""
        return f"{self.name} {self.counter} ({self.digest[:8]})"


@dataclass(frozen=True)
class WantedRelease:
    """What a device is to have installed: a desired state, which may come any number of times.

    release: None, no model at all. rollout: the number of the rollout that wants it; what
    failed on a device is tried again for another number alone.
    """

    rollout: int
    release: ReleaseId | None


@dataclass(frozen=True)
class WatchFigures:
    """How a release does on one device since it serves.

    errors: share of the requests. p99_ms: the 99th percentile of a request's time. unsure:
    share of the answers whose highest probability is below the manifest's. drift: population
    stability index of inputs or outputs against the package's histograms, the largest.
    disagreement: share of the answers that the release before labels otherwise, as far as it
    is certain.
    """

    requests: int = 0
    errors: float = 0.0
    p99_ms: float = 0.0
    unsure: float = 0.0
    drift: float = 0.0
    disagreement: float = 0.0


@dataclass(frozen=True)
class WatchLimits:
    """What figures may come to; infinity: anything.

    requests: below so many, figures prove nothing.
    """

    requests: int = 1
    errors: float = float("inf")
    p99_ms: float = float("inf")
    unsure: float = float("inf")
    drift: float = float("inf")
    disagreement: float = float("inf")

    def objection(self, figures: WatchFigures) -> str | None:
        """Return which limit some figures break, None for none."""
        if figures.requests < self.requests:
            return None
        if figures.errors > self.errors:
            return f"{figures.errors:.1%} of requests fail, more than {self.errors:.1%}"
        if figures.p99_ms > self.p99_ms:
            return f"p99 is {figures.p99_ms:.1f} ms, more than {self.p99_ms:.1f}"
        if figures.unsure > self.unsure:
            return f"{figures.unsure:.1%} of answers are unsure, more than {self.unsure:.1%}"
        if figures.drift > self.drift:
            return f"the drift is {figures.drift:.2f}, more than {self.drift:.2f}"
        if figures.disagreement > self.disagreement:
            return (
                f"at least {figures.disagreement:.1%} of answers are others than the release "
                f"before gives, more than {self.disagreement:.1%}"
            )
        return None


@dataclass(frozen=True)
class InstallFailure:
    """Why a device does not run a release that a rollout wants."""

    rollout: int
    release: ReleaseId
    reason: str


@dataclass(frozen=True)
class InstalledReport:
    """What a device has installed, as its record on disk says.

    instance: drawn when the record was begun, so a device whose disk is new is told apart.
    sequence: rises with each change of the record; a lower one is older news. committed: what
    the device runs for good, None: no model. trial: what it runs for now. failure: of the last
    release that it did not keep. target: what it is installing, before it is on trial. stage,
    waiting: what it does, and why it does not, for people alone. figures: of the trial, or of
    the one that ended with the commit.
    """

    instance: str
    sequence: int
    committed: ReleaseId | None
    trial: ReleaseId | None = None
    failure: InstallFailure | None = None
    target: ReleaseId | None = None
    stage: str = "idle"
    waiting: str = ""
    figures: WatchFigures = WatchFigures()
