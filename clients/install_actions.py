"""What `fedlearn.clients.installation` asks of the agent, as values.

Work ends with `Installation.worked`, unless it says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlearn.clients.installed import InstallRecord, Slot
from fedlearn.exchange.releases import InstalledReport, ReleaseId


@dataclass(frozen=True)
class FetchRelease:
    """Bring a release's files here, from where the last try ended."""

    release: ReleaseId


@dataclass(frozen=True)
class VerifyRelease:
    """Check hashes, signature, expiry, target, the owner's names, and the counter."""

    release: ReleaseId
    floor: int


@dataclass(frozen=True)
class StageRelease:
    """Write the release to a slot, and read back what the disk holds."""

    release: ReleaseId
    slot: Slot


@dataclass(frozen=True)
class TryRelease:
    """Run the golden inputs on this board, within memory and latency; then `tried`."""

    release: ReleaseId
    slot: Slot


@dataclass(frozen=True)
class InspectSlot:
    """Hash what a slot holds."""

    release: ReleaseId
    slot: Slot


@dataclass(frozen=True)
class DropWork:
    """Stop what is done for a release; what came of its files may stay."""

    release: ReleaseId


@dataclass(frozen=True)
class WriteRecord:
    """Replace the record on disk; then `written`, or `unwritten`."""

    record: InstallRecord


@dataclass(frozen=True)
class ServeSlot:
    """Have a slot served, and nothing else; then `serving`.

    It may be what is served already, or what just ended; None: no model.
    """

    slot: Slot | None
    release: ReleaseId | None


@dataclass(frozen=True)
class TellInstalled:
    """Tell the coordinator, where there is one."""

    report: InstalledReport


InstallAction = (
    FetchRelease
    | VerifyRelease
    | StageRelease
    | TryRelease
    | InspectSlot
    | DropWork
    | WriteRecord
    | ServeSlot
    | TellInstalled
)
