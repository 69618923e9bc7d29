"""Releases in frames: plain values to protobuf and back, with everything checked on the way in.

What comes from the other end is a stranger's: it is refused as a whole where a part is wrong.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from fedlearn.exchange import FRAME_BYTES
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.releases import (
    InstalledReport,
    InstallFailure,
    ReleaseId,
    WantedRelease,
    WatchFigures,
)
from fedlearn.text import shortened

# The kind of a key that names a file of a release.
RELEASE_KIND = "release"

# Kind and turn of the key that names what is offered: its manifest and signatures.
OFFER_KIND = "offer"
OFFER_PLACE = 0

# Of an offer as it travels, and unpacked: no more than a frame could carry.
PACKED_BYTES = 1 << 20
_OFFER_BYTES = FRAME_BYTES

# Characters of names and of reasons.
NAME_LENGTH = 64
REASON_LENGTH = 500

_DIGEST_BYTES = 32
_LARGEST = 1e18


@dataclass(frozen=True)
class Offer:
    """What a coordinator says of a wanted release: its manifest, and who signed it.

    Without a manifest: it is still to be fetched.
    """

    wanted: WantedRelease
    manifest: bytes = b""
    signatures: tuple[bytes, ...] = ()


class WrongFrame(ValueError):
    """A frame of a release has a value that none can have."""


def wanted_frame(offer: Offer) -> pb.CoordinatorFrame:
    """Return the frame that says what a device is to have."""
    message = pb.Wanted(
        rollout=offer.wanted.rollout,
        release=_release(offer.wanted.release),
        manifest=offer.manifest,
        signatures=offer.signatures,
    )
    return pb.CoordinatorFrame(wanted=message)


def offer_of(message: pb.Wanted) -> Offer:
    """Return what a frame wants. Raises WrongFrame."""
    release = _release_of(message, "release")
    wish = WantedRelease(message.rollout, release)
    return Offer(wish, message.manifest, tuple(message.signatures))


def packed_offer(offer: Offer) -> bytes:
    """Return an offer's manifest and signatures as they are fetched."""
    message = pb.Offered(manifest=offer.manifest, signatures=offer.signatures)
    return zlib.compress(message.SerializeToString(), zlib.Z_BEST_COMPRESSION)


def unpacked_offer(wanted: WantedRelease, data: bytes) -> Offer:
    """Return the offer in bytes that were fetched. Raises WrongFrame."""
    inflating = zlib.decompressobj()
    try:
        text = inflating.decompress(data, _OFFER_BYTES)
        message = pb.Offered.FromString(text)
    except (zlib.error, DecodeError):
        raise WrongFrame("what was fetched is no offer") from None
    if not inflating.eof or not message.manifest:
        raise WrongFrame("what was fetched is no whole offer")
    return Offer(wanted, message.manifest, tuple(message.signatures))


def installed_frame(report: InstalledReport) -> pb.AgentFrame:
    """Return the frame of a report."""
    failure = report.failure
    figures = report.figures
    message = pb.Installed(
        instance=report.instance,
        sequence=report.sequence,
        committed=_release(report.committed),
        trial=_release(report.trial),
        target=_release(report.target),
        failed=None if failure is None else _release(failure.release),
        failed_rollout=0 if failure is None else failure.rollout,
        reason="" if failure is None else shortened(failure.reason, REASON_LENGTH),
        stage=report.stage,
        waiting=shortened(report.waiting, REASON_LENGTH),
        figures=pb.Figures(
            requests=figures.requests,
            errors=figures.errors,
            p99_ms=figures.p99_ms,
            unsure=figures.unsure,
            drift=figures.drift,
            disagreement=figures.disagreement,
        ),
    )
    return pb.AgentFrame(installed=message)


def report_of(message: pb.Installed) -> InstalledReport:
    """Return the report of a frame. Raises WrongFrame."""
    failed = _release_of(message, "failed")
    failure = None
    if failed is not None:
        reason = _text(message.reason, REASON_LENGTH)
        failure = InstallFailure(message.failed_rollout, failed, reason)
    return InstalledReport(
        instance=_text(message.instance, NAME_LENGTH),
        sequence=message.sequence,
        committed=_release_of(message, "committed"),
        trial=_release_of(message, "trial"),
        failure=failure,
        target=_release_of(message, "target"),
        stage=_text(message.stage, NAME_LENGTH),
        waiting=_text(message.waiting, REASON_LENGTH),
        figures=_figures_of(message.figures),
    )


def _release(release: ReleaseId | None) -> pb.Release | None:
    if release is None:
        return None
    digest = bytes.fromhex(release.digest)
    return pb.Release(name=release.name, counter=release.counter, digest=digest)


def _release_of(message: pb.Wanted | pb.Installed, field: str) -> ReleaseId | None:
    """Return the release in a field, None where it is absent."""
    if not message.HasField(field):
        return None
    release: pb.Release = getattr(message, field)
    name = _text(release.name, NAME_LENGTH)
    # SQLite and JSON carry whole numbers up to here.
    if not name or len(release.digest) != _DIGEST_BYTES or release.counter >= 1 << 53:
        raise WrongFrame(f"'{field}' names no release")
    return ReleaseId(name, release.counter, release.digest.hex())


def _figures_of(message: pb.Figures) -> WatchFigures:
    numbers = (
        *(message.errors, message.p99_ms, message.unsure, message.drift),
        message.disagreement,
    )
    for number in numbers:
        if not math.isfinite(number) or not 0 <= number <= _LARGEST:
            raise WrongFrame("a figure is no number that a figure can have")
    if message.requests >= 1 << 53:
        raise WrongFrame("the requests are more than a device can have answered")
    return WatchFigures(message.requests, *numbers)


def _text(text: str, most: int) -> str:
    if len(text) > most:
        raise WrongFrame(f"a text has {len(text)} characters, more than {most}")
    return text
